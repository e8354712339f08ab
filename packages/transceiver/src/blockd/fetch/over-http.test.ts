/** The layers below the cache, over a real HTTP server that lies, stalls and goes away. */
import { afterEach, describe, expect, it } from 'vitest';
import type { Digest } from '@collective/shared';
import { RANK } from '../block-store.js';
import { awakeMs } from '../testing/awake-clock.js';
import { eventually } from '../testing/eventually.js';
import { ManualClock } from '../testing/manual-clock.js';
import { testDisk } from '../testing/test-disk.js';
import { TestRepository } from '../testing/test-repository.js';
import { requestFor } from '../testing/test-stores.js';
import { HttpStore } from './http-store.js';
import { LinkMeter } from './link-meter.js';
import { RetryingStore } from './retrying-store.js';
import { SchedulingStore } from './scheduling-store.js';
import { SingleFlightStore } from './single-flight-store.js';
import { VerifyingStore } from './verifying-store.js';

const A = 'aa'.repeat(32) as Digest;
const bytes = Buffer.from('block');

describe('over HTTP', () => {
  const BLOCK = 65_536;
  const disk = testDisk({ diskBytes: 20 * BLOCK, blockBytes: BLOCK, noZeroes: true });
  const digests = [...disk.blocks.keys()];
  const first = digests[0] ?? A;
  const closers: (() => PromiseLike<void>)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  const open = async (options: { readonly token?: string } = {}) => {
    const repository = await TestRepository.open(disk.chunks);
    closers.push(() => repository[Symbol.asyncDispose]());
    let refusals = 0;
    const meter = new LinkMeter(() => performance.now());
    const http = new HttpStore(
      { origin: repository.origin, token: options.token },
      { meter, onTokenRefused: () => (refusals += 1) },
    );
    closers.push(() => http.close());
    const verifying = new VerifyingStore(new SchedulingStore(http));
    const clock = new ManualClock();
    const troubles: string[] = [];
    const retrying = new RetryingStore(verifying, { clock, onFailure: ({ error }) => troubles.push(error.code) });
    const store = new SingleFlightStore(retrying);
    // The clock runs whenever somebody sleeps, so that retries come at once.
    const timer = setInterval(() => clock.sleeperCount > 0 && clock.advance(60_000), 1);
    closers.push(() => Promise.resolve(clearInterval(timer)));
    return { repository, http, verifying, retrying, store, troubles, meter, refusals: () => refusals };
  };

  it.each(['wrong-bytes', 'other-block', 'garbage', 'huge'] as const)(
    'refuses %s and fetches again until the block is right',
    async (behaviour) => {
      const { repository, store, verifying, troubles } = await open();
      repository.behave = (_, attempt) => (attempt <= 3 ? behaviour : 'serve');
      const block = await store.get(requestFor(first), { rank: RANK.demand });
      expect(block.equals(disk.blocks.get(first) ?? bytes)).toBe(true);
      expect(troubles).toEqual(['block-corrupt', 'block-corrupt', 'block-corrupt']);
      if (behaviour !== 'huge') expect(verifying.corrupt).toBe(3);
    },
  );

  it.each([
    { status: 503, retryAfter: 2 },
    { status: 500 },
    { status: 404 },
    { status: 301 },
    { status: 429 },
    'reset',
    'short',
  ] as const)('goes on after %o', async (behaviour) => {
    const { repository, store } = await open();
    repository.behave = (_, attempt) => (attempt <= 2 ? behaviour : 'serve');
    const block = await store.get(requestFor(first), { rank: RANK.demand });
    expect(block.equals(disk.blocks.get(first) ?? bytes)).toBe(true);
    expect(repository.attemptsOf(first)).toBe(3);
  });

  it.each(['silent', 'stall'] as const)(
    'repeats a request that is %s on a new connection after two seconds',
    async (behaviour) => {
      const { repository, store, troubles } = await open();
      repository.behave = (_, attempt) => (attempt <= 1 ? behaviour : 'serve');
      const [realMs, beganMs] = [performance.now(), awakeMs()];
      const block = await store.get(requestFor(first), { rank: RANK.demand });
      expect(block.equals(disk.blocks.get(first) ?? bytes)).toBe(true);
      expect(performance.now() - realMs).toBeGreaterThan(1900);
      expect(awakeMs() - beganMs).toBeLessThan(6000);
      expect(troubles).toEqual(['repository-unreachable']);
    },
  );

  it('says that the token was refused and uses the new one', async () => {
    const { repository, store, http, retrying, refusals } = await open({ token: 'old' });
    repository.behave = (digest) =>
      repository.requests.filter((request) => request.digest === digest).at(-1)?.authorization === 'Bearer new'
        ? 'serve'
        : { status: 401 };
    const waiting = store.get(requestFor(first), { rank: RANK.demand });
    await eventually('the refusal of the token', () => refusals() > 0);
    http.setRepository({ origin: repository.origin, token: 'new' });
    retrying.retryNow();
    expect((await waiting).length).toBe(BLOCK);
  });

  it('waits while the repository is away and goes on when it is back', async () => {
    const { repository, store, troubles } = await open();
    await repository.goAway();
    const waiting = Promise.all(digests.map((digest) => store.get(requestFor(digest), { rank: RANK.demand })));
    await eventually('failed attempts', () => troubles.length > 2 * digests.length);
    await repository.comeBack();
    const blocks = await waiting;
    expect(blocks.every((block, index) => block.equals(disk.blocks.get(digests[index] ?? A) ?? bytes))).toBe(true);
  });

  it('repeats what was under way on new connections when the network has changed', async () => {
    const { repository, store, http, retrying } = await open();
    repository.behave = () => 'silent';
    const waiting = store.get(requestFor(first), { rank: RANK.demand });
    await eventually('the request', () => repository.requests.length > 0);
    repository.behave = () => 'serve';
    const beganMs = awakeMs();
    http.renewConnections();
    retrying.retryNow();
    expect((await waiting).length).toBe(BLOCK);
    expect(awakeMs() - beganMs).toBeLessThan(1500);
  });

  it('on a slow line gives up in silence as soon as on a fast one, and what was asked in the silence as soon as the line speaks again', async () => {
    const repository = await TestRepository.open(disk.chunks);
    closers.push(() => repository[Symbol.asyncDispose]());
    const clock = new ManualClock();
    const meter = new LinkMeter(() => clock.nowMs());
    meter.addFirstByte(40);
    meter.addBytes(93_750); // in half a second: 1.5 Mbit/s, on which sixteen blocks take 5.6 s
    const http = new HttpStore({ origin: repository.origin }, { meter, clock });
    closers.push(() => http.close());
    const failed: Digest[] = [];
    const ask = (digest: Digest): Promise<unknown> =>
      http.getChunk(requestFor(digest), { rank: RANK.demand }).catch(() => failed.push(digest));
    repository.behave = () => 'silent';
    const early = digests.slice(0, 15);
    const pending = early.map(ask);
    const late = digests[15] ?? A;
    await eventually('the early requests', () => repository.requests.length === 15);
    clock.advance(1_900);
    pending.push(ask(late));
    await eventually('the late request', () => repository.requests.length === 16);
    clock.advance(150);
    await eventually('the early ones given up', () => failed.length === 15);
    expect(failed).not.toContain(late);
    repository.behave = () => 'serve';
    clock.advance(50);
    await ask(first);
    await eventually('the late one given up', () => failed.includes(late));
    await Promise.all(pending);
    expect(clock.nowMs()).toBe(2_100);
  });

  it('counts what came over the line', async () => {
    const { store, meter } = await open();
    await Promise.all(digests.map((digest) => store.get(requestFor(digest), { rank: RANK.trace })));
    const chunkBytes = [...disk.chunks.values()].reduce((sum, chunk) => sum + chunk.length, 0);
    expect(meter.status).toMatchObject({ bytes: chunkBytes, requests: digests.length });
    expect(meter.status.roundTripMs).toBeGreaterThan(0);
  });

  it('breaks what is under way when it is closed, and refuses from then on', async () => {
    const { repository, http } = await open();
    repository.behave = () => 'silent';
    const waiting = http.getChunk(requestFor(first), { rank: RANK.demand });
    waiting.catch(() => undefined);
    await eventually('the request', () => repository.requests.length > 0);
    await http.close();
    await expect(waiting).rejects.toMatchObject({ code: 'shutting-down' });
    await expect(http.getChunk(requestFor(first), { rank: RANK.demand })).rejects.toMatchObject({
      code: 'shutting-down',
    });
  });
});
