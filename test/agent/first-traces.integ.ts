/**
 * What a version begins with: the trace of the boot that precedes its publication (a real, tiny guest), and where there is no boot, what it inherits by file
 * from the version before.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeBootTrace, encodeBootTrace, type BootTrace } from '@collective/shared';
import { readPublishedVersion } from '../bench/trace-player/published-disks.js';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

const BLOCK_BYTES = 65_536;
const KERNEL_BYTES = 1_000_000;

let fixture: RepositoryFixture;
let pat: Person;
let folder: string;

beforeAll(async () => {
  await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), path.join(BUILD, 'images/tiny')], {
    timeoutMs: 280_000,
  });
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'first-traces-'));
  pat = await Person.temporary();
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny', 'files');
});
afterAll(async () => {
  await pat[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const tracesOf = (name: string, version: number): string =>
  path.join(fixture.folder, 'appliances', name, String(version), 'traces/system');
const readTrace = async (file: string): Promise<BootTrace> => decodeBootTrace(await readFile(file));

it('the boot test of a publish is the first vote of its version', async () => {
  const recipe = path.join(BUILD, 'images/tiny/appliance.json');
  await pat.json(['publish', 'tiny', '--machine', recipe, '--boot-text', 'TINY READY'], { timeoutMs: 600_000 });
  expect(await readdir(tracesOf('tiny', 1))).toEqual(['publication']);
  const { touches, version } = await readTrace(path.join(tracesOf('tiny', 1), 'publication'));
  expect(version).toBe(1);
  expect(touches[0]?.blockIndex).toBe(0);
  expect(touches.length).toBeGreaterThan(20);
});

/** An MBR whose only partition is an ext4 file system with a kernel of that name, behind `before` bytes of something else. */
const writeSystem = async (name: string, before: number): Promise<string> => {
  const tree = path.join(folder, name);
  await mkdir(path.join(tree, 'boot'), { recursive: true });
  if (before > 0) await writeFile(path.join(tree, 'a'), Buffer.alloc(before, name));
  const kernel = Buffer.from(Uint32Array.from({ length: KERNEL_BYTES / 4 }, (_none, at) => at * before + at).buffer);
  await writeFile(path.join(tree, 'boot', name), kernel);
  const fileSystem = path.join(folder, `${name}.ext4`);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, fileSystem, '31M']);
  const head = Buffer.alloc(1 << 20);
  head.writeUInt8(0x83, 446 + 4);
  head.writeUInt32LE(head.length / 512, 446 + 8);
  head.writeUInt32LE((31 << 20) / 512, 446 + 12);
  head.writeUInt16LE(0xaa55, 510);
  const disk = path.join(folder, `${name}.raw`);
  await writeFile(disk, Buffer.concat([head, await readFile(fileSystem)]));
  return disk;
};

/** The blocks whose bytes a kernel begins, goes on and ends with. */
const kernelBlocks = async (disk: string, before: number): Promise<number[]> => {
  const bytes = await readFile(disk);
  const found = new Set<number>();
  for (let word = 4096; word < KERNEL_BYTES - 4096; word += 4096) {
    const at = Uint32Array.from({ length: 4 }, (_none, more) => (word / 4 + more) * (before + 1));
    found.add(Math.floor(bytes.indexOf(Buffer.from(at.buffer)) / BLOCK_BYTES));
  }
  return [...found];
};

it('a version that was not booted inherits by file: its kernel has another name, place and content', async () => {
  const first = await writeSystem('vmlinuz-6.1.0-18', 0);
  await pat.json(['publish', 'files', '--disk', `system=${first}`, '--no-boot-test']);
  expect(await readdir(tracesOf('files', 1)).catch(() => [])).toEqual([]);
  const { disks } = await readPublishedVersion(fixture.folder, 'files');
  const root = disks[0]?.description.root ?? '';
  const old = await kernelBlocks(first, 0);
  const touches = old.map((blockIndex, at) => ({ blockIndex, afterMs: at, phase: 1 as const, chunkBytes: 0 }));
  await mkdir(tracesOf('files', 1), { recursive: true });
  const trace = encodeBootTrace({ version: 1, root: root as BootTrace['root'], blockBytes: BLOCK_BYTES, touches });
  await writeFile(path.join(tracesOf('files', 1), 'publication'), trace);

  const second = await writeSystem('vmlinuz-6.1.0-20', 9_000_000);
  await pat.json(['publish', 'files', '--disk', `system=${second}`, '--no-boot-test']);
  expect(await readdir(tracesOf('files', 2))).toEqual(['inherited']);
  const inherited = await readTrace(path.join(tracesOf('files', 2), 'inherited'));
  const found = inherited.touches.map(({ blockIndex }) => blockIndex);
  const now = await kernelBlocks(second, 9_000_000);
  expect(now.some((block) => old.includes(block))).toBe(false);
  for (const block of now) expect(found).toContain(block);
  expect(found.length).toBeLessThanOrEqual(now.length + 1);
});
