/** The judges of the kills, judged: each refuses what it is there to refuse. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import {
  fileSystemIsClean,
  installedFilesAreRight,
  isFioSector,
  SECTOR_BYTES,
  sectorsAreWhole,
} from './outside-check.js';
import { fioPass, fioSeedBytes } from './workload.js';

const PARTITION_OFFSET = 1 << 20;
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'outside-check-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const md5 = (text: string): string => createHash('md5').update(text).digest('hex');
const status = (state: string): string => `Package: tool\nStatus: ${state}\nVersion: 1\n`;

/** A disk with one partition at 1 MiB, whose dpkg has one package with one file. */
const imageOf = async (text: string, state = 'install ok installed'): Promise<string> => {
  const tree = path.join(folder, 'tree');
  await mkdir(path.join(tree, 'var/lib/dpkg'), { recursive: true });
  await mkdir(path.join(tree, 'usr/bin'), { recursive: true });
  await writeFile(path.join(tree, 'var/lib/dpkg/status'), status(state));
  await writeFile(path.join(tree, 'usr/bin/tool'), text);
  const image = path.join(folder, 'root.raw');
  await writeFile(image, '');
  await truncate(image, 9 << 20);
  const words = ['-q', '-F', '-t', 'ext4', '-d', tree, '-E', `offset=${PARTITION_OFFSET}`, image, '8M'];
  await runOrThrow('/sbin/mke2fs', words);
  return image;
};

it('a package whose files are those of its .deb passes, also one that was packed for /bin', async () => {
  const image = await imageOf('right');
  await fileSystemIsClean(image, PARTITION_OFFSET);
  expect(await installedFilesAreRight(image, `tool  ${md5('right')}  /bin/tool\n`)).toEqual({ packages: 1, files: 1 });
});

it('a file that differs, one that is missing and a package that is half installed are refused', async () => {
  const image = await imageOf('wrong');
  await expect(installedFilesAreRight(image, `tool  ${md5('right')}  /bin/tool\n`)).rejects.toThrow(
    '/bin/tool differs',
  );
  await expect(installedFilesAreRight(image, `tool  ${md5('wrong')}  /bin/other\n`)).rejects.toThrow('is missing');
  const half = await imageOf('right', 'install ok half-configured');
  await expect(installedFilesAreRight(half, `tool  ${md5('right')}  /bin/tool\n`)).rejects.toThrow('half-installed');
});

it('a file system with a wrong bitmap is refused', async () => {
  const image = await imageOf('right');
  await runOrThrow('/sbin/debugfs', ['-w', '-R', 'freeb 100 50', `${image}?offset=${PARTITION_OFFSET}`]);
  await expect(fileSystemIsClean(image, PARTITION_OFFSET)).rejects.toThrow('e2fsck');
});

it("what fio writes is known sector by sector; torn, moved and strange sectors are not fio's", async () => {
  const disk = { field: path.join(folder, 'field.raw'), scratch: path.join(folder, 'scratch.raw') };
  const began = Buffer.alloc(16 << 20, 'what the disk began as ');
  await writeFile(disk.field, began);
  await writeFile(disk.scratch, '');
  await truncate(disk.scratch, 16 << 20);
  const pass = (seed: number): string[] => fioPass(disk, String(seed), fioSeedBytes(seed).toString('hex')).split(' ');
  // Without O_DIRECT: the temporary folder may be in memory.
  const options = { cwd: folder };
  await runOrThrow('fio', [...pass(3), '--direct=0'], options);
  await runOrThrow('fio', [...pass(4), '--direct=0'], options);
  const tally = await sectorsAreWhole(disk.field, began);
  expect(tally.written + tally.untouched).toBe(began.length / SECTOR_BYTES);
  expect(tally.written).toBeGreaterThan((6 << 20) / SECTOR_BYTES);
  expect((await sectorsAreWhole(disk.scratch, undefined)).written).toBeGreaterThan((12 << 20) / SECTOR_BYTES);

  // The last pass is there as it was written; the one before is not any more, and fio knows the difference.
  await runOrThrow('fio', [...pass(4), '--direct=0', '--verify_only'], options);
  await expect(runOrThrow('fio', [...pass(3), '--direct=0', '--verify_only'], options)).rejects.toThrow('fio');

  await using file = await open(disk.field, 'r+');
  const sector = Buffer.alloc(SECTOR_BYTES);
  let at = -SECTOR_BYTES;
  do {
    at += SECTOR_BYTES;
    await file.read(sector, 0, SECTOR_BYTES, at);
  } while (!isFioSector(sector, at));
  expect(isFioSector(sector, at + (1 << 20))).toBe(false);
  expect(isFioSector(Buffer.alloc(SECTOR_BYTES), at)).toBe(false);
  // Half of the sector is what was there before.
  await file.write(began, at + 256, 256, at + 256);
  await expect(sectorsAreWhole(disk.field, began)).rejects.toThrow(`1 sectors of field.raw are neither: at ${at}`);
});
