import { afterEach, describe, expect, it } from 'vitest';
import { CollectiveError, ERROR_TABLE, type ErrorCode } from '@collective/shared';
import { faultLines } from '../cli/commands/machines.js';
import { RANK } from './block-store.js';
import {
  FAULTS,
  FaultCounters,
  faultOfFetch,
  faultOfRequest,
  isFaultName,
  sumFaults,
  type FaultName,
} from './faults.js';
import { FaultCountingStore } from './fetch/fault-counting-store.js';
import { HttpStore } from './fetch/http-store.js';
import { LinkMeter } from './fetch/link-meter.js';
import { VerifyingStore } from './fetch/verifying-store.js';
import { testDisk } from './testing/test-disk.js';
import { TestRepository, type Behaviour } from './testing/test-repository.js';
import { requestFor } from './testing/test-stores.js';

const disk = testDisk({ diskBytes: 4 * 65_536, blockBytes: 65_536, noZeroes: true });
const [digest] = disk.blocks.keys();

describe('an answer that is no good is counted by its kind', () => {
  const closers: (() => PromiseLike<void>)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });

  const cases: readonly (readonly [Behaviour, FaultName])[] = [
    ['wrong-bytes', 'net-wrong-bytes'],
    ['other-block', 'net-wrong-bytes'],
    ['garbage', 'net-not-a-block'],
    ['huge', 'net-too-long'],
    ['reset', 'net-unreachable'],
    ['silent', 'net-silent'],
    ['stall', 'net-silent'],
    [{ status: 204 }, 'net-odd-answer'],
    [{ status: 302 }, 'net-odd-answer'],
    [{ status: 401 }, 'net-token-refused'],
    [{ status: 403 }, 'net-not-allowed'],
    [{ status: 404 }, 'net-missing'],
    [{ status: 429 }, 'net-busy'],
    [{ status: 503 }, 'net-busy'],
    [{ status: 500 }, 'net-server-failed'],
  ];

  it.each(cases)('%j is %s', async (behaviour, name) => {
    const repository = await TestRepository.open(disk.chunks);
    closers.push(() => repository[Symbol.asyncDispose]());
    repository.behave = () => behaviour;
    const http = new HttpStore({ origin: repository.origin }, { meter: new LinkMeter(() => performance.now()) });
    closers.push(() => http.close());
    const faults = new FaultCounters();
    const store = new FaultCountingStore(new VerifyingStore(http), faults);
    if (digest === undefined) throw new Error('the disk has no block');
    await expect(store.get(requestFor(digest), { rank: RANK.demand })).rejects.toThrow();
    expect(faults.counts).toEqual({ [name]: 1 });
  });

  it('a fetch that nobody wants any more is no fault', async () => {
    const repository = await TestRepository.open(disk.chunks);
    closers.push(() => repository[Symbol.asyncDispose]());
    repository.behave = () => 'silent';
    const http = new HttpStore({ origin: repository.origin }, { meter: new LinkMeter(() => performance.now()) });
    closers.push(() => http.close());
    const faults = new FaultCounters();
    const store = new FaultCountingStore(new VerifyingStore(http), faults);
    if (digest === undefined) throw new Error('the disk has no block');
    const abort = new AbortController();
    const got = store.get(requestFor(digest), { rank: RANK.demand, signal: abort.signal });
    abort.abort(new Error('gone'));
    await expect(got).rejects.toThrow('gone');
    expect(faults.counts).toEqual({});
  });
});

describe('faults', () => {
  it('every error that a fetch can end with is counted, or is the end of this process', () => {
    const uncounted = (
      ['repository-unreachable', 'not-allowed', 'token-expired', 'wrong-server', 'block-corrupt'] as const
    )
      .concat()
      .filter((code) => faultOfFetch(new CollectiveError(code)) === undefined);
    expect(uncounted).toEqual([]);
    expect(faultOfFetch(new CollectiveError('block-missing'))).toBe('net-missing');
    expect(faultOfFetch(new CollectiveError('internal'))).toBe('net-server-failed');
    expect(faultOfFetch(new CollectiveError('shutting-down'))).toBeUndefined();
  });

  it('connections that are renewed because the network is back are none', () => {
    expect(
      faultOfFetch(new CollectiveError('repository-unreachable', '', { data: { isRenewal: true } })),
    ).toBeUndefined();
  });

  it('a request of a guest that failed is counted by what failed', () => {
    const of = (code: ErrorCode): unknown => faultOfRequest(new CollectiveError(code));
    expect(of('block-unavailable')).toBe('reads-given-up');
    expect(of('disk-full')).toBe('write-disk-full');
    expect(of('local-io')).toBe('write-failed');
    expect(faultOfRequest(new CollectiveError('local-io', '', { data: { fault: 'layer-damaged' } }))).toBe(
      'layer-damaged',
    );
    for (const code of Object.keys(ERROR_TABLE))
      if (isFaultName(code)) throw new Error(`${code} is both error and fault`);
  });

  it('are summed over parts, and what did not happen is left out', () => {
    expect(sumFaults([{ 'net-busy': 1 }, { 'net-busy': 2, 'cache-disk-full': 0 }, {}])).toEqual({ 'net-busy': 3 });
  });
});

describe('status', () => {
  it('says nothing of faults when there were none', () => {
    expect(faultLines({})).toEqual([]);
  });

  it('says each kind that was met in a line of words', () => {
    expect(faultLines({ 'cache-block-damaged': 1, 'net-silent': 12 })).toEqual([
      `met         once: ${FAULTS['cache-block-damaged']}`,
      `            12 times: ${FAULTS['net-silent']}`,
    ]);
  });

  it('has words for every kind that say what became of it', () => {
    for (const [name, words] of Object.entries(FAULTS)) {
      expect(words.length, name).toBeGreaterThan(20);
      expect(words, name).not.toMatch(/[A-Z]/); // no name of an error, nothing that only we know
    }
  });
});
