/** The layers between cache and line, each by itself and all together. Over 400 lines: one contract and one set of doubles serve them all. */
import { describe, expect, it } from 'vitest';
import { CollectiveError, type Digest } from '@collective/shared';
import { RANK } from '../block-store.js';
import { itIsABlockStore } from '../testing/block-store-contract.js';
import { eventually, settle } from '../testing/eventually.js';
import { openLocalCache, temporaryFolder } from '../testing/local-cache.js';
import { ManualClock } from '../testing/manual-clock.js';
import { GatedStore, MemoryStore, requestFor } from '../testing/test-stores.js';
import { TestRepository } from '../testing/test-repository.js';
import { HttpStore } from './http-store.js';
import { LinkMeter } from './link-meter.js';
import { RaisableRank } from './raisable-rank.js';
import { RetryingStore } from './retrying-store.js';
import type { Line } from './scheduler-plan.js';
import { SchedulingStore } from './scheduling-store.js';
import { SingleFlightStore } from './single-flight-store.js';
import { VerifyingStore } from './verifying-store.js';

const A = 'aa'.repeat(32) as Digest;
const B = 'bb'.repeat(32) as Digest;
const bytes = Buffer.from('block');

describe('memory store', () => itIsABlockStore(async (blocks) => ({ store: new MemoryStore(blocks) })));
describe('single-flight store', () =>
  itIsABlockStore(async (blocks) => ({ store: new SingleFlightStore(new MemoryStore(blocks)) })));
describe('retrying store', () =>
  itIsABlockStore(async (blocks) => ({
    store: new RetryingStore(new MemoryStore(blocks), { clock: new ManualClock() }),
  })));
describe('verifying store', () =>
  itIsABlockStore(async (_, chunks) => ({ store: new VerifyingStore(new MemoryStore(chunks)) })));
describe('verifying over scheduling store', () =>
  itIsABlockStore(async (_, chunks) => ({ store: new VerifyingStore(new SchedulingStore(new MemoryStore(chunks))) })));
describe('cached store', () =>
  itIsABlockStore(async (blocks) => {
    const temporary = await temporaryFolder();
    const cache = await openLocalCache(temporary.folder, new MemoryStore(blocks));
    return {
      store: cache.store,
      close: async () => {
        await cache.close();
        await temporary[Symbol.asyncDispose]();
      },
    };
  }));
describe('the chain down to HTTP', () =>
  itIsABlockStore(async (_, chunks) => {
    const repository = await TestRepository.open(chunks);
    const http = new HttpStore({ origin: repository.origin }, { meter: new LinkMeter(() => performance.now()) });
    return {
      store: new SingleFlightStore(
        new RetryingStore(new VerifyingStore(new SchedulingStore(http)), { clock: new ManualClock() }),
      ),
      close: async () => {
        await http.close();
        await repository[Symbol.asyncDispose]();
      },
    };
  }));

describe('what is asked for ahead', () => {
  it('is asked for once in each class, and again when that has failed', async () => {
    const temporary = await temporaryFolder();
    const gated = new GatedStore();
    const { filling, close } = await openLocalCache(temporary.folder, gated);
    const asked = () => gated.calls.map(({ options }) => options.rank.fetchClass);
    for (const rank of [RANK.hoard, RANK.hoard, RANK.trace, RANK.trace]) filling.warm([requestFor(A)], rank);
    expect(asked()).toEqual(['hoard', 'trace']);
    gated.call(1).reject(new CollectiveError('repository-unreachable', 'no'));
    await settle();
    filling.warm([requestFor(A)], RANK.trace);
    expect(asked()).toEqual(['hoard', 'trace', 'trace']);
    await close();
    await temporary[Symbol.asyncDispose]();
  });
});

describe('single flight', () => {
  it('fetches once for many waiters', async () => {
    const gated = new GatedStore();
    const store = new SingleFlightStore(gated);
    const waiters = [1, 2, 3].map(() => store.get(requestFor(A), { rank: RANK.demand }));
    gated.call(0).resolve(bytes);
    expect(await Promise.all(waiters)).toEqual([bytes, bytes, bytes]);
    expect(gated.calls.length).toBe(1);
    expect(store.flightCount).toBe(0);
  });

  it('lets a waiter leave while others still get the block', async () => {
    const gated = new GatedStore();
    const store = new SingleFlightStore(gated);
    const abort = new AbortController();
    const leaving = store.get(requestFor(A), { rank: RANK.demand, signal: abort.signal });
    const staying = store.get(requestFor(A), { rank: RANK.demand });
    const reason = new Error('gone');
    abort.abort(reason);
    await expect(leaving).rejects.toBe(reason);
    gated.call(0).resolve(bytes);
    expect(await staying).toBe(bytes);
    expect(gated.aborted).toBe(0);
  });

  it('stops the fetch when the last waiter has left, and fetches anew for the next', async () => {
    const gated = new GatedStore();
    const store = new SingleFlightStore(gated);
    const aborts = [new AbortController(), new AbortController()];
    const waiters = aborts.map((abort) => store.get(requestFor(A), { rank: RANK.demand, signal: abort.signal }));
    for (const abort of aborts) abort.abort(new Error('gone'));
    await Promise.allSettled(waiters);
    expect(gated.aborted).toBe(1);
    const next = store.get(requestFor(A), { rank: RANK.demand });
    expect(gated.calls.length).toBe(2);
    gated.call(1).resolve(bytes);
    expect(await next).toBe(bytes);
  });

  it('raises the fetch to the best class of its waiters', async () => {
    const gated = new GatedStore();
    const store = new SingleFlightStore(gated);
    const first = store.get(requestFor(A), { rank: RANK.background });
    let raises = 0;
    gated.call(0).options.rank.onRaise(() => (raises += 1));
    const second = store.get(requestFor(A), { rank: RANK.demand });
    expect(gated.call(0).options.rank.fetchClass).toBe('demand');
    expect(raises).toBe(1);
    gated.call(0).resolve(bytes);
    await Promise.all([first, second]);
  });

  it('gives every waiter the error and remembers nothing of it', async () => {
    const gated = new GatedStore();
    const store = new SingleFlightStore(gated);
    const waiters = [1, 2].map(() => store.get(requestFor(A), { rank: RANK.demand }));
    gated.call(0).reject(new CollectiveError('block-missing'));
    for (const waiter of waiters) await expect(waiter).rejects.toMatchObject({ code: 'block-missing' });
    void store.get(requestFor(A), { rank: RANK.demand }).catch(() => undefined);
    expect(gated.calls.length).toBe(2);
    gated.call(1).reject(new CollectiveError('block-missing'));
  });
});

describe('retry', () => {
  const open = () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const failures: string[] = [];
    const store = new RetryingStore(gated, {
      clock,
      random: () => 0.5,
      onFailure: ({ error }) => failures.push(error.code),
    });
    return { gated, clock, store, failures };
  };
  const failAndWait = async (gated: GatedStore, index: number, error: Error): Promise<void> => {
    await eventually(`attempt ${index}`, () => gated.calls.length > index);
    gated.call(index).reject(error);
    await settle();
  };

  it('tries again at once after a connection was lost, then ever more slowly, without end while a guest waits', async () => {
    const { gated, clock, store } = open();
    const waiting = store.get(requestFor(A), { rank: RANK.demand });
    for (let attempt = 0; attempt < 40; attempt += 1) {
      await failAndWait(gated, attempt, new CollectiveError('repository-unreachable'));
      if (attempt > 0) clock.advance(10_000);
    }
    await eventually('attempt 40', () => gated.calls.length > 40);
    gated.call(40).resolve(bytes);
    expect(await waiting).toBe(bytes);
    expect(clock.slept.slice(0, 5)).toEqual([300, 600, 1200, 1500, 1500]);
  });

  it('gives up a prefetch after six failures', async () => {
    const { gated, clock, store } = open();
    const waiting = store.get(requestFor(A), { rank: RANK.trace });
    waiting.catch(() => undefined);
    for (let attempt = 0; attempt < 6; attempt += 1) {
      await failAndWait(gated, attempt, new CollectiveError('block-corrupt'));
      clock.advance(60_000);
    }
    await expect(waiting).rejects.toMatchObject({ code: 'block-corrupt' });
  });

  it('does not repeat what cannot succeed, unless a guest waits: then now and then, for the repository may be repaired', async () => {
    const { gated, clock, store } = open();
    const prefetch = store.get(requestFor(A), { rank: RANK.hoard });
    prefetch.catch(() => undefined);
    await failAndWait(gated, 0, new CollectiveError('block-missing'));
    await expect(prefetch).rejects.toMatchObject({ code: 'block-missing' });
    const demand = store.get(requestFor(B), { rank: RANK.demand });
    await failAndWait(gated, 1, new CollectiveError('block-missing'));
    expect(clock.slept).toEqual([30_000]);
    clock.advance(30_000);
    await eventually('the repeated attempt', () => gated.calls.length > 2);
    gated.call(2).resolve(bytes);
    expect(await demand).toBe(bytes);
  });

  it('wakes when the fetch is raised and when the network is back', async () => {
    const { gated, store } = open();
    const rank = new RaisableRank('background');
    const waiting = store.get(requestFor(A), { rank });
    await failAndWait(gated, 0, new CollectiveError('internal'));
    expect(gated.calls.length).toBe(1);
    rank.raise('demand');
    await eventually('the attempt after the raise', () => gated.calls.length === 2);
    await failAndWait(gated, 1, new CollectiveError('internal'));
    store.retryNow();
    await eventually('the attempt after retryNow', () => gated.calls.length === 3);
    gated.call(2).resolve(bytes);
    expect(await waiting).toBe(bytes);
  });

  it('stops sleeping when the waiter leaves', async () => {
    const { gated, clock, store, failures } = open();
    const abort = new AbortController();
    const waiting = store.get(requestFor(A), { rank: RANK.demand, signal: abort.signal });
    await failAndWait(gated, 0, new CollectiveError('internal'));
    const reason = new Error('gone');
    abort.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    expect(clock.sleeperCount).toBe(0);
    expect(failures).toEqual(['internal']);
  });

  it('tries with one of the reads that wait every two seconds, and with the others when the server asks for it or that one succeeds', async () => {
    const { gated, clock, store } = open();
    const later = (): Error => new CollectiveError('rate-limited', 'later', { data: { retryAfterMs: 7000 } });
    const probing = store.get(requestFor(A), { rank: RANK.demand });
    const waiting = [store.get(requestFor(B), { rank: RANK.demand }), store.get(requestFor(B), { rank: RANK.demand })];
    for (let attempt = 0; attempt < 3; attempt += 1) await failAndWait(gated, attempt, later());
    expect(clock.slept).toEqual([2000, 7000, 7000]);
    clock.advance(2000);
    await eventually('the attempt of the probe', () => gated.calls.length === 4);
    expect(gated.call(3).request.digest).toBe(A);
    gated.call(3).resolve(bytes);
    expect(await probing).toBe(bytes);
    await eventually('the attempts of the others', () => gated.calls.length === 6);
    for (const index of [4, 5]) gated.call(index).resolve(bytes);
    expect(await Promise.all(waiting)).toEqual([bytes, bytes]);
  });

  it('lets another read try when the guest that tried has left', async () => {
    const { gated, clock, store } = open();
    const later = (): Error => new CollectiveError('internal', 'later', { data: { retryAfterMs: 20_000 } });
    const abort = new AbortController();
    const leaving = store.get(requestFor(A), { rank: RANK.demand, signal: abort.signal });
    const staying = store.get(requestFor(B), { rank: RANK.demand });
    await failAndWait(gated, 0, later());
    await failAndWait(gated, 1, later());
    abort.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    await failAndWait(gated, 2, later());
    expect(clock.slept).toEqual([2000, 20_000, 2000]);
    clock.advance(2000);
    await eventually('the attempt of the next probe', () => gated.calls.length === 4);
    gated.call(3).resolve(bytes);
    expect(await staying).toBe(bytes);
  });

  it('wakes nobody who waits for a block that is missing when another block has come', async () => {
    const { gated, store } = open();
    void store.get(requestFor(A), { rank: RANK.demand }).catch(() => undefined);
    await failAndWait(gated, 0, new CollectiveError('block-missing'));
    const other = store.get(requestFor(B), { rank: RANK.demand });
    await failAndWait(gated, 1, new CollectiveError('repository-unreachable'));
    gated.call(2).resolve(bytes);
    await other;
    await settle();
    expect(gated.calls.length).toBe(3);
  });
});

/** A line that holds eight chunks of 45,000 bytes. */
const EIGHT_CHUNKS: Line = { roundTripMs: 21, bytesPerSecond: 12.5e6, chunkBytes: 45_000, slowStartBytes: 0 };

describe('scheduler', () => {
  const start = (store: SchedulingStore, digest: Digest, fetchClass: 'demand' | 'trace' | 'hoard' | 'background') => {
    const rank = new RaisableRank(fetchClass);
    const abort = new AbortController();
    const chunk = store.getChunk(requestFor(digest), { rank, signal: abort.signal });
    chunk.catch(() => undefined);
    return { rank, abort, chunk };
  };
  const digestOf = (number: number): Digest => number.toString(16).padStart(64, '0') as Digest;

  it('sends a bounded number of each class and the rest in order', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    for (let number = 0; number < 20; number += 1) start(store, digestOf(number), 'trace');
    await settle();
    expect(gated.calls.length).toBe(8);
    gated.call(0).resolve(bytes);
    await settle();
    expect(gated.calls.map((call) => call.request.digest)).toEqual(
      Array.from({ length: 9 }, (_, number) => digestOf(number)),
    );
  });

  it('sends the next one before the last byte of what is outstanding has come', async () => {
    const gated = new GatedStore();
    // A line that holds 9,844 bytes: one chunk of any length, and another when so little of that is left.
    const store = new SchedulingStore(gated, () => ({
      roundTripMs: 40,
      bytesPerSecond: 187_500,
      chunkBytes: 20_000,
      slowStartBytes: 0,
    }));
    for (let number = 0; number < 3; number += 1)
      store
        .getChunk({ ...requestFor(digestOf(number)), chunkBytes: 60_000 }, { rank: RANK.trace })
        .catch(() => undefined);
    await settle();
    expect(gated.calls.length).toBe(1);
    gated.call(0).options.onBytes?.(50_000);
    expect(gated.calls.length).toBe(1);
    gated.call(0).options.onBytes?.(500);
    await settle();
    expect(gated.calls.length).toBe(2);
    // More than was said: it counts for no other.
    gated.call(0).options.onBytes?.(100_000);
    await settle();
    expect(gated.calls.length).toBe(2);
    for (const call of gated.calls) call.resolve(bytes);
    await settle();
    gated.calls.at(-1)?.resolve(bytes);
    await settle();
    expect(store.outstanding.trace).toBe(0);
  });

  it('lets demand pass everything that is queued', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    for (let number = 0; number < 20; number += 1) start(store, digestOf(number), 'trace');
    start(store, A, 'demand');
    await settle();
    expect(gated.calls.at(-1)?.request.digest).toBe(A);
  });

  it('sends a queued prefetch at once when a demand read joins it', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    for (let number = 0; number < 20; number += 1) start(store, digestOf(number), 'trace');
    const last = start(store, A, 'background');
    await settle();
    last.rank.raise('demand');
    await settle();
    expect(gated.calls.at(-1)?.request.digest).toBe(A);
    expect(store.queued.background).toBe(0);
    expect(store.outstanding.demand).toBe(1);
  });

  it('counts an outstanding prefetch as demand when it is raised, and sends another prefetch', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    const started = Array.from({ length: 9 }, (_, number) => start(store, digestOf(number), 'trace'));
    await settle();
    started[0]?.rank.raise('demand');
    await settle();
    expect(gated.calls.length).toBe(9);
    expect(store.outstanding).toMatchObject({ demand: 1, trace: 8 });
    for (const call of gated.calls) call.resolve(bytes);
    await settle();
    expect(store.outstanding).toEqual({ demand: 0, trace: 0, hoard: 0, background: 0 });
  });

  it('keeps hoard and background back while better ones are outstanding', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    start(store, digestOf(1), 'demand');
    start(store, digestOf(2), 'demand');
    start(store, digestOf(3), 'hoard');
    start(store, digestOf(4), 'background');
    await settle();
    expect(gated.calls.length).toBe(2);
    gated.call(0).resolve(bytes);
    gated.call(1).resolve(bytes);
    await settle();
    expect(gated.calls.map(({ options }) => options.rank.fetchClass)).toEqual(['demand', 'demand', 'hoard']);
    gated.call(2).resolve(bytes);
    await settle();
    expect(gated.calls.at(-1)?.options.rank.fetchClass).toBe('background');
  });

  it('sends what nobody waits for at its own rate, which follows how soon first bytes come', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS, clock);
    const pass = async (ms: number): Promise<void> => {
      clock.advance(ms);
      await settle();
    };
    const first = store.backgroundBytesPerSecond;
    const gapMs = (EIGHT_CHUNKS.chunkBytes * 1000) / first;
    for (let number = 0; number < 50; number += 1) start(store, digestOf(number), 'background');
    await settle();
    expect(gated.calls.length).toBe(1);
    await pass(gapMs - 1);
    expect(gated.calls.length).toBe(1);
    await pass(2);
    expect(gated.calls.length).toBe(2);
    const answer = async (waitMs: number): Promise<void> => {
      const call = gated.calls.at(-1);
      await pass(waitMs);
      call?.options.onBytes?.(EIGHT_CHUNKS.chunkBytes);
      call?.resolve(bytes);
      await pass(10_000); // the next one goes out
    };
    for (let count = 0; count < 4; count += 1) await answer(20);
    const quick = store.backgroundBytesPerSecond;
    expect(quick).toBeGreaterThanOrEqual(2 * first);
    for (let count = 0; count < 4; count += 1) await answer(300);
    expect(store.backgroundBytesPerSecond).toBeLessThan(quick);
    // A guest's read counts as well, what is asked for ahead in many requests does not.
    const late = store.backgroundBytesPerSecond;
    for (const fetchClass of ['trace', 'demand'] as const) {
      start(store, fetchClass === 'trace' ? A : digestOf(99), fetchClass);
      await settle();
      const call = gated.calls.at(-1);
      await pass(20);
      call?.options.onBytes?.(10);
      if (fetchClass === 'trace') expect(store.backgroundBytesPerSecond).toBe(late);
      else expect(store.backgroundBytesPerSecond).not.toBe(late);
    }
  });

  it('does not wait on at the lowest rate once a first byte has come soon', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS, clock);
    const gapMs = (EIGHT_CHUNKS.chunkBytes * 1000) / store.backgroundBytesPerSecond;
    for (let number = 0; number < 3; number += 1) start(store, digestOf(number), 'background');
    await settle();
    clock.advance(20);
    gated.call(0).options.onBytes?.(EIGHT_CHUNKS.chunkBytes);
    // The rate is twice as high: half of what was left is waited.
    clock.advance((gapMs - 20) / 2 - 1);
    await settle();
    expect(gated.calls.length).toBe(1);
    clock.advance(2);
    await settle();
    expect(gated.calls.length).toBe(2);
  });

  it('sends what nobody waits for also when its time comes between two looks at the clock', async () => {
    const gated = new GatedStore();
    const clock = new ManualClock();
    // Each look is a little later than the one before, and a timer ends a little early: so it is with a real clock.
    let dueAtMs = Infinity;
    let looks = 0;
    const late = {
      nowMs: () => (clock.nowMs() < dueAtMs ? clock.nowMs() : dueAtMs + (looks++ === 0 ? -0.001 : 0.001)),
      after: (ms: number, callback: () => void) => clock.after(ms - 0.5, callback),
    };
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS, late);
    const gapMs = (EIGHT_CHUNKS.chunkBytes * 1000) / store.backgroundBytesPerSecond;
    start(store, A, 'background');
    start(store, B, 'background');
    await settle();
    gated.call(0).resolve(bytes);
    await settle();
    dueAtMs = gapMs;
    for (let count = 0; count < 5; count += 1) {
      clock.advance(count === 0 ? gapMs : 1);
      await settle();
    }
    expect(gated.calls.length).toBe(2);
  });

  it('forgets a queued request whose waiter left', async () => {
    const gated = new GatedStore();
    const store = new SchedulingStore(gated, () => EIGHT_CHUNKS);
    const started = Array.from({ length: 9 }, (_, number) => start(store, digestOf(number), 'trace'));
    started[8]?.abort.abort(new Error('gone'));
    await expect(started[8]?.chunk).rejects.toThrow('gone');
    expect(store.queued.trace).toBe(0);
    started[0]?.abort.abort(new Error('gone'));
    await settle();
    expect(gated.calls.length).toBe(8);
    expect(store.outstanding.trace).toBe(7);
  });
});
