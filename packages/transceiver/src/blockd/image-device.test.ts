/** Reads of a published disk: hits, misses, waits, readahead, traces. Over 400 lines: one lab with a gated line serves all of it. */
import { afterEach, describe, expect, it } from 'vitest';
import { CollectiveError, DiskMap, type Digest } from '@collective/shared';
import type { BlockStore } from './block-store.js';
import { SingleFlightStore } from './fetch/single-flight-store.js';
import { ImageDevice, type ImageDeviceOptions } from './image-device.js';
import { MemoryDevice } from './nbd/memory-device.double.js';
import { Recorder } from './recorder.js';
import { eventually, settle } from './testing/eventually.js';
import { openLocalCache, temporaryFolder } from './testing/local-cache.js';
import { ManualClock } from './testing/manual-clock.js';
import { testDisk } from './testing/test-disk.js';
import { type GatedCall, GatedStore, MemoryStore } from './testing/test-stores.js';

const BLOCK = 65_536;
// The last block is not whole.
const disk = testDisk({ diskBytes: 40 * BLOCK + 3 * 512, blockBytes: BLOCK });

const closers: (() => PromiseLike<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const open = async (
  below: BlockStore,
  options: Partial<ImageDeviceOptions> & { readonly cacheBytesMax?: number } = {},
) => {
  const temporary = await temporaryFolder();
  closers.push(() => temporary[Symbol.asyncDispose]());
  const { cacheBytesMax = 64 << 20, ...rest } = options;
  const cache = await openLocalCache(temporary.folder, below, { cacheBytesMax });
  closers.push(cache.close);
  const device = new ImageDevice(disk.map, cache.store, { name: 'test', waitMs: 5_000, readahead: false, ...rest });
  closers.push(() => device.close());
  return { device, cache };
};

const readAny = async (device: ImageDevice, byteOffset: number, byteLength: number): Promise<Buffer> => {
  const target = Buffer.alloc(byteLength, 0xcc);
  if (!device.tryRead(target, byteOffset)) await device.read(target, byteOffset);
  return target;
};

describe('image device', () => {
  it('reads what the disk holds at any offset and length, from a cache that is much too small', async () => {
    const { device } = await open(new MemoryStore(disk.blocks), { cacheBytesMax: 6 * BLOCK, readahead: true });
    let random = 99;
    const next = (below: number): number => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % below;
    for (let step = 0; step < 1500; step += 1) {
      const byteOffset = next(disk.bytes.length);
      const byteLength = Math.min(disk.bytes.length - byteOffset, 1 + next(next(10) === 0 ? 5 * BLOCK : 9000));
      const read = await readAny(device, byteOffset, byteLength);
      expect(
        read.equals(disk.bytes.subarray(byteOffset, byteOffset + byteLength)),
        `${byteLength} bytes at ${byteOffset}`,
      ).toBe(true);
    }
  });

  it('reads the same with many reads at the same time', async () => {
    const { device } = await open(new SingleFlightStore(new MemoryStore(disk.blocks)), {
      cacheBytesMax: 8 * BLOCK,
      readahead: true,
    });
    let random = 3;
    const next = (below: number): number => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % below;
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(
        Array.from({ length: 32 }, async () => {
          const byteOffset = next(disk.bytes.length - 10_000);
          const byteLength = 1 + next(10_000);
          const read = await readAny(device, byteOffset, byteLength);
          expect(read.equals(disk.bytes.subarray(byteOffset, byteOffset + byteLength))).toBe(true);
        }),
      );
    }
  });

  it('reads zero blocks without asking anybody', async () => {
    const below = new MemoryStore(disk.blocks);
    const { device } = await open(below);
    const target = Buffer.alloc(4096, 1);
    expect(device.tryRead(target, 3 * BLOCK + 4096)).toBe(true);
    expect(target.equals(Buffer.alloc(4096))).toBe(true);
    expect(below.asked).toEqual([]);
  });

  it('says which ranges are holes, from the map alone', async () => {
    const { device } = await open(new MemoryStore(disk.blocks));
    expect(device.extents(0, 5 * BLOCK)).toEqual([
      { byteLength: 3 * BLOCK, kind: 'data' },
      { byteLength: BLOCK, kind: 'hole' },
      { byteLength: BLOCK, kind: 'data' },
    ]);
    expect(device.extents(3 * BLOCK + 10, 20)).toEqual([{ byteLength: 20, kind: 'hole' }]);
    const whole = device.extents(0, disk.bytes.length);
    expect(whole.reduce((sum, extent) => sum + extent.byteLength, 0)).toBe(disk.bytes.length);
  });

  it('refuses writes', async () => {
    const { device } = await open(new MemoryStore(disk.blocks));
    expect(device.tryWrite()).toBe(false);
    await expect(device.write()).rejects.toMatchObject({ code: 'read-only' });
    await expect(device.trim()).rejects.toMatchObject({ code: 'read-only' });
    await expect(device.zero()).rejects.toMatchObject({ code: 'read-only' });
  });

  it('refuses the map of a disk that is not public', async () => {
    const { cache } = await open(new MemoryStore(disk.blocks));
    const map = DiskMap.empty({ diskBytes: BLOCK, blockBytes: BLOCK });
    map.set(0, { kind: 'private', digest: 'ab'.repeat(32) as Digest });
    expect(() => new ImageDevice(map, cache.store, { name: 'x', waitMs: 1 })).toThrow(
      expect.objectContaining({ code: 'malformed' }) as Error,
    );
  });

  it('gives up a read after its waiting time, keeps fetching, says when the block has come, and serves it then', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const events: string[] = [];
    const { device } = await open(gated, {
      clock,
      onUnavailable: (blockIndex) => events.push(`unavailable ${blockIndex}`),
      onArrived: (blockIndex, waitedMs) => events.push(`arrived ${blockIndex} after ${waitedMs}`),
    });
    const target = Buffer.alloc(4096, 0xcc);
    const reading = device.read(target, 2 * BLOCK);
    await eventually('the fetch', () => gated.calls.length === 1);
    clock.advance(4_999);
    await settle();
    expect(device.waiting).toMatchObject([{ blockIndex: 2, waitedMs: 4_999, isUnavailable: false }]);
    clock.advance(1);
    await expect(reading).rejects.toMatchObject({ code: 'block-unavailable', data: { blockIndex: 2 } });
    expect(gated.aborted).toBe(0);
    expect(gated.call(0).options.rank.fetchClass).toBe('demand');
    expect(device.waiting).toMatchObject([{ blockIndex: 2, isUnavailable: true }]);
    clock.advance(60_000);
    gated.call(0).resolve(disk.blocks.get(gated.call(0).request.digest) ?? Buffer.alloc(0));
    await eventually('the arrival', () => events.length === 2);
    expect(events).toEqual(['unavailable 2', 'arrived 2 after 65000']);
    expect(target.equals(Buffer.alloc(4096, 0xcc))).toBe(true); // nothing is written to a buffer that was given back
    expect(device.waiting).toEqual([]);
    expect((await readAny(device, 2 * BLOCK, 4096)).equals(disk.bytes.subarray(2 * BLOCK, 2 * BLOCK + 4096))).toBe(
      true,
    );
    expect(gated.calls.length).toBe(1);
  });

  it('holds the error back for the grace time, in which the block may still come, and no longer than a wait that is shortened', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const unavailable: number[] = [];
    const { device } = await open(gated, { clock, graceMs: 800, onUnavailable: (index) => unavailable.push(index) });
    const target = Buffer.alloc(512);
    const lucky = device.read(target, 0);
    const other = device.read(Buffer.alloc(512), 2 * BLOCK);
    const refused = expect(other).rejects.toMatchObject({ code: 'block-unavailable', data: { blockIndex: 2 } });
    await eventually('the fetches', () => gated.calls.length === 2);
    clock.advance(5_000);
    await settle();
    expect(unavailable).toEqual([0, 2]);
    expect(device.waiting.map(({ isUnavailable }) => isUnavailable)).toEqual([true, true]);
    clock.advance(700);
    await settle();
    gated.call(0).resolve(disk.blocks.get(gated.call(0).request.digest) ?? Buffer.alloc(0));
    await lucky;
    expect(target.equals(disk.bytes.subarray(0, 512))).toBe(true);
    let isSettled = false;
    void refused.then(() => (isSettled = true));
    await settle();
    expect(isSettled).toBe(false);
    device.setWaitMs(1);
    clock.advance(1);
    await refused;
    device.setWaitMs(5_000);
  });

  it('lets a repeated read join the fetch that an earlier one gave up', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const { device } = await open(gated, { clock });
    const first = device.read(Buffer.alloc(512), 0);
    await eventually('the fetch', () => gated.calls.length === 1);
    clock.advance(5_000);
    await expect(first).rejects.toMatchObject({ code: 'block-unavailable' });
    const second = readAny(device, 0, 512);
    await settle();
    gated.call(0).resolve(disk.blocks.get(gated.call(0).request.digest) ?? Buffer.alloc(0));
    expect((await second).equals(disk.bytes.subarray(0, 512))).toBe(true);
    expect(gated.calls.length).toBe(1);
  });

  it('asks again for a block that a machine is paused for when its fetch has failed for good', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    let arrived = 0;
    const { device } = await open(gated, { clock, onArrived: () => (arrived += 1) });
    const reading = device.read(Buffer.alloc(512), 0);
    await eventually('the fetch', () => gated.calls.length === 1);
    clock.advance(5_000);
    await expect(reading).rejects.toMatchObject({ code: 'block-unavailable' });
    gated.call(0).reject(new CollectiveError('local-io'));
    await eventually('the pause', () => clock.sleeperCount === 1);
    clock.advance(2_000);
    await eventually('the second fetch', () => gated.calls.length === 2);
    expect(device.waiting).toMatchObject([{ blockIndex: 0, waitedMs: 7_000, isUnavailable: true }]);
    gated.call(1).resolve(disk.blocks.get(gated.call(1).request.digest) ?? Buffer.alloc(0));
    await eventually('the arrival', () => arrived === 1);
  });

  it('stops a fetch when its only reader leaves before the waiting time is over', async () => {
    const gated = new GatedStore();
    const { device } = await open(gated, { clock: new ManualClock() });
    const abort = new AbortController();
    const reading = device.read(Buffer.alloc(512), 0, { signal: abort.signal });
    await eventually('the fetch', () => gated.calls.length === 1);
    abort.abort(new Error('client gone'));
    await expect(reading).rejects.toThrow('client gone');
    expect(gated.aborted).toBe(1);
    expect(device.waiting).toEqual([]);
  });

  /**
   * What was seen: the fetch that nobody waited for any more ended a moment after the next reader had begun another, and took that one's
   * entry away. When the new read was refused nobody remembered it: no event, no arrival, nothing in `waiting`.
   */
  it('a fetch that its last reader has left ends late, and the next reader is still waited for and said to wait', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const events: string[] = [];
    const { device } = await open(gated, {
      clock,
      onUnavailable: (blockIndex) => events.push(`unavailable ${blockIndex}`),
      onArrived: (blockIndex) => events.push(`arrived ${blockIndex}`),
    });
    const abort = new AbortController();
    const first = device.read(Buffer.alloc(512), 0, { signal: abort.signal });
    await eventually('the fetch', () => gated.calls.length === 1);
    abort.abort(new Error('client gone'));
    const second = device.read(Buffer.alloc(512), 0); // in the same turn: the first fetch has not ended
    const refused = expect(second).rejects.toMatchObject({ code: 'block-unavailable' });
    await expect(first).rejects.toThrow('client gone');
    await eventually('the second fetch', () => gated.calls.length === 2);
    await settle();
    expect(device.waiting).toMatchObject([{ blockIndex: 0, isUnavailable: false }]);
    clock.advance(5_000);
    await refused;
    expect(device.waiting).toMatchObject([{ blockIndex: 0, isUnavailable: true }]);
    gated.call(1).resolve(disk.blocks.get(gated.call(1).request.digest) ?? Buffer.alloc(0));
    await eventually('the arrival', () => events.length === 2);
    expect(events).toEqual(['unavailable 0', 'arrived 0']);
  });

  /**
   * What was seen: a guest wrote one sector during an outage. The fill of its granule waited for the rest, was refused after the waiting
   * time, and was announced as a read for which the machine is paused: an IDE guest was stopped for a write.
   */
  it('a read in the background is given up without a word, and its fetch goes on for the next try', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const events: string[] = [];
    const { device } = await open(gated, {
      clock,
      onUnavailable: (blockIndex) => events.push(`unavailable ${blockIndex}`),
      onArrived: (blockIndex) => events.push(`arrived ${blockIndex}`),
    });
    const background = (): Promise<void> => device.read(Buffer.alloc(512), 0, { isBackground: true });
    const first = background();
    await eventually('the fetch', () => gated.calls.length === 1);
    device.setWaitMs(50); // a paused machine's reads are given up soon; this is none
    clock.advance(4_999);
    await settle();
    expect(device.waiting).toMatchObject([{ blockIndex: 0, isUnavailable: false }]);
    clock.advance(1);
    await expect(first).rejects.toMatchObject({ code: 'block-unavailable' });
    expect(events).toEqual([]);
    expect(device.counters.unavailable).toBe(0);
    expect(device.waiting).toMatchObject([{ blockIndex: 0, isUnavailable: false }]);
    const second = background();
    const guest = device.read(Buffer.alloc(512), 4096);
    clock.advance(50);
    await expect(guest).rejects.toMatchObject({ code: 'block-unavailable' });
    expect(gated.calls.length).toBe(1);
    gated.call(0).resolve(disk.blocks.get(gated.call(0).request.digest) ?? Buffer.alloc(0));
    await second;
    expect(events).toEqual(['unavailable 0', 'arrived 0']);
  });

  it('asks for all missing blocks of a read at once', async () => {
    const gated = new GatedStore();
    const { device } = await open(gated, { clock: new ManualClock() });
    const reading = readAny(device, 0, 3 * BLOCK);
    await eventually('three fetches', () => gated.calls.length === 3);
    for (const call of gated.calls) call.resolve(disk.blocks.get(call.request.digest) ?? Buffer.alloc(0));
    expect((await reading).equals(disk.bytes.subarray(0, 3 * BLOCK))).toBe(true);
  });

  it('reads ahead of a sequential reader, in the class below demand', async () => {
    const gated = new GatedStore();
    const single = new SingleFlightStore(gated);
    const { device } = await open(single, { readahead: true });
    const answer = (): void => {
      for (const call of gated.calls) call.resolve(disk.blocks.get(call.request.digest) ?? Buffer.alloc(0));
    };
    for (const blockIndex of [7, 8]) {
      const reading = readAny(device, blockIndex * BLOCK, 512);
      await eventually(`block ${blockIndex}`, () =>
        gated.calls.some((call) => call.request.digest === disk.map.digestAt(blockIndex)),
      );
      answer();
      await reading;
    }
    // Blocks 9 to 12; block 10 is zero.
    await eventually('the readahead', () => gated.calls.length === 5);
    expect(gated.calls.map((call) => call.options.rank.fetchClass)).toEqual([
      'demand',
      'demand',
      'trace',
      'trace',
      'trace',
    ]);
    answer();
  });

  it('asks for the blocks of a trace in its order, once, and does not read ahead of what it has foreseen', async () => {
    const gated = new GatedStore();
    const { device } = await open(new SingleFlightStore(gated), { readahead: true });
    const answered = async (): Promise<void> => {
      for (const call of gated.calls) call.resolve(disk.blocks.get(call.request.digest) ?? Buffer.alloc(0));
      await new Promise((resolve) => setImmediate(resolve));
    };
    // Block 10 is all zero, and there is no block 1,000,000.
    expect(device.foresee(touchesOf(8, 10, 7, 1_000_000))).toBe(2);
    await eventually('the trace', () => gated.calls.length === 2);
    expect(gated.calls.map(({ request }) => request.digest)).toEqual([8, 7].map((index) => disk.map.digestAt(index)));
    expect(gated.calls.map((call) => call.options.rank.fetchClass)).toEqual(['trace', 'trace']);
    const reading = [readAny(device, 7 * BLOCK, 512), readAny(device, 8 * BLOCK, 512)];
    await eventually('they wait', () => device.waiting.length === 2);
    expect(gated.calls.map((call) => call.options.rank.fetchClass)).toEqual(['demand', 'demand']);
    await answered();
    await Promise.all(reading);
    expect(gated.calls).toHaveLength(2);
    expect(device.foresee(touchesOf(8, 7))).toBe(0);
  });

  it('brings a group in the class of traces, without what is here or waited for, and does not read ahead in it', async () => {
    const gated = new GatedStore();
    const { device } = await open(new SingleFlightStore(gated), { readahead: true });
    const reading = readAny(device, 8 * BLOCK, 512);
    await eventually('the read', () => gated.calls.length > 0);
    await settle();
    const before = gated.calls.length;
    device.bringIfRoom([8, 10, 20, 1_000_000, 19]);
    await eventually('the group', () => gated.calls.length >= before + 2);
    const calls = gated.calls.slice(before);
    expect(calls.map(({ request }) => request.digest)).toEqual([20, 19].map((index) => disk.map.digestAt(index)));
    expect(calls.map((call) => call.options.rank.fetchClass)).toEqual(['trace', 'trace']);
    const member = readAny(device, 20 * BLOCK, 512);
    await eventually('it waits', () => device.waiting.length === 2);
    for (const call of gated.calls) call.resolve(disk.blocks.get(call.request.digest) ?? Buffer.alloc(0));
    await Promise.all([reading, member]);
    await settle();
    expect(gated.calls).toHaveLength(before + 2);
    device.bringIfRoom([20, 19]);
    await settle();
    expect(gated.calls).toHaveLength(before + 2);
  });

  it('brings no group into a cache that is full', async () => {
    const below = new MemoryStore(disk.blocks);
    const { device, cache } = await open(below, { cacheBytesMax: 6 * BLOCK });
    for (let block = 0; below.asked.length < 12; block += 1) await readAny(device, block * BLOCK, 512);
    expect(cache.writer.hasRoom(BLOCK)).toBe(false);
    const asked = below.asked.length;
    device.bringIfRoom([20, 21, 22]);
    for (let turn = 0; turn < 10; turn += 1) await settle();
    expect(below.asked).toHaveLength(asked);
  });

  it('asks for the trace again after an outage in which it was given up', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const { device } = await open(new SingleFlightStore(gated), { clock });
    device.foresee(touchesOf(8, 7, 6));
    await eventually('the trace', () => gated.calls.length === 3);
    const late = [7, 8].map((index) => device.read(Buffer.alloc(512), index * BLOCK));
    for (const read of late) read.catch(() => undefined);
    gated.call(2).reject(new CollectiveError('repository-unreachable', 'no'));
    clock.advance(5_000);
    await Promise.allSettled(late);
    const answer = (call: GatedCall): void => call.resolve(disk.blocks.get(call.request.digest) ?? Buffer.alloc(0));
    answer(gated.call(0));
    await settle();
    expect(gated.calls).toHaveLength(3); // the machine is paused still
    answer(gated.call(1));
    await eventually('the trace again', () => gated.calls.length === 4);
    expect(gated.call(3).request.digest).toBe(disk.map.digestAt(6));
    expect(gated.call(3).options.rank.fetchClass).toBe('trace');
  });

  it('gives reads up sooner when it is told to, those that wait already included', async () => {
    const clock = new ManualClock();
    const { device } = await open(new GatedStore(), { clock });
    const early = device.read(Buffer.alloc(512), 0).then(
      () => 'read',
      (error: unknown) => (error instanceof CollectiveError ? error.code : String(error)),
    );
    clock.advance(1_000);
    device.setWaitMs(50);
    clock.advance(50);
    expect(await early).toBe('block-unavailable');
    const late = device.read(Buffer.alloc(512), BLOCK);
    clock.advance(50);
    await expect(late).rejects.toMatchObject({ code: 'block-unavailable' });
  });

  it('waits for what is under way and refuses afterwards, when it is closed', async () => {
    const gated = new GatedStore();
    const { device } = await open(gated, { clock: new ManualClock() });
    const reading = device.read(Buffer.alloc(512), 0);
    reading.catch(() => undefined);
    await eventually('the fetch', () => gated.calls.length === 1);
    await device.close();
    await expect(reading).rejects.toMatchObject({ code: 'shutting-down' });
    await expect(device.read(Buffer.alloc(512), 0)).rejects.toMatchObject({ code: 'shutting-down' });
  });
});

const touchesOf = (...blocks: number[]) => blocks.map((blockIndex) => ({ blockIndex, chunkBytes: 0 }));

describe('recorder', () => {
  it('remembers first touches in order, with time and phase', async () => {
    const { device } = await open(new MemoryStore(disk.blocks));
    const clock = new ManualClock();
    const recorder = new Recorder(device, { blockBytes: BLOCK, clock });
    const read = async (byteOffset: number, byteLength: number): Promise<void> => {
      const target = Buffer.alloc(byteLength);
      if (!recorder.tryRead(target, byteOffset)) await recorder.read(target, byteOffset);
    };
    await read(5 * BLOCK, 512);
    clock.advance(10);
    recorder.setPhase(1);
    await read(4 * BLOCK + 100, 2 * BLOCK);
    expect(recorder.touches).toEqual([
      { blockIndex: 5, afterMs: 0, phase: 0, chunkBytes: 0 },
      { blockIndex: 4, afterMs: 10, phase: 1, chunkBytes: 0 },
      { blockIndex: 6, afterMs: 10, phase: 1, chunkBytes: 0 },
    ]);
    recorder.restart();
    await read(5 * BLOCK, 512);
    expect(recorder.touches).toEqual([{ blockIndex: 5, afterMs: 0, phase: 0, chunkBytes: 0 }]);
  });

  it('leaves out what was written as a whole before it was read, and more touches than it may keep', async () => {
    const memory = new MemoryDevice(16 * BLOCK);
    const recorder = new Recorder(memory, { blockBytes: BLOCK, clock: new ManualClock(), touchesMax: 3 });
    const read = (blockIndex: number): boolean => recorder.tryRead(Buffer.alloc(512), blockIndex * BLOCK);
    // Blocks 1 and 2 whole, 0 and 3 in part.
    recorder.tryWrite(Buffer.alloc(3 * BLOCK), BLOCK - 512);
    await recorder.zero(5 * BLOCK, BLOCK);
    await recorder.trim(6 * BLOCK, BLOCK);
    for (const blockIndex of [0, 1, 2, 3, 5, 6, 7, 8]) read(blockIndex);
    expect(recorder.touches.map(({ blockIndex }) => blockIndex)).toEqual([0, 3, 7]);
  });
});
