/**
 * Sessions of people on the workstation (updates.ts) that differ: each boots, logs in and does some of a list of things. What each read of the
 * system disk is recorded by blockd and counted by block. Kept under build/, and recorded again when the workstation or the sessions have changed.
 */
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { decodeRequestRecording, COMMAND, type RequestRecordingFile } from '@collective/transceiver';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { BUILD } from '../../support/paths.js';
import { APPLIANCE, publish, type ApplianceImages } from '../boot/appliance.js';
import { groundReads } from '../trace-player/first-touches.js';
import { OurPath } from '../trace-player/our-path.js';
import { readPublishedVersion, type PublishedVersion } from '../trace-player/published-disks.js';
import { nodesOn } from '../trace-player/runs.js';
import { FigureGuest } from './figure-guest.js';
import type { Accesses } from './popularity.js';
import { versionSize } from './repository-size.js';
import { workstation } from './updates.js';

const SYSTEM = 'system';

const DOINGS = {
  look: 'ls -lR /etc >/run/out; ps aux >>/run/out; df -h >>/run/out; ip address >>/run/out',
  services: 'systemctl list-units >/run/out; journalctl -b >>/run/out; systemctl status ssh cron >>/run/out; true',
  packages: 'dpkg -l >/run/out; apt-cache policy git >>/run/out; dpkg -L perl-base | head -200 >>/run/out',
  git: 'cd /home && git init -q r && cd r && cp /usr/local/src/zstd.c . && git add . && git -c user.name=A -c user.email=a@example.org commit -q -m one && git log --stat >/run/out',
  vim: "cp /etc/services /run/s && vim -es -u /usr/share/vim/vim90/defaults.vim -c '%s/tcp/TCP/g' -c 'sort' -c 'wq' /run/s",
  sqlite:
    "sqlite3 /home/a.db 'CREATE TABLE t (a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, hex(randomblob(8)) FROM n; CREATE INDEX i ON t(b); SELECT count(*), max(b) > min(b) FROM t;'",
  perl: `perl -MPOSIX -MData::Dumper -MFile::Find -MGetopt::Long -MText::Wrap -e 'print Dumper([POSIX::uname()])' >/run/out`,
  python: `python3 -c 'import os, re, collections, sys, stat; print(collections.Counter(re.findall("[a-z]+", open("/etc/services").read())).most_common(3))'`,
  c: `printf '#include <stdio.h>\\n#include <stdlib.h>\\n#include <string.h>\\nint main(void){puts("hello");return 0;}\\n' >/run/h.c && gcc -O1 -Wall -o /run/h /run/h.c && /run/h`,
  cpp: `printf '#include <iostream>\\n#include <vector>\\n#include <string>\\nint main(){std::vector<std::string> v{"hello"};std::cout<<v[0];}\\n' >/run/h.cc && g++ -o /run/hh /run/h.cc && /run/hh`,
  make: `mkdir -p /run/m && cd /run/m && printf 'all: a\\na: a.c\\n\\t$(CC) -o a a.c\\n' >Makefile && printf 'int main(void){return 0;}\\n' >a.c && make`,
  patch: 'cd /run && cp /etc/passwd p && sed s/root/ROOT/ p >q && (diff -u p q >d; patch p d)',
  search: 'grep -rl size_t /usr/include | wc -l; find /usr/bin -type f | wc -l',
} as const;
type Doing = keyof typeof DOINGS;

type Person = { readonly name: string; readonly doings: readonly Doing[] };
const PEOPLE: readonly Person[] = [
  { name: 'administrator', doings: ['look', 'services', 'packages'] },
  { name: 'writer', doings: ['vim', 'git', 'look'] },
  { name: 'C programmer', doings: ['git', 'c', 'make'] },
  { name: 'C++ programmer', doings: ['vim', 'cpp', 'make', 'git'] },
  { name: 'analyst', doings: ['sqlite', 'python', 'perl'] },
  { name: 'reviewer', doings: ['git', 'patch', 'search'] },
];
const QUICK_PEOPLE = 2;

export type RecordedSession = {
  readonly name: string;
  /** What its reads asked for of the system disk, bytes, zeroes and its own writes included. */
  readonly readBytes: number;
  /** Of blocks that travel. */
  readonly accesses: Accesses;
};

export type RecordedSessions = {
  readonly blockBytes: number;
  /** Of the version's blocks that are not zero. */
  readonly accessibleBytes: number;
  readonly sessions: readonly RecordedSession[];
};

export const recordedSessions = async (options: {
  readonly quick: boolean;
  readonly log: (line: string) => void;
}): Promise<RecordedSessions> => {
  const { quick, log } = options;
  const images = await workstation(log);
  const people = quick ? PEOPLE.slice(0, QUICK_PEOPLE) : PEOPLE;
  const { size, mtimeMs } = await stat(images.system);
  const stampOf = ({ doings }: Person): string =>
    JSON.stringify({ size, mtimeMs, scripts: doings.map((doing) => DOINGS[doing]) });
  const file = path.join(BUILD, 'bench', 'figures', 'sessions.json');
  const kept = await readKept(file);
  const keptOf = (person: Person): KeptSession | undefined =>
    kept?.sessions.find(({ name, stamp }) => name === person.name && stamp === stampOf(person));
  const there = people.flatMap((person) => keptOf(person) ?? []);
  if (kept !== undefined && there.length === people.length) return decoded({ ...kept, sessions: there });
  const folder = await mkdtemp(path.join(os.tmpdir(), 'sessions-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    await publish(repository, images);
    const version = await readPublishedVersion(repository.folder, APPLIANCE);
    await using ours = await OurPath.start(version, repository.port);
    await mkdir(path.dirname(file), { recursive: true });
    let result: Kept = {
      blockBytes: systemOf(version).blockBytes,
      accessibleBytes: versionSize({ ...version, disks: [systemOf(version)] }).usedBytes,
      sessions: [],
    };
    for (const person of people) {
      const { name, doings } = person;
      const session = keptOf(person) ?? {
        ...{ name, stamp: stampOf(person) },
        ...countsOf(await record(ours, images, doings, folder), version),
      };
      result = { ...result, sessions: [...result.sessions, session] };
      await writeFile(file, JSON.stringify(result));
      log(`${name}: ${session.accesses.length} blocks`);
    }
    return decoded(result);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

/** `stamp`: of which workstation, doing what. */
type KeptSession = Omit<RecordedSession, 'accesses'> & {
  readonly stamp: string;
  readonly accesses: readonly (readonly [number, number])[];
};
type Kept = Omit<RecordedSessions, 'sessions'> & { readonly sessions: readonly KeptSession[] };

const decoded = ({ blockBytes, accessibleBytes, sessions }: Kept): RecordedSessions => ({
  blockBytes,
  accessibleBytes,
  sessions: sessions.map(({ name, readBytes, accesses }) => ({ name, readBytes, accesses: new Map(accesses) })),
});

/** Our own file, of an earlier run. */
const readKept = async (file: string): Promise<Kept | undefined> => {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Kept;
  } catch {
    return undefined;
  }
};

const record = async (
  ours: OurPath,
  images: ApplianceImages,
  doings: readonly Doing[],
  folder: string,
): Promise<RequestRecordingFile> => {
  const file = path.join(folder, 'recording');
  const sockets = await ours.attach();
  {
    await using guest = await FigureGuest.boot(images, nodesOn(sockets), {
      beforeStart: () => ours.startRecording(),
    });
    await guest.login();
    for (const doing of doings) await guest.run(DOINGS[doing]);
    await guest.shutdown();
    await ours.stopRecording(file);
  }
  await ours.detach();
  return decodeRequestRecording(await readFile(file));
};

const systemOf = (version: PublishedVersion): PublishedVersion['disks'][number] => {
  const disk = version.disks.find(({ name }) => name === SYSTEM);
  if (disk === undefined) throw new Error('the version has no system disk');
  return disk;
};

const countsOf = (
  recording: RequestRecordingFile,
  version: PublishedVersion,
): Pick<KeptSession, 'readBytes' | 'accesses'> => {
  const disk = systemOf(version);
  const index = recording.disks.findIndex(({ name }) => name === SYSTEM);
  const readBytes = recording.requests
    .filter((request) => request.disk === index && request.command === COMMAND.read && !request.failed)
    .reduce((sum, { byteLength }) => sum + byteLength, 0);
  const counts = new Map<number, number>();
  for (const { block } of groundReads(recording, [disk]))
    if (disk.map.digestAt(block) !== undefined) counts.set(block, (counts.get(block) ?? 0) + 1);
  return { readBytes, accesses: [...counts] };
};
