/**
 * An immutable disk: offset → map → block → cache. Where a read becomes blocks and where it waits.
 *
 * The waiting rule (DESIGN §4): a read that lacks a block waits `waitMs`, then fails with `block-unavailable`, so that QEMU
 * pauses the machine instead of hanging in it. The fetch goes on with the class of a demand read; when the block has come,
 * `onArrived` says so and the machine can go on. Which blocks are missing, since when and why is in `waiting`.
 *
 * The hot path (`tryRead`) is a division, a look into the map, the remembered slot and one system call.
 */
import { setMaxListeners } from 'node:events';
import { CollectiveError, MAP_KIND, type DiskMap, type Digest } from '@collective/shared';
import type { BlockDevice, Extent, ReadOptions } from './block-device.js';
import { RANK, type BlockRequest } from './block-store.js';
import type { CachedStore } from './cache/cached-store.js';
import type { SlotReader } from './cache/slot-reader.js';
import { systemClock, type Clock } from './clock.js';
import { planReadahead, type Stream } from './readahead-plan.js';

/** A disk map, or what a half of a disk has of one: `kinds` of its own, with zero for what the other half has. */
export type ImageMap = Pick<DiskMap, 'diskBytes' | 'blockBytes' | 'blockCount' | 'kinds' | 'digestBytes'>;

export type ImageDeviceOptions = {
  /** For messages: `appliance@version/disk`. */
  readonly name: string;
  /** How long a read waits for a block: 5 s on virtio, 2 s on SATA and IDE. */
  readonly waitMs: number;
  /**
   * How long after that, and after `onUnavailable`, the read is answered with its error (default: at once), so that the guest can be
   * stopped before. A block that comes meanwhile is still its answer.
   */
  readonly graceMs?: number;
  readonly clock?: Clock;
  /** Blocks of one disk lie together in the cache; disks with the same number share neighbourhoods. */
  readonly placementTag?: number;
  /** Of private blocks: where they are (BlockRequest.source). */
  readonly source?: string;
  /** A block for which a read failed has come, after so long. */
  readonly onArrived?: (blockIndex: number, waitedMs: number) => void;
  /** A read failed for want of this block. */
  readonly onUnavailable?: (blockIndex: number) => void;
  /** Off for tests that count requests. */
  readonly readahead?: boolean;
};

/** A block that reads wait for. */
export type WaitingBlock = {
  readonly blockIndex: number;
  readonly digest: Digest;
  readonly waitedMs: number;
  /** A read of it was given up. */
  readonly isUnavailable: boolean;
};

export type ImageCounters = { reads: number; bytes: number; hits: number; misses: number; unavailable: number };

type Wait = {
  readonly block: Promise<Buffer>;
  readonly abort: AbortController;
  readonly digest: Digest;
  readonly sinceMs: number;
  readers: number;
  isUnavailable: boolean;
  /** A read in the background was given up: the fetch goes on without a reader. */
  isKept: boolean;
};

/** The part of a read that lies in one block. */
type Piece = { readonly index: number; readonly at: number; readonly within: number; readonly byteLength: number };

/** 8 MiB of disk at 64 KiB a block share their place in the cache. */
const NEIGHBOURHOOD_BLOCKS_LOG2 = 7;
const WORDS_PER_DIGEST = 8;
const DIGEST_BYTES = 32;
const WARM_BLOCKS_MAX = 8_192;
/** When the fetch of a block for which a machine is paused has failed for good. */
const ASK_AGAIN_MS = 2_000;

/** By the engine's own search: at each commit the guest's requests wait for it, and a loop that is not compiled yet takes ten times as long. */
const hasPublicOnly = (kinds: Uint8Array): boolean =>
  !kinds.includes(MAP_KIND.inherit) && !kinds.includes(MAP_KIND.private);

export class ImageDevice implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = true;
  readonly counters: ImageCounters = { reads: 0, bytes: 0, hits: 0, misses: 0, unavailable: 0 };
  readonly #store: CachedStore;
  readonly #reader: SlotReader;
  readonly #options: ImageDeviceOptions;
  readonly #clock: Clock;
  readonly #blockBytes: number;
  readonly #kinds: Uint8Array;
  readonly #digests: Buffer;
  readonly #digestWords: Uint32Array;
  /** Where each block was found last: slot + 1, or 0. Only a hint: the slot's own digest is compared on each read. */
  readonly #slots: Int32Array;
  /** 1 where a touch asks for more readahead. */
  readonly #marks: Uint8Array;
  readonly #waits = new Map<number, Wait>();
  /** Reads that wait for a block: each begins its wait anew when called. */
  readonly #restartWaits = new Set<() => void>();
  #streams: readonly Stream[] = [];
  #waitMs: number;
  #closed = false;

  /** The store has a reader for blocks of the map's size. Errors: `malformed` for a map with blocks that are not public. */
  constructor(map: ImageMap, store: CachedStore, options: ImageDeviceOptions) {
    if (!hasPublicOnly(map.kinds)) {
      throw new CollectiveError(
        'malformed',
        `${options.name}: the map of a published disk has blocks that are not public`,
      );
    }
    this.byteLength = map.diskBytes;
    this.#store = store;
    this.#reader = store.reader(map.blockBytes);
    this.#options = options;
    this.#waitMs = options.waitMs;
    this.#clock = options.clock ?? systemClock;
    this.#blockBytes = map.blockBytes;
    this.#kinds = map.kinds;
    this.#digests = map.digestBytes;
    this.#digestWords = digestWords(map.digestBytes);
    this.#slots = new Int32Array(map.blockCount);
    this.#marks = new Uint8Array(map.blockCount);
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    const blockBytes = this.#blockBytes;
    const index = Math.floor(byteOffset / blockBytes);
    const within = byteOffset - index * blockBytes;
    if (within + target.length <= blockBytes) {
      if (!this.#tryBlock(index, within, target)) return false;
    } else {
      for (let at = 0; at < target.length;) {
        const piece = this.#pieceAt(byteOffset, at, target.length);
        if (!this.#tryBlock(piece.index, piece.within, target.subarray(at, at + piece.byteLength))) return false;
        at += piece.byteLength;
      }
    }
    this.counters.reads += 1;
    this.counters.hits += 1;
    this.counters.bytes += target.length;
    return true;
  }

  async read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    this.#assertOpen();
    options.signal?.throwIfAborted();
    const missing: Piece[] = [];
    for (let at = 0; at < target.length;) {
      const piece = this.#pieceAt(byteOffset, at, target.length);
      if (!this.#tryBlock(piece.index, piece.within, target.subarray(at, at + piece.byteLength))) missing.push(piece);
      at += piece.byteLength;
    }
    this.counters.reads += 1;
    this.counters.bytes += target.length;
    if (missing.length === 0) {
      this.counters.hits += 1;
      return;
    }
    this.counters.misses += 1;
    await this.#readMissing(target, missing, options);
  }

  /** Brings a block into the cache and waits for it, without the waiting rule. Zero blocks are there already. */
  async fetch(blockIndex: number, options: ReadOptions = {}): Promise<void> {
    this.#assertOpen();
    if (this.#kinds[blockIndex] !== MAP_KIND.public) return;
    await this.#store.get(this.#requestFor(blockIndex), { rank: RANK.demand, ...options });
  }

  tryWrite(): boolean {
    return false;
  }

  write(): Promise<void> {
    return this.#refuse();
  }

  publishWrites(): void {}

  flush(): Promise<void> {
    return Promise.resolve();
  }

  trim(): Promise<void> {
    return this.#refuse();
  }

  zero(): Promise<void> {
    return this.#refuse();
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const extents: { byteLength: number; kind: Extent['kind'] }[] = [];
    for (let at = 0; at < byteLength;) {
      const piece = this.#pieceAt(byteOffset, at, byteLength);
      const kind = this.#kinds[piece.index] === MAP_KIND.zero ? 'hole' : 'data';
      const last = extents.at(-1);
      if (last?.kind === kind) last.byteLength += piece.byteLength;
      else extents.push({ byteLength: piece.byteLength, kind });
      at += piece.byteLength;
    }
    return extents;
  }

  warm(byteOffset: number, byteLength: number): void {
    if (this.#closed || byteLength === 0) return;
    const fromBlock = Math.floor(byteOffset / this.#blockBytes);
    const toBlock = Math.ceil((byteOffset + byteLength) / this.#blockBytes);
    this.#warmBlocks(fromBlock, Math.min(toBlock, fromBlock + WARM_BLOCKS_MAX));
  }

  /** Blocks that reads wait for, or waited for in vain, longest first. */
  get waiting(): WaitingBlock[] {
    const nowMs = this.#clock.nowMs();
    return [...this.#waits].map(([blockIndex, wait]) => ({
      blockIndex,
      digest: wait.digest,
      waitedMs: Math.round(nowMs - wait.sinceMs),
      isUnavailable: wait.isUnavailable,
    }));
  }

  close(): Promise<void> {
    this.#closed = true;
    for (const wait of this.#waits.values())
      wait.abort.abort(new CollectiveError('shutting-down', `${this.#options.name} is being closed`));
    return Promise.allSettled([...this.#waits.values()].map((wait) => wait.block)).then(() => undefined);
  }

  #tryBlock(index: number, within: number, target: Buffer): boolean {
    if (this.#kinds[index] === MAP_KIND.zero) {
      target.fill(0);
      return true;
    }
    const words = this.#digestWords;
    const at = index * WORDS_PER_DIGEST;
    let slot = (this.#slots[index] ?? 0) - 1;
    if (slot < 0 || !this.#reader.tryRead(slot, words, at, target, within)) {
      const found = this.#reader.find(words, at);
      if (found < 0 || found === slot) return false;
      slot = found;
      this.#slots[index] = slot + 1;
      if (!this.#reader.tryRead(slot, words, at, target, within)) return false;
    }
    if (this.#marks[index] === 1) this.#readAhead(index, index + 1);
    return true;
  }

  /** How long reads wait from now on, those that wait already included: a machine that is being suspended wants its answers soon. */
  setWaitMs(waitMs: number): void {
    this.#waitMs = waitMs;
    for (const restart of this.#restartWaits) restart();
  }

  /** Waits for all pieces together, `waitMs` at most. Nothing is written to `target` after this has settled. */
  #readMissing(target: Buffer, missing: readonly Piece[], options: ReadOptions): Promise<void> {
    const { signal, isBackground = false } = options;
    return new Promise<void>((resolve, reject) => {
      let isOver = false;
      let left = missing.length;
      const indexes = missing.map((piece) => piece.index);
      const waits = missing.map((piece) => ({ piece, wait: this.#waitFor(piece.index) }));
      const end = (settle: () => void): void => {
        if (isOver) return;
        isOver = true;
        this.#restartWaits.delete(restart);
        cancelDeadline();
        signal?.removeEventListener('abort', onAbort);
        for (const { piece, wait } of waits) this.#leave(piece.index, wait);
        settle();
      };
      const onAbort = (): void =>
        end(() => reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted')));
      let cancelDeadline = (): void => undefined;
      if (signal !== undefined) setMaxListeners(0, signal); // one signal for all reads of a session
      signal?.addEventListener('abort', onAbort, { once: true });
      for (const { piece, wait } of waits) {
        wait.block.then(
          (block) => {
            if (isOver) return;
            block.copy(target, piece.at, piece.within, piece.within + piece.byteLength);
            left -= 1;
            if (left === 0) end(resolve);
          },
          (error: unknown) => end(() => reject(error instanceof Error ? error : new Error(String(error)))),
        );
      }
      const first = missing[0]?.index ?? 0;
      this.#readAhead(first, (missing.at(-1)?.index ?? first) + 1);
      let refusal: CollectiveError | undefined;
      const restart = (): void => {
        cancelDeadline();
        if (refusal !== undefined) {
          const error = refusal;
          const graceMs = Math.min(this.#options.graceMs ?? 0, this.#waitMs);
          cancelDeadline = this.#clock.after(graceMs, () => end(() => reject(error)));
          return;
        }
        cancelDeadline = this.#clock.after(this.#waitMs, () => {
          if (isOver) return;
          const error = this.#giveUp(indexes); // first: what is marked there is kept
          refusal = error;
          if ((this.#options.graceMs ?? 0) === 0) end(() => reject(error));
          else restart();
        });
      };
      if (isBackground) {
        cancelDeadline = this.#clock.after(this.#options.waitMs, () => {
          const error = this.#unavailable(indexes, this.#options.waitMs);
          for (const { wait } of waits) wait.isKept = true;
          end(() => reject(error));
        });
        return;
      }
      this.#restartWaits.add(restart);
      restart();
    });
  }

  async #askAgain(index: number, sinceMs: number): Promise<void> {
    await this.#clock.sleep(ASK_AGAIN_MS);
    if (this.#closed) return;
    const wait = this.#waitFor(index, sinceMs);
    wait.isUnavailable = true; // before it is left, so that the fetch goes on without a reader
    this.#leave(index, wait);
  }

  #waitFor(index: number, sinceMs = this.#clock.nowMs()): Wait {
    const known = this.#waits.get(index);
    if (known !== undefined) {
      known.readers += 1;
      return known;
    }
    const request = this.#requestFor(index);
    const abort = new AbortController();
    const block = this.#store.get(request, { rank: RANK.demand, signal: abort.signal });
    const wait: Wait = {
      block,
      abort,
      digest: request.digest,
      sinceMs,
      readers: 1,
      isUnavailable: false,
      isKept: false,
    };
    this.#waits.set(index, wait);
    // One that was left ends some time later, when another may have begun.
    const forget = (): void => {
      if (this.#waits.get(index) === wait) this.#waits.delete(index);
    };
    block.then(
      () => {
        forget();
        if (wait.isUnavailable) this.#options.onArrived?.(index, this.#clock.nowMs() - sinceMs);
      },
      () => {
        forget();
        // The fetch itself failed for good (the local disk, say). A machine is paused for this block: ask again.
        if (wait.isUnavailable && !this.#closed) void this.#askAgain(index, sinceMs);
      },
    );
    return wait;
  }

  /** A reader has gone. When it was the last one, and none was given up, nobody wants the block any more. */
  #leave(index: number, wait: Wait): void {
    wait.readers -= 1;
    if (wait.readers > 0 || wait.isUnavailable || wait.isKept || this.#waits.get(index) !== wait) return;
    this.#waits.delete(index);
    wait.abort.abort(new Error('nobody waits for the block any more'));
  }

  #giveUp(indexes: readonly number[]): CollectiveError {
    const late = indexes.filter((index) => this.#waits.has(index));
    for (const index of late) {
      const wait = this.#waits.get(index);
      if (wait !== undefined) wait.isUnavailable = true;
      this.#options.onUnavailable?.(index);
    }
    this.counters.unavailable += 1;
    return this.#unavailable(indexes, this.#waitMs);
  }

  #unavailable(indexes: readonly number[], waitMs: number): CollectiveError {
    const late = indexes.filter((index) => this.#waits.has(index));
    const first = late[0] ?? indexes[0] ?? 0;
    return new CollectiveError(
      'block-unavailable',
      `${this.#options.name}: block ${first}${late.length > 1 ? ` and ${late.length - 1} more` : ''} did not come within ${waitMs} ms`,
      { data: { blockIndex: first, blocks: late.length } },
    );
  }

  #readAhead(firstBlock: number, endBlock: number): void {
    for (let block = firstBlock; block < endBlock; block += 1) this.#marks[block] = 0;
    if (this.#options.readahead === false) return;
    const step = planReadahead(this.#streams, {
      firstBlock,
      endBlock,
      blockBytes: this.#blockBytes,
      blockCount: this.#kinds.length,
    });
    this.#streams = step.streams;
    if (step.markBlock !== undefined) this.#marks[step.markBlock] = 1;
    this.#warmBlocks(step.fromBlock, step.toBlock);
  }

  #warmBlocks(fromBlock: number, toBlock: number): void {
    const requests: BlockRequest[] = [];
    for (let block = fromBlock; block < toBlock; block += 1) {
      if (this.#kinds[block] === MAP_KIND.public && !this.#waits.has(block)) requests.push(this.#requestFor(block));
    }
    if (requests.length > 0) this.#store.warm(requests, RANK.trace);
  }

  #requestFor(index: number): BlockRequest {
    const digest = this.#digests.toString('hex', index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES) as Digest;
    const neighbourhood = neighbourhoodOf(index, this.#options.placementTag);
    const { source } = this.#options;
    return { digest, blockBytes: this.#blockBytes, neighbourhood, ...(source === undefined ? {} : { source }) };
  }

  #pieceAt(byteOffset: number, at: number, byteLength: number): Piece {
    const position = byteOffset + at;
    const index = Math.floor(position / this.#blockBytes);
    const within = position - index * this.#blockBytes;
    return { index, at, within, byteLength: Math.min(this.#blockBytes - within, byteLength - at) };
  }

  #refuse(): Promise<never> {
    return Promise.reject(new CollectiveError('read-only', `${this.#options.name} is read-only`));
  }

  #assertOpen(): void {
    if (this.#closed) throw new CollectiveError('shutting-down', `${this.#options.name} is closed`);
  }
}

/** Where a block of a disk is best put in the cache. */
export const neighbourhoodOf = (blockIndex: number, placementTag = 0): number =>
  (Math.imul(placementTag, 0x9e3779b1) + (blockIndex >>> NEIGHBOURHOOD_BLOCKS_LOG2)) >>> 0;

/** The digests as 32-bit words, eight a digest; the first four are compared in memory. */
const digestWords = (bytes: Buffer): Uint32Array => {
  const aligned = bytes.byteOffset % Uint32Array.BYTES_PER_ELEMENT === 0 ? bytes : Buffer.from(bytes);
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4);
};
