/** Fetches blocks and puts them into the cache: the CacheFiller that runs in the fetching thread. */
import { setMaxListeners } from 'node:events';
import { CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, BlockStore, FetchRank, GetOptions } from '../block-store.js';
import type { CacheFiller } from '../cache/cached-store.js';
import type { CacheWriter } from '../cache/cache-writer.js';

/** Blocks that are fetched with nobody waiting; more are not taken on. */
const WARM_MAX = 16_384;
/** In one turn of the event loop: a boot's trace is 700 blocks, and its first requests are on the line before the last ones are thought of. */
const WARM_AT_ONCE = 32;

export class FillingStore implements CacheFiller {
  readonly #next: BlockStore;
  readonly #cache: CacheWriter;
  readonly #abort = new AbortController();
  /** By class and digest: what is asked for again in a better class is raised, in the same one it is left alone. */
  readonly #warming = new Set<string>();
  /** What has not had its turn. */
  readonly #toWarm: { readonly request: BlockRequest; readonly rank: FetchRank }[] = [];

  constructor(next: BlockStore, cache: CacheWriter) {
    this.#next = next;
    this.#cache = cache;
    setMaxListeners(0, this.#abort.signal); // one a block that is being warmed
  }

  async bring(
    request: BlockRequest,
    options: GetOptions & { readonly wantBytes: boolean },
  ): Promise<Buffer | undefined> {
    if (!options.wantBytes && this.#cache.has(request)) return undefined;
    // What may be wanted some day never takes the place of what was.
    const mayEvict = options.rank.fetchClass !== 'background' && request.ifRoom !== true;
    if (!mayEvict && !this.#cache.hasRoom(request.blockBytes)) throw cacheIsFull();
    const block = await this.#next.get(request, options);
    const isInCache = await this.#cache.fill(request, block, { mayEvict });
    if (!isInCache && !mayEvict) throw cacheIsFull(); // others have filled it meanwhile
    return isInCache && !options.wantBytes ? undefined : block;
  }

  warm(requests: readonly BlockRequest[], rank: FetchRank): void {
    const isWarming = this.#toWarm.length > 0;
    const places = WARM_MAX - this.#warming.size - this.#toWarm.length;
    this.#toWarm.push(...requests.slice(0, Math.max(0, places)).map((request) => ({ request, rank })));
    if (!isWarming) this.#warmMore();
  }

  #warmMore(): void {
    for (const { request, rank } of this.#toWarm.splice(0, WARM_AT_ONCE)) {
      const key = `${rank.fetchClass} ${request.digest}`;
      if (this.#warming.has(key) || this.#cache.has(request)) continue;
      this.#warming.add(key);
      this.bring(request, { rank, signal: this.#abort.signal, wantBytes: false })
        .catch(() => undefined) // a hint: who really wants the block asks again
        .finally(() => this.#warming.delete(key));
    }
    if (this.#toWarm.length > 0 && !this.#abort.signal.aborted) setImmediate(() => this.#warmMore());
  }

  /** Puts a block that somebody has and has checked into the cache. False: there was no room. */
  fill(request: BlockRequest, block: Buffer): Promise<boolean> {
    return this.#cache.has(request) ? Promise.resolve(true) : this.#cache.fill(request, block);
  }

  reportDamage(request: { readonly digest: Digest; readonly blockBytes: number }): void {
    this.#cache.drop(request);
  }

  /** Gives up what nobody waits for. */
  close(): void {
    this.#abort.abort(new Error('closing'));
  }
}

const cacheIsFull = (): CollectiveError =>
  new CollectiveError('disk-full', 'the cache is full: nothing is brought in ahead');
