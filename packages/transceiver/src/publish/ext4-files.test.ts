/** What mke2fs made is read as debugfs reads it; what is broken ends the walk and nothing else. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DISK_READER_LIMITS, DiskReader } from './disk-reader.js';
import { ext4Files, FILES_MAX, type DiskFile } from './ext4-files.js';

const MIB = 1024 * 1024;
const BLOCK = 65_536;
const PARTITION = MIB;
/** Broken file systems that are tried. */
const MUTATIONS = 100;

let folder: string;
let plain: Buffer;

const pattern = (length: number, seed: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_none, at) => (at * 31 + seed + (at >> 8)) & 0xff));

const KERNEL = pattern(300_000, 3);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'collective-ext4-'));
  const tree = join(folder, 'tree');
  mkdirSync(join(tree, 'boot'), { recursive: true });
  mkdirSync(join(tree, 'many'));
  writeFileSync(join(tree, 'boot/vmlinuz-6.1.0'), KERNEL);
  writeFileSync(join(tree, 'short'), pattern(10, 5));
  symlinkSync('boot/vmlinuz-6.1.0', join(tree, 'vmlinuz'));
  // Enough for a directory of several blocks.
  for (let at = 0; at < 400; at += 1) writeFileSync(join(tree, `many/${'name'.repeat(10)}-${String(at)}`), 'x');
  const image = join(folder, 'image');
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, image, '16M'], { stdio: 'ignore' });
  plain = readFileSync(image);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const readerOf = (disk: Buffer): DiskReader =>
  new DiskReader({ diskBytes: disk.length, blockBytes: BLOCK }, async (index) => {
    const block = Buffer.alloc(BLOCK);
    disk.copy(block, 0, index * BLOCK);
    return block;
  });
const filesOf = (disk: Buffer): Promise<DiskFile[]> => ext4Files(readerOf(disk));
const contentOf = (disk: Buffer, file: DiskFile | undefined): Buffer =>
  Buffer.concat(
    (file?.pieces ?? []).map(({ diskOffset, byteLength }) => disk.subarray(diskOffset, diskOffset + byteLength)),
  );

/** The file system in the second slot of an MBR, or as the second entry of a GPT. */
const partitioned = (kind: 'mbr' | 'gpt'): Buffer => {
  const disk = Buffer.concat([Buffer.alloc(PARTITION), plain]);
  disk.writeUInt16LE(0xaa55, 510);
  disk.writeUInt8(kind === 'gpt' ? 0xee : 0x83, 446 + 16 + 4);
  disk.writeUInt32LE(kind === 'gpt' ? 1 : PARTITION / 512, 446 + 16 + 8);
  if (kind === 'mbr') return disk;
  disk.write('EFI PART', 512, 'latin1');
  disk.writeBigUInt64LE(2n, 512 + 72);
  disk.writeUInt32LE(128, 512 + 80);
  disk.writeUInt32LE(128, 512 + 84);
  disk.fill(7, 1024 + 128, 1024 + 144);
  disk.writeBigUInt64LE(BigInt(PARTITION / 512), 1024 + 128 + 32);
  return disk;
};

describe('files of ext4', () => {
  it('are found with their pieces, in directories of many blocks, too', async () => {
    const files = await filesOf(plain);
    const byPath = new Map(files.map((file) => [file.path, file]));
    expect(contentOf(plain, byPath.get('0/boot/vmlinuz-6.1.0')).subarray(0, 300_000).equals(KERNEL)).toBe(true);
    expect(contentOf(plain, byPath.get('0/short')).subarray(0, 10)).toEqual(pattern(10, 5));
    expect(files.filter(({ path }) => path.startsWith('0/many/'))).toHaveLength(400);
    expect(byPath.get('0/many')?.pieces.length).toBeGreaterThan(0);
    expect(byPath.has('0/vmlinuz')).toBe(false); // a link lies in its inode
  });

  it('are found in partitions', async () => {
    for (const kind of ['mbr', 'gpt'] as const) {
      const disk = partitioned(kind);
      const found = (await filesOf(disk)).find(({ path }) => path.endsWith('boot/vmlinuz-6.1.0'));
      expect(contentOf(disk, found).subarray(0, 300_000).equals(KERNEL), kind).toBe(true);
    }
  });

  it('are none where there is no file system, or one of another kind', async () => {
    expect(await filesOf(Buffer.alloc(4 * MIB))).toEqual([]);
    expect(await filesOf(Buffer.alloc(100))).toEqual([]);
    const unknown = Buffer.from(plain);
    unknown.writeUInt32LE(0x80000000, 1024 + 0x60);
    expect(await filesOf(unknown)).toEqual([]);
  });

  it('of a broken file system are some, or an end that says why, never a loop', async () => {
    let state = 12_345;
    const random = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return state % below;
    };
    for (let round = 0; round < MUTATIONS; round += 1) {
      const broken = Buffer.from(plain.subarray(0, round % 10 === 0 ? random(plain.length) : plain.length));
      for (let hit = 0; hit < 20; hit += 1) {
        // Most of what the walk reads lies in the first MiB.
        const at = random(Math.min(broken.length - 4, hit % 2 === 0 ? MIB : 8192) - 4);
        broken.writeUInt32LE([0, 1, 0xffffffff, random(2 ** 31)][hit % 4] ?? 0, Math.max(0, at));
      }
      const files = await filesOf(broken).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'too-large' });
        return [];
      });
      expect(files.length).toBeLessThanOrEqual(FILES_MAX);
    }
  });

  it('whose directory contains itself are walked once', async () => {
    const circle = Buffer.from(plain);
    const name = circle.indexOf('vmlinuz-6.1.0', 0, 'latin1');
    circle.writeUInt32LE(2, name - 8);
    const files = await filesOf(circle);
    expect(files.filter(({ path }) => path.includes('vmlinuz-6.1.0/'))).toEqual([]);
  });
});

describe('a disk reader', () => {
  it('fetches each block once, and gives what lies over several', async () => {
    const fetched: number[] = [];
    const disk = pattern(3 * BLOCK, 1);
    const reader = new DiskReader({ diskBytes: disk.length, blockBytes: BLOCK }, async (index) => {
      fetched.push(index);
      return disk.subarray(index * BLOCK, (index + 1) * BLOCK);
    });
    const found = await reader.read(BLOCK - 5, BLOCK + 10);
    expect(found.equals(disk.subarray(BLOCK - 5, 2 * BLOCK + 5))).toBe(true);
    await reader.read(0, 4);
    expect(fetched).toEqual([0, 1, 2]);
    for (const [byteOffset, byteLength] of [
      [disk.length, 1],
      [-1, 4],
      [0, disk.length + 1],
      [Number.NaN, 1],
    ] as const)
      await expect(reader.read(byteOffset, byteLength)).rejects.toMatchObject({ code: 'malformed' });
  });

  it('ends after so many bytes, and after so many reads', async () => {
    const disk = { diskBytes: 10 * BLOCK, blockBytes: BLOCK };
    const fetch = async (): Promise<Buffer> => Buffer.alloc(BLOCK);
    const wide = new DiskReader(disk, fetch, { ...DISK_READER_LIMITS, fetchedBytesMax: 4 * BLOCK });
    for (let at = 0; at < 4; at += 1) await wide.read(at * BLOCK, 1);
    await wide.read(0, 1);
    await expect(wide.read(4 * BLOCK, 1)).rejects.toMatchObject({ code: 'too-large' });
    const long = new DiskReader(disk, fetch, { ...DISK_READER_LIMITS, readsMax: 3 });
    for (let at = 0; at < 3; at += 1) await long.read(0, 1);
    await expect(long.read(0, 1)).rejects.toMatchObject({ code: 'too-large' });
  });
});
