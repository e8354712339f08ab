/**
 * Twenty updates of the Debian appliance, one after the other, as an administrator would make them: packages from the shelf by apt, a setting,
 * a package that comes again, a package that goes, sources. All are made in one running guest, whose file system is frozen (and so consistent)
 * while its disk is copied. What comes of the last one is the `workstation` that the other figures start: with an editor, git, SQLite, Perl, Python, gcc and
 * the sources of zstd.
 */
import { copyFile, mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';
import { BUILD, ROOT } from '../../support/paths.js';
import { buildImages, type ApplianceImages } from '../boot/appliance.js';
import type { BlockNode } from '../boot/qemu-boot.js';
import { FigureGuest } from './figure-guest.js';

const APT =
  'DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dir::Etc::SourceList=/run/shelf.list -o Dir::Etc::SourceParts=-';
const install = (names: string): string => `${APT} install ${names} && rm -f /ephemeral/apt/cache/archives/*.deb`;

export type Update = { readonly name: string; readonly script: string };

export const UPDATES: readonly Update[] = [
  { name: 'sqlite3', script: install('sqlite3') },
  { name: 'patch', script: install('patch') },
  { name: 'make', script: install('make') },
  { name: 'bzip2', script: install('bzip2') },
  { name: 'xz-utils', script: install('xz-utils') },
  { name: 'a setting', script: 'echo vm.swappiness=10 >/etc/sysctl.d/90-swap.conf' },
  { name: 'perl', script: install('perl') },
  { name: 'vim', script: install('vim') },
  { name: 'python3-minimal', script: install('python3-minimal') },
  { name: 'git', script: install('git') },
  { name: 'libc6-dev', script: install('libc6-dev') },
  { name: 'binutils', script: install('binutils') },
  { name: 'cpp', script: install('cpp') },
  { name: 'gcc', script: install('gcc') },
  { name: 'fio', script: install('fio') },
  { name: 'git again', script: install('--reinstall git') },
  { name: 'g++', script: install('g++') },
  { name: 'build-essential', script: install('build-essential') },
  { name: 'without fio', script: `${APT} remove fio` },
  { name: 'sources', script: 'mkdir -p /usr/local/src && cp /run/sources/*.c /usr/local/src/' },
];

const FOLDER = path.join(BUILD, 'bench', 'figures', 'updates');
const SOURCE = path.join(ROOT, 'node_modules/@cloudpss/zstd/lib/zstd.c');
const SHELF = path.join(BUILD, 'images', 'package-shelf');

/** The disk before any update, then after each. Kept under build/; made again when the image or the updates have changed. */
export const updatedDisks = async (
  log: (line: string) => void,
): Promise<{ readonly images: ApplianceImages; readonly disks: readonly string[] }> => {
  const images = await buildImages(log);
  await runOrThrow('bash', [path.join(ROOT, 'images/package-shelf/build.sh'), SHELF, images.system], {
    timeoutMs: 900_000,
  });
  const disks = [images.system, ...UPDATES.map((_update, at) => path.join(FOLDER, `${at + 1}.raw`))];
  const { size, mtimeMs } = await stat(images.system);
  const stampOf = (count: number): string =>
    JSON.stringify({ size, mtimeMs, scripts: UPDATES.slice(0, count).map(({ script }) => script) });
  let made = 0;
  while (made < UPDATES.length && (await readFile(stampFile(made + 1), 'utf8').catch(() => '')) === stampOf(made + 1))
    made += 1;
  if (made === UPDATES.length) return { images, disks };
  await mkdir(FOLDER, { recursive: true });
  await makeUpdates(images, { disks, made, stampOf, log });
  return { images, disks };
};

const stampFile = (count: number): string => path.join(FOLDER, `${count}.json`);

/** The appliance after the last update. */
export const workstation = async (log: (line: string) => void): Promise<ApplianceImages> => {
  const { images, disks } = await updatedDisks(log);
  return { ...images, system: disks.at(-1) ?? images.system };
};

const rawNode = (file: string): BlockNode => ({
  driver: 'raw',
  file: { driver: 'file', filename: file, cache: { 'no-flush': true } },
});

/** Goes on after the first `made` of them. */
const makeUpdates = async (
  images: ApplianceImages,
  options: {
    readonly disks: readonly string[];
    readonly made: number;
    readonly stampOf: (count: number) => string;
    readonly log: (line: string) => void;
  },
): Promise<void> => {
  const { disks, made, stampOf, log } = options;
  const folder = await mkdtemp(path.join(os.tmpdir(), 'updates-'));
  try {
    const system = path.join(folder, 'system.raw');
    await copySparse(disks[made] ?? images.system, system);
    const shelf = path.join(SHELF, 'shelf.raw');
    const sources = await diskOf(folder, SOURCE);
    const extra = [
      { name: 'shelf', file: shelf },
      { name: 'sources', file: sources },
    ];
    const extraDisks = await Promise.all(
      extra.map(async ({ name, file }) => ({ name, bus: 'virtio' as const, diskBytes: (await stat(file)).size })),
    );
    const nodes = Object.fromEntries(
      [{ name: 'system', file: system }, ...extra].map(({ name, file }) => [name, rawNode(file)]),
    );
    await using guest = await FigureGuest.boot({ ...images, disks: [...images.disks, ...extraDisks] }, nodes);
    await guest.login();
    await guest.run(
      "mkdir -p /run/shelf /run/sources && mount -o ro LABEL=shelf /run/shelf && mount -o ro LABEL=sources /run/sources && echo 'deb [trusted=yes] copy:/run/shelf ./' >/run/shelf.list",
    );
    await guest.run(`${APT} update`);
    for (const [at, { name, script }] of UPDATES.entries()) {
      if (at < made) continue;
      const { seconds } = await guest.run(script);
      await guest.run('sync && fsfreeze -f /');
      await rm(stampFile(at + 1), { force: true });
      await copySparse(system, disks[at + 1] ?? '');
      await writeFile(stampFile(at + 1), stampOf(at + 1));
      await guest.run('fsfreeze -u /');
      log(`update ${at + 1}, ${name}: ${seconds.toFixed(0)} s`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

/** A disk of its own for one file. */
const diskOf = async (folder: string, file: string): Promise<string> => {
  const payload = path.join(folder, 'payload');
  await mkdir(payload);
  await copyFile(file, path.join(payload, path.basename(file)));
  const disk = path.join(folder, 'sources.raw');
  await writeFile(disk, '');
  await truncate(disk, 32 << 20);
  await runOrThrow('mke2fs', ['-q', '-t', 'ext4', '-L', 'sources', '-d', payload, disk]);
  return disk;
};

const copySparse = async (from: string, to: string): Promise<void> => {
  await runOrThrow('cp', ['--sparse=always', from, to], { timeoutMs: 300_000 });
};
