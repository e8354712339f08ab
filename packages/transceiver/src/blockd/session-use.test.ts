import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { decodeUseRecord, encodeDiskUse, type BlockGroup, type Digest } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalFileSystem } from '../storage/local-file-system.js';
import { MemoryDevice } from './nbd/memory-device.double.js';
import { Recorder } from './recorder.js';
import { LEAVE_MS, SessionUse, type UseFiles } from './session-use.js';
import { settle } from './testing/eventually.js';
import { ManualClock } from './testing/manual-clock.js';

const BLOCK = 65_536;
const root = 'ab'.repeat(32) as Digest;
const disk = { version: 4, root, blockBytes: BLOCK };
const GROUPS: readonly BlockGroup[] = [
  { blocks: [5, 6, 7, 8], triggers: 2 },
  { blocks: [20, 21], triggers: 1 },
];

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'session-use-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const use = (): string => path.join(folder, 'system.use');
const session = (): string => path.join(folder, 'system.session');
const left = async (): Promise<(readonly number[])[] | undefined> =>
  readFile(session()).then(
    (bytes) => [...decodeUseRecord(bytes).bursts],
    () => undefined,
  );

/** A disk of 40 blocks, of which 13 is all zero. */
const opened = async (files: UseFiles, { touchesMax = 100 }: { readonly touchesMax?: number } = {}) => {
  if (files.use === use()) await writeFile(use(), encodeDiskUse({ ...disk, records: 3, blocks: [], groups: GROUPS }));
  const clock = new ManualClock();
  const recorder = new Recorder(new MemoryDevice(40 * BLOCK), { blockBytes: BLOCK, clock, touchesMax });
  const brought: (readonly number[])[] = [];
  const failures: unknown[] = [];
  const link = { isMetered: false };
  const sessionUse = new SessionUse({
    ...{ ...disk, files, clock, recorder, fileSystem: new LocalFileSystem() },
    image: { bringIfRoom: (blocks) => void brought.push(blocks), hasContent: (blockIndex) => blockIndex !== 13 },
    isMetered: () => link.isMetered,
    onFailed: (error) => failures.push(error),
  });
  await sessionUse.open();
  const touch = async (...blocks: readonly number[]): Promise<void> => {
    for (const block of blocks) recorder.tryRead(Buffer.alloc(512), block * BLOCK);
    await settle();
  };
  /** As DiskTrace.begin does. */
  const begin = (): void => {
    sessionUse.begin();
    recorder.restart();
  };
  return { sessionUse, clock, recorder, brought, failures, link, touch, begin };
};

describe('what this session touches', () => {
  it('is left at its end: the boot, then its bursts, without what is all zero', async () => {
    const { sessionUse, clock, touch, begin } = await opened({ session: session() });
    await touch(39); // before the machine starts
    begin();
    await touch(1, 2, 13);
    clock.advance(20_000);
    sessionUse.bootIsOver();
    clock.advance(60_000);
    await touch(5, 6);
    clock.advance(1_000);
    await touch(1, 7);
    clock.advance(60_000);
    await touch(13);
    clock.advance(60_000);
    await touch(9);
    expect(await left()).toBeUndefined();
    await sessionUse.close();
    expect(await left()).toEqual([[1, 2], [5, 6, 7], [9]]);
  });

  it('is left now and then before, when there is more of it', async () => {
    const { sessionUse, clock, touch, begin } = await opened({ session: session() });
    begin();
    await touch(1);
    sessionUse.bootIsOver();
    clock.advance(LEAVE_MS);
    await expect.poll(left).toEqual([[1]]);
    await rm(session());
    clock.advance(LEAVE_MS);
    await settle();
    expect(await left()).toBeUndefined();
    await touch(2);
    clock.advance(LEAVE_MS);
    await expect.poll(left).toEqual([[1], [2]]);
    await sessionUse.close();
  });

  it('whose boot is not over is not left, nor one without a file', async () => {
    const { sessionUse, touch, begin } = await opened({ session: session() });
    begin();
    await touch(1);
    await sessionUse.close();
    expect(await left()).toBeUndefined();
    const without = await opened({});
    without.begin();
    await without.touch(1);
    without.sessionUse.bootIsOver();
    await without.sessionUse.close();
    expect(without.failures).toEqual([]);
  });

  it('ends with another start of the guest', async () => {
    const { sessionUse, touch, begin } = await opened({ session: session() });
    begin();
    await touch(1);
    sessionUse.bootIsOver();
    await touch(2);
    begin();
    await expect.poll(left).toEqual([[1], [2]]);
    await touch(3);
    await sessionUse.close();
    expect(await left()).toEqual([[1], [2]]);
  });

  it('that cannot be left is said, and nothing else', async () => {
    const { sessionUse, touch, begin, failures } = await opened({ session: path.join(folder, 'no/such/folder') });
    begin();
    await touch(1);
    sessionUse.bootIsOver();
    await sessionUse.close();
    expect(failures).toHaveLength(1);
  });
});

describe('what sessions touch together', () => {
  it('is brought in when one of its first blocks is touched, once a session', async () => {
    const { touch, brought, begin } = await opened({ use: use() });
    await touch(7, 8, 1);
    expect(brought).toEqual([]);
    await touch(6);
    expect(brought).toEqual([GROUPS[0]?.blocks]);
    await touch(5, 6, 20);
    expect(brought).toEqual([GROUPS[0]?.blocks, GROUPS[1]?.blocks]);
    begin();
    await touch(5);
    expect(brought).toHaveLength(3);
  });

  it('is not brought in before the read that says so has gone on', async () => {
    const { recorder, brought } = await opened({ use: use() });
    recorder.tryRead(Buffer.alloc(512), 5 * BLOCK);
    expect(brought).toEqual([]);
    await settle();
    expect(brought).toHaveLength(1);
  });

  it('stays away on a link that is metered, and comes when the next of its first blocks is touched on another', async () => {
    const { touch, brought, link } = await opened({ use: use() });
    link.isMetered = true;
    await touch(5);
    expect(brought).toEqual([]);
    link.isMetered = false;
    await touch(6);
    expect(brought).toHaveLength(1);
  });

  it('is not asked for any more when the disk is closed', async () => {
    const { sessionUse, touch, brought } = await opened({ use: use() });
    await sessionUse.close();
    await touch(5);
    expect(brought).toEqual([]);
  });

  it('comes, though the recorder is full', async () => {
    const { recorder, brought, touch } = await opened({ use: use() }, { touchesMax: 3 });
    await touch(30, 31, 32, 33, 5);
    expect(recorder.touches).toHaveLength(3);
    expect(brought).toHaveLength(1);
  });

  it.each([
    ['is not there', undefined, /there is no disk use/],
    ['is damaged', Buffer.from('CDU?'), /disk use/],
    [
      'is of another disk',
      encodeDiskUse({ ...disk, root: 'cd'.repeat(32) as Digest, records: 2, blocks: [], groups: [] }),
      /of the disk cdcd/,
    ],
  ])('that %s is said, and nothing is brought in', async (_, bytes, message) => {
    const file = path.join(folder, 'other.use');
    if (bytes !== undefined) await writeFile(file, bytes);
    const { touch, brought, failures } = await opened({ use: file });
    await touch(5);
    expect(brought).toEqual([]);
    expect(String(failures[0])).toMatch(message);
  });
});
