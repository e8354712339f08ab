import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import {
  BOOT_PHASE,
  decodeBootTrace,
  encodeBootTrace,
  type BootPhase,
  type BootTrace,
  type Digest,
  type TraceTouch,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalFileSystem } from '../storage/local-file-system.js';
import { DiskTrace, QUIET_MS, type TraceFiles } from './boot-trace.js';
import { LEAD_MS } from './trace-pace.js';
import { eventually } from './testing/eventually.js';
import { ManualClock } from './testing/manual-clock.js';

const root = 'ab'.repeat(32) as Digest;
const disk = { version: 4, root, blockBytes: 65_536 };
const touchesOf = (blocks: readonly number[]): TraceTouch[] =>
  blocks.map((blockIndex, at) => ({ blockIndex, afterMs: at, phase: 0, chunkBytes: 0 }));

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'boot-trace-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A disk whose guest touches what the test says; block 13 is all zero. */
const traced = (files: TraceFiles) => {
  const clock = new ManualClock();
  /** `elsewhere`: first touches of its other disks. */
  const guest = { touches: [] as TraceTouch[], isWaiting: false, elsewhere: 0 };
  const foreseen: number[][] = [];
  const failures: unknown[] = [];
  const trace = new DiskTrace({
    ...disk,
    files,
    clock,
    fileSystem: new LocalFileSystem(),
    onFailed: (error) => failures.push(error),
    image: {
      foresee: (touches) => foreseen.push(touches.map(({ blockIndex }) => blockIndex)),
      hasContent: (blockIndex) => blockIndex !== 13,
      get waiting() {
        return guest.isWaiting ? [{ blockIndex: 1, digest: root, waitedMs: 1, isUnavailable: false }] : [];
      },
    },
    recorder: {
      restart: () => void (guest.touches = []),
      setPhase: () => undefined,
      get touches() {
        return guest.touches;
      },
    },
  });
  const pass = async (ms: number): Promise<void> => {
    for (let at = 0; at < ms; at += 1_000) {
      clock.advance(1_000);
      await setImmediate();
    }
  };
  const begin = (): void =>
    trace.begin(() => ({ isWaiting: guest.isWaiting, touches: guest.touches.length + guest.elsewhere }));
  return { trace, begin, guest, foreseen, failures, pass };
};

const record = (): string => path.join(folder, 'system.recorded');
const recorded = async (): Promise<BootTrace | undefined> => readFile(record()).then(decodeBootTrace, () => undefined);
/** As long as a file takes to be written, and more. */
const settle = (): Promise<void> => setTimeout(50);

describe('the trace of this boot', () => {
  it('is written once the guest has touched nothing new for a while', async () => {
    const { begin, guest, pass } = traced({ record: record() });
    begin();
    guest.touches = touchesOf([7, 13, 3]);
    await pass(QUIET_MS);
    guest.touches = touchesOf([7, 13, 3, 9]);
    await pass(QUIET_MS);
    await settle();
    expect(await recorded()).toBeUndefined();
    await pass(2_000);
    await expect.poll(recorded).toBeDefined();
    expect((await recorded())?.touches.map(({ blockIndex }) => blockIndex)).toEqual([7, 3, 9]);
  });

  it('is not over while the guest waits for a block, nor before it has touched any', async () => {
    const { begin, guest, pass } = traced({ record: record() });
    begin();
    await pass(3 * QUIET_MS);
    guest.touches = touchesOf([7]);
    guest.isWaiting = true;
    await pass(3 * QUIET_MS);
    await settle();
    expect(await recorded()).toBeUndefined();
  });

  it('is not over while the guest touches other disks', async () => {
    const { begin, guest, pass } = traced({ record: record() });
    begin();
    guest.touches = touchesOf([7]);
    for (let at = 0; at < 3; at += 1) {
      guest.elsewhere += 1;
      await pass(QUIET_MS);
    }
    await settle();
    expect(await recorded()).toBeUndefined();
    await pass(2_000);
    await expect.poll(recorded).toBeDefined();
  });

  it('that ends before it is over leaves no file', async () => {
    const { trace, begin, guest, pass } = traced({ record: record() });
    begin();
    guest.touches = touchesOf([7]);
    await pass(5_000);
    trace.close();
    await pass(3 * QUIET_MS);
    await settle();
    expect(await recorded()).toBeUndefined();
  });

  it('that names the blocks of the file that is there leaves that as it is, whatever their order', async () => {
    const run = async (blocks: readonly number[]): Promise<number[] | undefined> => {
      const { begin, guest, pass } = traced({ record: record() });
      begin();
      guest.touches = touchesOf(blocks);
      await pass(QUIET_MS + 2_000);
      await settle();
      return (await recorded())?.touches.map(({ blockIndex }) => blockIndex);
    };
    expect(await run([7, 3])).toEqual([7, 3]);
    expect(await run([3, 7])).toEqual([7, 3]);
    expect(await run([3, 8])).toEqual([3, 8]);
    await writeFile(record(), 'damaged');
    expect(await run([3, 8])).toEqual([3, 8]);
  });

  it('takes the place of one that names the same blocks and does not know where the prompt was, and not the other way round', async () => {
    const run = async (phases: readonly BootPhase[]): Promise<number[] | undefined> => {
      const { begin, guest, pass } = traced({ record: record() });
      begin();
      guest.touches = touchesOf([7, 3]).map((touch, at) => ({ ...touch, phase: phases[at] ?? BOOT_PHASE.idle }));
      await pass(QUIET_MS + 2_000);
      await settle();
      return (await recorded())?.touches.map(({ phase }) => phase);
    };
    const { kernel, idle } = BOOT_PHASE;
    expect(await run([kernel, kernel])).toEqual([kernel, kernel]);
    expect(await run([kernel, idle])).toEqual([kernel, idle]);
    expect(await run([kernel, kernel])).toEqual([kernel, idle]);
  });

  it('that cannot be written is said, and nothing else', async () => {
    const { begin, guest, pass, failures } = traced({ record: path.join(folder, 'no/such/folder') });
    begin();
    guest.touches = touchesOf([7]);
    await pass(QUIET_MS + 3_000);
    await eventually('the failure', () => failures.length === 1);
  });

  it('that took longer than a trace can say is said, and nothing else', async () => {
    const { begin, guest, pass, failures } = traced({ record: record() });
    begin();
    guest.touches = [{ blockIndex: 7, afterMs: 2 ** 32, phase: 0, chunkBytes: 0 }];
    await pass(QUIET_MS + 3_000);
    await eventually('the failure', () => failures.length === 1);
  });
});

describe('the trace of earlier boots', () => {
  const replay = (): string => path.join(folder, 'system');

  it('is fetched in its order', async () => {
    await writeFile(replay(), encodeBootTrace({ ...disk, touches: touchesOf([9, 2, 5]) }));
    const { trace, foreseen } = traced({ replay: replay() });
    await trace.replay();
    expect(foreseen).toEqual([[9, 2, 5]]);
  });

  it('is fetched up to the prompt, and from there on ahead of the guest', async () => {
    const touches = touchesOf([9, 2, 5, 7, 1]).map((touch, at) => ({
      ...touch,
      afterMs: at * 10_000,
      phase: at === 0 ? BOOT_PHASE.login : BOOT_PHASE.idle,
    }));
    await writeFile(replay(), encodeBootTrace({ ...disk, touches }));
    const { trace, begin, foreseen, guest, pass } = traced({ replay: replay() });
    await trace.replay();
    expect(foreseen).toEqual([[9]]);
    await pass(60_000); // attached, and QEMU has not begun yet
    expect(foreseen).toEqual([[9]]);
    begin();
    await pass(10_000 - LEAD_MS);
    expect(foreseen).toEqual([[9], [2]]);
    // One of no boot, and three of the trace: as far as boots are after 20 s.
    guest.touches = touchesOf([77, 9, 2, 5]);
    await pass(1_000);
    expect(foreseen).toEqual([[9], [2], [5]]);
    guest.isWaiting = true;
    await pass(60_000);
    guest.isWaiting = false;
    expect(foreseen).toEqual([[9], [2], [5]]);
    await pass(30_000 - LEAD_MS);
    expect(foreseen).toEqual([[9], [2], [5], [7]]);
    trace.close();
    await pass(60_000);
    expect(foreseen).toHaveLength(4);
  });

  it('that is being read when its disk is closed is not fetched', async () => {
    await writeFile(replay(), encodeBootTrace({ ...disk, touches: touchesOf([9]) }));
    const { trace, foreseen } = traced({ replay: replay() });
    const replaying = trace.replay();
    trace.close();
    await replaying;
    expect(foreseen).toEqual([]);
  });

  it.each([
    ['is not there', undefined, /there is no trace/],
    ['is damaged', Buffer.from('CTR?'), /trace/],
    [
      'is of another disk',
      encodeBootTrace({ ...disk, root: 'cd'.repeat(32) as Digest, touches: [] }),
      /of the disk cdcd/,
    ],
  ])('that %s is said, and nothing is fetched', async (_, bytes, message) => {
    if (bytes !== undefined) await writeFile(replay(), bytes);
    const { trace, foreseen, failures } = traced({ replay: replay() });
    await trace.replay();
    expect(foreseen).toEqual([]);
    expect(String(failures[0])).toMatch(message);
  });
});
