/**
 * A home that holds a person only for now (docs/where-is-my-data.md). Their device, what was seen and the trust files lie with the
 * session's keys in memory (tmpfs), so a machine that is switched off has no key of theirs; what is too large for that (layers,
 * manifests and maps) lies on the disk until the session ends.
 *
 * HOME/only-for-now.json is written durably before the first byte of the person and removed durably after the last one: whoever finds it
 * and no session of this kind finishes what was broken off. So a removal may be killed anywhere. The same mark makes the removal of a
 * person whose machine this is (`logout --remove`) one that is finished.
 *
 * Everything that is removed is named here: a home may be a folder in which a person has other things. A file that a later program
 * puts into a home belongs here, too; test/agent/only-for-now.integ.ts fails for one that is forgotten.
 */
import { open, readdir, readlink, realpath, rm, statfs, truncate } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Type } from '@collective/schema';
import { CollectiveError, documentCodec, strictObject } from '@collective/shared';
import type { Home } from '../home.js';
import { isErrno, readIfThere, writeDurably } from '../storage/durable-file.js';

const codec = documentCodec(strictObject({ format: Type.Literal(1) }), { what: 'only-for-now.json', bytesMax: 256 });

/** Files of the person, with what a broken off write of them left beside them. */
const FILES = /^(device(-locked-[0-9a-f]{16})?|hoard|seen|seen-profile|settings|supervisor-repository)\.json(\..+)?$/;
/** Folders that are emptied. Not `cache`: it holds published blocks by digest, and names nobody. */
const FOLDERS = ['trust', 'objects', 'machines', 'uploads', 'exports', 'private'];

/** `f_type` of tmpfs and of ramfs. */
const MEMORY_FILE_SYSTEMS: readonly number[] = [0x01021994, 0x858458f6];

const markOf = (home: Pick<Home, 'directory'>): string => join(home.directory, 'only-for-now.json');

/** Where the same home keeps the small files of a person who is here only for now. */
export const temporaryHome = (home: Home): Home => {
  const inMemory = (name: string): string => join(home.sessionDirectory, name);
  return {
    ...home,
    deviceFile: inMemory('device.json'),
    seenFile: inMemory('seen.json'),
    seenProfileFile: inMemory('seen-profile.json'),
    trustDirectory: inMemory('trust'),
  };
};

/**
 * The same for a session that is there: where its keys are, whatever environment this agent was started with. Else an agent of another
 * login of the same user, with another runtime directory, would take a living session for one whose memory is gone.
 */
export const foundTemporaryHome = async (home: Home): Promise<Home> => {
  const target = await readlink(home.sessionFile).catch(() => undefined);
  return temporaryHome(target === undefined ? home : { ...home, sessionDirectory: dirname(target) });
};

/** Whether it holds a person only for now, or one whose removal was broken off. */
export const isMarked = async (home: Pick<Home, 'directory'>): Promise<boolean> =>
  (await readIfThere(markOf(home))) !== undefined;

/** Durable when it resolves: from now on everything of the person is removed at the end of the session, whatever ends it. */
export const mark = async (home: Pick<Home, 'directory'>): Promise<void> =>
  writeDurably(markOf(home), codec.encode({ format: 1 }));

/**
 * Nothing may be here that somebody wants to keep, and keys must have a place in memory. Errors: `no-tmpfs`; `exists` when the home holds
 * disks, or what a reset locked, of somebody.
 */
export async function assertFitsTemporary(home: Home): Promise<void> {
  const keyFolders = [home.sessionDirectory, await realpath(home.diskKeysFolder).catch(() => home.sessionDirectory)];
  for (const folder of keyFolders) {
    if (await isInMemory(folder)) continue;
    throw new CollectiveError(
      'no-tmpfs',
      `The keys of a session would lie in ${folder}, which is on a disk: this machine has no folder in memory (XDG_RUNTIME_DIR or /dev/shm).`,
    );
  }
  const names = await readdir(home.directory);
  const machines = await readdir(home.machinesDirectory);
  if (machines.length === 0 && !names.some((name) => name.startsWith('device'))) return;
  throw new CollectiveError(
    'exists',
    `${home.directory} holds disks or keys of somebody already: use another home with --home DIR.`,
  );
}

const isInMemory = async (folder: string): Promise<boolean> =>
  MEMORY_FILE_SYSTEMS.includes((await statfs(folder)).type);

/**
 * Removes every byte of the person: on the disk, in the session's folder and in the logs. Nothing of the home may run but this agent, which
 * has let go of the object cache. Safe to repeat; the mark goes last, durably. Errors: those of the file system, and then the mark is there.
 */
export async function removePerson(home: Home): Promise<void> {
  const { directory } = home;
  for (const name of await readdir(directory)) if (FILES.test(name)) await rm(join(directory, name), { force: true });
  for (const name of FOLDERS) await empty(join(directory, name));
  // The processes have them open, this one too, and write at their end.
  for (const name of await readdir(home.logDirectory)) await truncate(join(home.logDirectory, name));
  const run = join(directory, 'run');
  const keyFolder = await readlink(home.diskKeysFolder).catch(() => home.diskKeysFolder);
  await empty(keyFolder);
  for (const name of await readdir(run))
    if (name !== basename(home.agentSocket)) await rm(join(run, name), { recursive: true, force: true });
  if (home.sessionDirectory !== run) await empty(home.sessionDirectory);
  for (const folder of [directory, ...FOLDERS.map((name) => join(directory, name)), home.logDirectory])
    await syncFolder(folder);
  await rm(markOf(home), { force: true });
  await syncFolder(directory);
}

/** What is in it goes; a folder that is not there stays away. */
async function empty(folder: string): Promise<void> {
  const names = await readdir(folder).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  });
  for (const name of names) await rm(join(folder, name), { recursive: true, force: true });
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (handle === undefined) return;
  await handle.sync().finally(() => handle.close());
}
