/**
 * The writable disk over an immutable one: reads come from the topmost layer that holds the bytes, or from below; writes
 * go to the top layer and wait for nothing but the local disk.
 *
 * A write that covers a granule only in part is completed at once when the rest is in memory. Otherwise its sectors alone
 * are written and marked, and the rest is read in the background (`FillQueue`). Only a write that covers a *sector* in
 * part has to wait for the rest of it.
 *
 * Operations that wait (thread pool, trims, fills) hold their granules in a RangeLock; a synchronous write steps back from
 * held granules and becomes a waiting one. So whoever looks at a mask and writes accordingly does it either in one
 * turn of the event loop or under the lock.
 */
import { CollectiveError } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { FillQueue } from './fill-queue.js';
import { GRANULE_BYTES, granuleCountOf, granuleOf, SECTOR_BYTES, WHOLE } from './geometry.js';
import type { Layer } from './layer.js';
import { BELOW, LayerStack, MIXED } from './layer-stack.js';
import { RangeLock } from './range-lock.js';
import { segmentsOf, type Segment } from './segments.js';

export class Overlay implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = false;
  readonly #stack: LayerStack;
  readonly #top: Layer;
  readonly #below: BlockDevice;
  readonly #locks = new RangeLock();
  readonly #fills: FillQueue;
  readonly #inFlight = new Set<Promise<void>>();
  readonly #scratch = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  #isClosing = false;
  #closed: Promise<void> | undefined;

  private constructor(stack: LayerStack, below: BlockDevice) {
    this.byteLength = below.byteLength;
    this.#stack = stack;
    this.#top = stack.top;
    this.#below = below;
    this.#fills = new FillQueue({
      map: stack.top.map,
      fill: (granule, signal) => this.#fill(granule, signal),
    });
  }

  /**
   * Opens the overlay in `folder`, or makes an empty one. `below` stays the caller's and must outlive it. Errors: `in-use`,
   * `bad-image` (made for another size), `malformed`, `unknown-format`, `disk-full`, `local-io`.
   */
  static async open(fileSystem: FileSystem, folder: string, below: BlockDevice): Promise<Overlay> {
    const overlay = new Overlay(await LayerStack.openOrCreate(fileSystem, folder, below.byteLength), below);
    overlay.#fills.findPartial();
    return overlay;
  }

  get zeroIsFast(): boolean {
    return this.#top.data.zeroIsFast;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    const stack = this.#stack;
    const first = granuleOf(byteOffset);
    const last = granuleOf(byteOffset + target.length - 1);
    const owner = stack.ownerOf(first);
    for (let granule = first + 1; granule <= last; granule += 1) {
      if (stack.ownerOf(granule) !== owner) return this.#tryReadSegments(target, byteOffset);
    }
    if (owner === BELOW) return this.#below.tryRead(target, byteOffset);
    if (owner === MIXED) return this.#tryReadSegments(target, byteOffset);
    return stack.layers[owner]?.data.tryRead(target, byteOffset) ?? false;
  }

  read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    return this.#track(this.#read(target, byteOffset, options));
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    const end = byteOffset + source.length;
    const top = this.#top;
    if (this.#isClosing || this.#locks.isHeld(granuleOf(byteOffset), granuleCountOf(end))) return false;
    if (byteOffset % GRANULE_BYTES === 0 && (end % GRANULE_BYTES === 0 || end === this.byteLength)) {
      if (!top.tryWrite(source, byteOffset)) return false;
      top.addRange(byteOffset, source.length);
      return true;
    }
    return this.#tryWriteUnaligned(source, byteOffset, end);
  }

  write(source: Buffer, byteOffset: number): Promise<void> {
    const end = byteOffset + source.length;
    return this.#change(byteOffset, end, () => this.#writeLocked(source, byteOffset));
  }

  publishWrites(): void {
    this.#top.publish();
  }

  flush(): Promise<void> {
    return this.#track(this.#stack.flush());
  }

  trim(byteOffset: number, byteLength: number): Promise<void> {
    return this.zero(byteOffset, byteLength);
  }

  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated?: boolean } = {}): Promise<void> {
    const keepAllocated = options.keepAllocated ?? false;
    const end = byteOffset + byteLength;
    return this.#change(byteOffset, end, () => this.#zeroLocked(byteOffset, end, keepAllocated));
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const extents: Extent[] = [];
    for (const segment of this.#segments(byteOffset, byteOffset + byteLength)) {
      const parts =
        segment.owner === BELOW
          ? this.#below.extents(segment.start, segment.end - segment.start)
          : (this.#stack.layers[segment.owner]?.data.extents(segment.start, segment.end - segment.start) ?? []);
      for (const part of parts) {
        const before = extents.at(-1);
        if (before?.kind === part.kind) {
          extents[extents.length - 1] = { kind: part.kind, byteLength: before.byteLength + part.byteLength };
        } else extents.push(part);
      }
    }
    return extents;
  }

  warm(byteOffset: number, byteLength: number): void {
    for (const segment of this.#segments(byteOffset, byteOffset + byteLength)) {
      if (segment.owner === BELOW) this.#below.warm(segment.start, segment.end - segment.start);
      else this.#stack.layers[segment.owner]?.data.willRead(segment.start, segment.end - segment.start);
    }
  }

  /** Ends fills, waits for what is under way, and flushes. Errors: those of `flush`; everything is closed all the same. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** Lets go of everything without publishing or flushing, as the end of the process would. Waits for what is under way. */
  async abandon(): Promise<void> {
    this.#closed ??= (async () => {
      await this.#quiesce();
      await this.#stack.close();
    })();
    await this.#closed;
  }

  async #quiesce(): Promise<void> {
    this.#isClosing = true;
    await this.#fills.close();
    while (this.#inFlight.size > 0) await Promise.allSettled(this.#inFlight);
  }

  async #close(): Promise<void> {
    await this.#quiesce();
    try {
      this.#top.publish();
      await this.#stack.flush();
    } finally {
      await this.#stack.close();
    }
  }

  #segments(start: number, end: number): Segment[] {
    return segmentsOf(this.#stack, start, end);
  }

  #tryReadSegments(target: Buffer, byteOffset: number): boolean {
    for (const { owner, start, end } of this.#segments(byteOffset, byteOffset + target.length)) {
      const part = target.subarray(start - byteOffset, end - byteOffset);
      const isRead =
        owner === BELOW
          ? this.#below.tryRead(part, start)
          : (this.#stack.layers[owner]?.data.tryRead(part, start) ?? false);
      if (!isRead) return false;
    }
    return true;
  }

  async #read(target: Buffer, byteOffset: number, options: ReadOptions): Promise<void> {
    // Who holds what is decided now: every write that was acknowledged before the call is seen.
    await Promise.all(
      this.#segments(byteOffset, byteOffset + target.length).map(({ owner, start, end }) => {
        const part = target.subarray(start - byteOffset, end - byteOffset);
        return owner === BELOW
          ? this.#below.read(part, start, options)
          : this.#stack.layers[owner]?.data.read(part, start);
      }),
    );
  }

  /** Whether the write covers the granule, or what lies in it of the disk, in part, and the top layer lacks some of it. */
  #needsRest(granule: number, start: number, end: number): boolean {
    const granuleStart = granule * GRANULE_BYTES;
    const granuleEnd = Math.min(granuleStart + GRANULE_BYTES, this.byteLength);
    return (start > granuleStart || end < granuleEnd) && this.#top.map.get(granule) !== WHOLE;
  }

  /** Whether a sector that the write covers in part is not in the top layer. */
  #splitsForeignSector(start: number, end: number): boolean {
    const isForeign = (byteOffset: number): boolean => {
      const sector = Math.floor(byteOffset / SECTOR_BYTES);
      return byteOffset % SECTOR_BYTES !== 0 && this.#stack.sectorOwnerOf(sector) !== this.#stack.layers.length - 1;
    };
    return isForeign(start) || isForeign(end);
  }

  /** A write that does not begin and end with granules, all in one turn: nothing is written when it returns false. */
  #tryWriteUnaligned(source: Buffer, start: number, end: number): boolean {
    const top = this.#top;
    const head = granuleOf(start);
    const tail = granuleOf(end - 1);
    const isSplitting = this.#splitsForeignSector(start, end);
    if (head === tail && this.#needsRest(head, start, end)) {
      const whole = this.#composeNow(head, source, start);
      if (whole !== undefined) {
        if (!top.tryWrite(whole, head * GRANULE_BYTES)) return false;
        top.addRange(head * GRANULE_BYTES, whole.length);
        return true;
      }
    }
    if (isSplitting) return false; // the rest of a sector has to be waited for
    if (!top.tryWrite(source, start)) return false;
    this.#addSectors(start, end);
    return true;
  }

  /** The granule as it is to be, in the scratch buffer, when its rest can be had at once. */
  #composeNow(granule: number, source: Buffer, start: number): Buffer | undefined {
    const granuleStart = granule * GRANULE_BYTES;
    const whole = this.#scratch.subarray(0, Math.min(GRANULE_BYTES, this.byteLength - granuleStart));
    if (!this.tryRead(whole, granuleStart)) return undefined;
    source.copy(whole, start - granuleStart);
    return whole;
  }

  /** Marks what a write has put down; sectors that it touched in part were in the layer already. */
  #addSectors(start: number, end: number): void {
    const sectorStart = start - (start % SECTOR_BYTES);
    const sectorEnd = Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES;
    this.#top.addRange(sectorStart, sectorEnd - sectorStart);
    for (const granule of new Set([granuleOf(start), granuleOf(end - 1)])) {
      if (this.#top.map.get(granule) !== WHOLE) this.#fills.add(granule);
    }
  }

  async #writeLocked(source: Buffer, start: number): Promise<void> {
    const end = start + source.length;
    if (source.length === 0) return;
    let bytes = source;
    let bytesStart = start;
    if (this.#splitsForeignSector(start, end)) {
      // Widen to whole sectors, whose rest comes from wherever it is.
      bytesStart = start - (start % SECTOR_BYTES);
      bytes = Buffer.allocUnsafe(Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES - bytesStart);
      const headSector = bytes.subarray(0, SECTOR_BYTES);
      const tailSector = bytes.subarray(bytes.length - SECTOR_BYTES);
      await this.#read(headSector, bytesStart, {});
      if (bytes.length > SECTOR_BYTES) await this.#read(tailSector, bytesStart + bytes.length - SECTOR_BYTES, {});
      source.copy(bytes, start - bytesStart);
    }
    await this.#top.write(bytes, bytesStart);
    this.#addSectors(bytesStart, bytesStart + bytes.length);
  }

  async #zeroLocked(start: number, end: number, keepAllocated: boolean): Promise<void> {
    const wholeStart = Math.min(granuleCountOf(start) * GRANULE_BYTES, end);
    const wholeEnd = end === this.byteLength ? end : Math.max(granuleOf(end) * GRANULE_BYTES, wholeStart);
    if (start < wholeStart) await this.#writeLocked(Buffer.alloc(wholeStart - start), start);
    if (wholeStart < wholeEnd) await this.#zeroGranules(wholeStart, wholeEnd, keepAllocated);
    if (wholeEnd < end && wholeEnd >= wholeStart) await this.#writeLocked(Buffer.alloc(end - wholeEnd), wholeEnd);
  }

  async #zeroGranules(start: number, end: number, keepAllocated: boolean): Promise<void> {
    for (const segment of this.#segments(start, end)) {
      // What no layer holds and what reads as zeroes below stays as it is: a trim of an empty disk costs nothing.
      let position = segment.start;
      const parts =
        segment.owner === BELOW && !keepAllocated
          ? this.#below.extents(segment.start, segment.end - segment.start)
          : [{ kind: 'data', byteLength: segment.end - segment.start } as const];
      for (const part of parts) {
        if (part.kind === 'data') {
          await this.#top.zero(position, part.byteLength, { keepAllocated });
          this.#top.addRange(position, part.byteLength);
        }
        position += part.byteLength;
      }
    }
  }

  /** Completes a partly held granule from below. The bytes below never change, so they may be read without the lock. */
  async #fill(granule: number, signal: AbortSignal): Promise<void> {
    if (this.#top.map.get(granule) === WHOLE) return;
    const start = granule * GRANULE_BYTES;
    const whole = Buffer.allocUnsafe(Math.min(GRANULE_BYTES, this.byteLength - start));
    await this.#read(whole, start, { signal });
    await this.#locks.run(granule, granule + 1, async () => {
      const held = this.#top.map.get(granule);
      for (let sectorStart = 0; sectorStart < whole.length; sectorStart += SECTOR_BYTES) {
        if ((held & (1 << (sectorStart / SECTOR_BYTES))) !== 0) continue;
        await this.#top.write(whole.subarray(sectorStart, sectorStart + SECTOR_BYTES), start + sectorStart);
      }
      this.#top.addRange(start, whole.length);
    });
  }

  /** Runs a change of [start, end) under the lock of its granules. */
  #change(start: number, end: number, work: () => Promise<void>): Promise<void> {
    if (this.#isClosing) return Promise.reject(new CollectiveError('shutting-down', 'the overlay is being closed'));
    return this.#track(this.#locks.run(granuleOf(start), granuleCountOf(end), work));
  }

  #track(work: Promise<void>): Promise<void> {
    this.#inFlight.add(work);
    const done = (): void => void this.#inFlight.delete(work);
    work.then(done, done);
    return work;
  }
}
