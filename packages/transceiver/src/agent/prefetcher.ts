/**
 * The background prefetcher: looks now and then whether there is a newer version of what the person uses on this machine, and brings in what its
 * next start and its use will want (prefetch-order.ts), in the class *background* of the block path: at the pace that others leave of the line, and never in the
 * place of what is in the cache. What it has brought in it does not ask for again, so it may be ended at any time.
 *
 * On a link that is metered it does nothing, and without the repository neither. Nothing waits for it.
 */
import { readdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { decodeBootTrace, decodeDiskUse, hasCode, usualBlocks, type DiskMap } from '@collective/shared';
import type { ControlClient } from '../blockd/control/control-client.js';
import type { ControlParams } from '../blockd/control/control-protocol.js';
import { orAborted } from '../blockd/fetch/single-flight-store.js';
import type { Home } from '../home.js';
import type { PrefetchStatus } from './agent-types.js';
import type { BootTraces } from './boot-traces.js';
import { olderMap } from './disk-maps.js';
import { listMissing, withListFile } from './missing-blocks.js';
import type { ObjectCache } from './object-cache.js';
import { blocksHere, changedBlocks, DIGEST_BYTES, digestsOf, prefetchOrder } from './prefetch-order.js';
import { runnableVersion, type RunnableVersion } from './runnable-version.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';

/** A login is followed by a start, often: that goes first. */
const FIRST_LOOK_MS = 60_000;
const LOOK_MS = 10 * 60_000;
/** Between two looks, whatever is said meanwhile: a look itself finds the repository back, and may lose it again at once. */
const REST_MS = 10_000;
/** Few: a slice is asked for as a whole, and the line may become metered meanwhile. */
const BLOCKS_A_SLICE = 16;

export type PrefetcherOptions = {
  readonly home: Pick<Home, 'directory' | 'machinesDirectory'>;
  readonly objects: ObjectCache;
  readonly session: Session;
  readonly traces: Pick<BootTraces, 'forStart'>;
  readonly blockd: () => Promise<Pick<ControlClient, 'request'>>;
  readonly applianceOf: (machine: string) => string;
  readonly isMetered: () => Promise<boolean>;
  readonly log: (text: string) => void;
  readonly firstLookMs?: number;
};

const isAway = (error: unknown): boolean => hasCode(error, 'repository-unreachable');
const now = (): number => Math.floor(Date.now() / 1000);

type Wanted = { readonly blockBytes: number; readonly digests: Buffer };

export class Prefetcher {
  readonly #options: PrefetcherOptions;
  readonly #ended = new AbortController();
  #status: PrefetchStatus = { state: 'idle' };
  /** Ends the wait for the next look. */
  #wake: () => void = () => undefined;
  #isWoken = false;
  readonly #running: Promise<void>;

  constructor(options: PrefetcherOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  get status(): PrefetchStatus {
    return this.#status;
  }

  /** There may be news: looks now. */
  wake(): void {
    this.#isWoken = true;
    this.#wake();
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    await this.#sleep(this.#options.firstLookMs ?? FIRST_LOOK_MS);
    while (!this.#ended.signal.aborted) {
      this.#isWoken = false;
      try {
        this.#status = { state: await this.#look(), lookedAt: now() };
      } catch (error) {
        if (this.#ended.signal.aborted) return;
        const state = hasCode(error, 'disk-full') ? 'full' : isAway(error) ? 'away' : 'failed';
        if (state === 'failed') this.#options.log(`bringing in ahead: ${String(error)}`);
        this.#status = { state, lookedAt: now() };
      }
      await delay(REST_MS, undefined, { signal: this.#ended.signal, ref: false }).catch(() => undefined);
      await this.#sleep(LOOK_MS);
    }
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#isWoken) return;
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    const signal = AbortSignal.any([this.#ended.signal, woken.signal]);
    await delay(ms, undefined, { signal, ref: false }).catch(() => undefined);
    this.#wake = () => undefined;
  }

  async #look(): Promise<PrefetchStatus['state']> {
    const { session, objects, isMetered } = this.#options;
    const { signal } = this.#ended;
    if (await isMetered()) return 'metered';
    const names = await this.#used();
    if (names.length === 0) return 'idle';
    const { source } = await session.refresh(signal);
    if (source === undefined) return 'away';
    let state: 'idle' | 'failed' = 'idle';
    for (const name of names) {
      const found = await runnableVersion({ name, isOnline: true }, { session, objects, signal }).catch(
        (error: unknown) => {
          // One that is withdrawn, or not this person's any more, keeps nobody from another.
          if (signal.aborted || isAway(error)) throw error;
          return undefined;
        },
      );
      if (found === undefined) continue;
      const { appliance, version } = found.verified.manifest;
      const what = `${appliance}@${String(version)}`;
      try {
        if (!(await this.#bring(what, await this.#wantedOf(found)))) return 'metered';
      } catch (error) {
        if (signal.aborted || isAway(error) || hasCode(error, 'disk-full')) throw error;
        this.#options.log(`bringing in ${what} ahead: ${String(error)}`);
        state = 'failed';
      }
    }
    return state;
  }

  /** The appliances that are used on this machine. */
  async #used(): Promise<readonly string[]> {
    const { home, applianceOf } = this.#options;
    const names = new Set<string>();
    for (const machine of await readdir(home.machinesDirectory))
      if ((await Subscription.read(home.machinesDirectory, machine)) !== undefined) names.add(applianceOf(machine));
    return [...names].sort();
  }

  /** What is not here yet of what the next start wants, disk by disk. */
  async #wantedOf({ verified, disks }: RunnableVersion): Promise<readonly Wanted[]> {
    const { manifest } = verified;
    const { objects } = this.#options;
    const { signal } = this.#ended;
    const { traces, uses } = await this.#options.traces.forStart(manifest, { isOnline: true, signal });
    const wanted: Wanted[] = [];
    for (const { description, map } of disks) {
      if (description.kind !== 'system') continue;
      const trace = traces.get(description.name);
      const traced = trace === undefined ? [] : decodeBootTrace(trace).touches.map(({ blockIndex }) => blockIndex);
      const before = (await olderMap({ manifest, disk: description, objects }))?.map;
      const used = before === undefined ? [] : await this.#usedOf(map, before);
      const use = uses.get(description.name);
      const usual = use === undefined ? [] : usualBlocks(decodeDiskUse(use));
      const digests = prefetchOrder({ map, traced, used, usual });
      const missing = await this.#missing({ blockBytes: map.blockBytes, digests });
      if (missing.length > 0) wanted.push({ blockBytes: map.blockBytes, digests: missing });
    }
    return wanted;
  }

  /** Which of the blocks that have been replaced are in the cache. */
  async #usedOf(map: DiskMap, before: DiskMap): Promise<readonly number[]> {
    const replaced = await changedBlocks(map, before);
    const digests = digestsOf(before, replaced);
    return blocksHere(before, replaced, await this.#missing({ blockBytes: before.blockBytes, digests }));
  }

  async #missing(list: Wanted): Promise<Buffer> {
    if (list.digests.length === 0) return list.digests;
    const client = await this.#blockd();
    return orAborted(listMissing(this.#options.home, list, client), this.#ended.signal);
  }

  /** Not when it is to end: what somebody ends just now would be started again. */
  async #blockd(): Promise<Pick<ControlClient, 'request'>> {
    const { signal } = this.#ended;
    signal.throwIfAborted();
    return orAborted(this.#options.blockd(), signal);
  }

  /** False: the line is metered meanwhile. Errors: those of blockd's `prefetch`. */
  async #bring(what: string, lists: readonly Wanted[]): Promise<boolean> {
    const { home, isMetered } = this.#options;
    const { signal } = this.#ended;
    const bytes = lists.reduce((sum, { digests, blockBytes }) => sum + (digests.length / DIGEST_BYTES) * blockBytes, 0);
    let doneBytes = 0;
    // Two slices are under way, each with a file of its own: the line does not stand still between them.
    let before: Promise<unknown> = Promise.resolve();
    const ask = async (client: Pick<ControlClient, 'request'>, asked: ControlParams<'prefetch'>): Promise<void> => {
      const asking = client.request('prefetch', asked);
      asking.catch(() => undefined); // it may end while nobody waits for it yet
      await orAborted(before, signal);
      before = asking;
    };
    return withListFile(home, async (even) =>
      withListFile(home, async (odd) => {
        let slices = 0;
        for (const { blockBytes, digests } of lists) {
          for (let at = 0; at < digests.length; at += BLOCKS_A_SLICE * DIGEST_BYTES) {
            if (await isMetered()) return false;
            this.#status = { state: 'working', what, doneBytes, bytes };
            const slice = digests.subarray(at, at + BLOCKS_A_SLICE * DIGEST_BYTES);
            const client = await this.#blockd();
            const asked = await (slices % 2 === 0 ? even : odd)({ blockBytes, digests: slice });
            signal.throwIfAborted();
            await ask(client, asked);
            slices += 1;
            doneBytes += (slice.length / DIGEST_BYTES) * blockBytes;
          }
        }
        await orAborted(before, signal);
        return true;
      }),
    );
  }
}
