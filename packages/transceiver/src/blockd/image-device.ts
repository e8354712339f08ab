/**
 * An immutable disk: offset → map → block → cache. Where a read becomes blocks; where it waits for those that are not here is block-waits.ts.
 *
 * The hot path (`tryRead`) is a division, a look into the map, the remembered slot and one system call.
 */
import {
  CollectiveError,
  MAP_KIND,
  type BootSegment,
  type DiskMap,
  type Digest,
  type TraceTouch,
} from '@collective/shared';
import type { BlockDevice, Extent, ReadOptions } from './block-device.js';
import { RANK, type BlockRequest, type ObjectSegment } from './block-store.js';
import { BlockWaits, type MissingPiece, type WaitingBlock } from './block-waits.js';
import type { CachedStore } from './cache/cached-store.js';
import type { SlotReader } from './cache/slot-reader.js';
import { systemClock, type Clock } from './clock.js';
import { ReadOnlyDevice } from './read-only-device.js';
import { segmentsWorthReading } from './foreseen-segments.js';
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

export type ImageCounters = { reads: number; bytes: number; hits: number; misses: number; unavailable: number };

/** `segment`: where it lies beside others of the trace. */
type Foreseen = Pick<TraceTouch, 'blockIndex' | 'chunkBytes'> & { readonly segment?: ObjectSegment | undefined };

/** 8 MiB of disk at 64 KiB a block share their place in the cache. */
const NEIGHBOURHOOD_BLOCKS_LOG2 = 7;
const WORDS_PER_DIGEST = 8;
const DIGEST_BYTES = 32;
const WARM_BLOCKS_MAX = 8_192;

/** By the engine's own search: at each commit the guest's requests wait for it, and a loop that is not compiled yet takes ten times as long. */
const hasPublicOnly = (kinds: Uint8Array): boolean =>
  !kinds.includes(MAP_KIND.inherit) && !kinds.includes(MAP_KIND.private);

export class ImageDevice extends ReadOnlyDevice implements BlockDevice {
  readonly counters: ImageCounters = { reads: 0, bytes: 0, hits: 0, misses: 0, unavailable: 0 };
  readonly #store: CachedStore;
  readonly #reader: SlotReader;
  readonly #options: ImageDeviceOptions;
  readonly #blockBytes: number;
  readonly #kinds: Uint8Array;
  readonly #digests: Buffer;
  readonly #digestWords: Uint32Array;
  /** Where each block was found last: slot + 1, or 0. Only a hint: the slot's own digest is compared on each read. */
  readonly #slots: Int32Array;
  /** 1 where a touch asks for more readahead. */
  readonly #marks: Uint8Array;
  /** 1 for blocks of a trace: what goes on after them is in the trace, too. */
  readonly #foreseen: Uint8Array;
  readonly #trace: Foreseen[] = [];
  readonly #waits: BlockWaits;
  #streams: readonly Stream[] = [];
  #closed = false;

  /** The store has a reader for blocks of the map's size. Errors: `malformed` for a map with blocks that are not public. */
  constructor(map: ImageMap, store: CachedStore, options: ImageDeviceOptions) {
    super(map.diskBytes, options.name);
    if (!hasPublicOnly(map.kinds)) {
      throw new CollectiveError(
        'malformed',
        `${options.name}: the map of a published disk has blocks that are not public`,
      );
    }
    this.#store = store;
    this.#reader = store.reader(map.blockBytes);
    this.#options = options;
    this.#blockBytes = map.blockBytes;
    this.#kinds = map.kinds;
    this.#digests = map.digestBytes;
    this.#digestWords = digestWords(map.digestBytes);
    this.#slots = new Int32Array(map.blockCount);
    this.#marks = new Uint8Array(map.blockCount);
    this.#foreseen = new Uint8Array(map.blockCount);
    this.#waits = new BlockWaits({
      name: options.name,
      waitMs: options.waitMs,
      graceMs: options.graceMs ?? 0,
      clock: options.clock ?? systemClock,
      fetch: (blockIndex, signal) => {
        const request = this.#requestFor(blockIndex);
        return { digest: request.digest, block: store.get(request, { rank: RANK.demand, signal }) };
      },
      onArrived: (blockIndex, waitedMs) => {
        options.onArrived?.(blockIndex, waitedMs);
        // An outage is over, in which what nobody waited for was given up.
        if (!this.#waits.list.some(({ isUnavailable }) => isUnavailable)) this.#warmForeseen(this.#trace);
      },
      onGivenUp: (blockIndexes) => {
        this.counters.unavailable += 1;
        for (const blockIndex of blockIndexes) options.onUnavailable?.(blockIndex);
      },
    });
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
    const missing: MissingPiece[] = [];
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
    const arrived = this.#waits.read(target, missing, options);
    const first = missing[0]?.index ?? 0;
    this.#readAhead(first, (missing.at(-1)?.index ?? first) + 1);
    await arrived;
  }

  /** Brings a block into the cache and waits for it, without the waiting rule. Zero blocks are there already. */
  async fetch(blockIndex: number, options: ReadOptions = {}): Promise<void> {
    this.#assertOpen();
    if (this.#kinds[blockIndex] !== MAP_KIND.public) return;
    await this.#store.get(this.#requestFor(blockIndex), { rank: RANK.demand, ...options });
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

  /** False for a block that is all zero, or none of this disk. */
  hasContent(blockIndex: number): boolean {
    return this.#kinds[blockIndex] === MAP_KIND.public;
  }

  /**
   * Asks for the blocks that the next part of a trace names, in its order; how many are not in the cache. Those that have no content are left out.
   * `segments` hold all of them; each is read where it is shorter than the missing ones by themselves.
   */
  foresee(
    touches: readonly Pick<TraceTouch, 'blockIndex' | 'chunkBytes'>[],
    segments: readonly BootSegment[] = [],
  ): number {
    if (this.#closed) return 0;
    const placed = segments.length === 0 ? touches : this.#place(touches, segments);
    const added = placed.filter(({ blockIndex }) => this.hasContent(blockIndex));
    for (const { blockIndex } of added) this.#foreseen[blockIndex] = 1;
    this.#trace.push(...added);
    return this.#warmForeseen(added);
  }

  /** Asks for blocks that are likely to be wanted soon, in this order, while the cache has room for more. */
  bringIfRoom(blocks: readonly number[]): void {
    if (this.#closed) return;
    const wanted = blocks.filter((blockIndex) => this.hasContent(blockIndex) && !this.#waits.has(blockIndex));
    // What is read after one of them is among them.
    for (const blockIndex of wanted) this.#foreseen[blockIndex] = 1;
    this.#store.warm(
      wanted.map((blockIndex) => ({ ...this.#requestFor(blockIndex), ifRoom: true })),
      RANK.trace,
    );
  }

  /** Blocks that reads wait for, or waited for in vain, longest first. */
  get waiting(): WaitingBlock[] {
    return this.#waits.list;
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.#waits.close();
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
    this.#waits.setWaitMs(waitMs);
  }

  #readAhead(firstBlock: number, endBlock: number): void {
    for (let block = firstBlock; block < endBlock; block += 1) this.#marks[block] = 0;
    if (this.#options.readahead === false || this.#foreseen[firstBlock] === 1) return;
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

  #warmForeseen(foreseen: readonly Foreseen[]): number {
    const missing = foreseen
      .map(({ blockIndex, chunkBytes, segment }) => ({
        request: { ...this.#requestFor(blockIndex), ...(chunkBytes === 0 ? {} : { chunkBytes }) },
        segment,
      }))
      .filter(({ request }) => this.#store.isMissing(request));
    const worth = segmentsWorthReading(missing.map(({ request, segment }) => ({ ...request, segment })));
    const requests = missing.map(({ request, segment }): BlockRequest =>
      segment !== undefined && worth.has(segment) ? { ...request, segment } : request,
    );
    return this.#store.warm(requests, RANK.trace);
  }

  #place(touches: readonly Foreseen[], segments: readonly BootSegment[]): readonly Foreseen[] {
    const placed: Foreseen[] = [];
    for (const { digest, touches: count, chunkBytes } of segments) {
      const held = touches.slice(placed.length, placed.length + count);
      const segment: ObjectSegment = {
        digest,
        chunkBytes,
        digests: held.map(({ blockIndex }) => this.#digestOf(blockIndex)),
      };
      placed.push(...held.map((touch) => ({ ...touch, segment })));
    }
    return placed;
  }

  #requestFor(index: number): BlockRequest {
    const digest = this.#digestOf(index);
    const neighbourhood = neighbourhoodOf(index, this.#options.placementTag);
    const { source } = this.#options;
    return { digest, blockBytes: this.#blockBytes, neighbourhood, ...(source === undefined ? {} : { source }) };
  }

  #digestOf(index: number): Digest {
    return this.#digests.toString('hex', index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES) as Digest;
  }

  #pieceAt(byteOffset: number, at: number, byteLength: number): MissingPiece {
    const position = byteOffset + at;
    const index = Math.floor(position / this.#blockBytes);
    const within = position - index * this.#blockBytes;
    return { index, at, within, byteLength: Math.min(this.#blockBytes - within, byteLength - at) };
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
