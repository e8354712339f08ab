/**
 * Writes of a disk into its top layer. The overlay has one; it knows nothing of seals but that another layer may be on top in the next turn.
 *
 * A write that covers a granule only in part is completed at once when the rest is in memory. Otherwise its sectors alone
 * are written and marked, and the rest is read in the background (`FillQueue`). Only a write that covers a *sector* in
 * part has to wait for the rest of it: layers are written by whole sectors, because they may be encrypted by sectors.
 */
import { FillQueue } from './fill-queue.js';
import { GRANULE_BYTES, granuleCountOf, granuleOf, SECTOR_BYTES, WHOLE } from './geometry.js';
import type { Layer } from './layer.js';
import { BELOW } from './layer-owners.js';
import type { LayerStack } from './layer-stack.js';
import type { LayeredReader } from './layered-reader.js';
import type { RangeLock } from './range-lock.js';

export type LayeredWriterOptions = {
  readonly stack: LayerStack;
  readonly reader: LayeredReader;
  readonly locks: RangeLock;
  /** No layer is closed before these have ended. */
  readonly track: (work: Promise<void>) => Promise<void>;
};

export class LayeredWriter {
  readonly #stack: LayerStack;
  readonly #reader: LayeredReader;
  readonly #locks: RangeLock;
  readonly #track: LayeredWriterOptions['track'];
  readonly #diskBytes: number;
  readonly #scratch = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  #fills: FillQueue;

  constructor({ stack, reader, locks, track }: LayeredWriterOptions) {
    this.#stack = stack;
    this.#reader = reader;
    this.#locks = locks;
    this.#track = track;
    this.#diskBytes = stack.diskBytes;
    this.#fills = this.#fillsOf(stack.top);
  }

  /** As BlockDevice.tryWrite. */
  tryWrite(source: Buffer, byteOffset: number): boolean {
    const end = byteOffset + source.length;
    const { top } = this.#stack;
    if (this.#locks.isHeld(granuleOf(byteOffset), granuleCountOf(end))) return false;
    if (byteOffset % GRANULE_BYTES === 0 && (end % GRANULE_BYTES === 0 || end === this.#diskBytes)) {
      if (!top.tryWrite(source, byteOffset)) return false;
      top.addRange(byteOffset, source.length);
      return true;
    }
    return this.#tryWriteUnaligned(source, byteOffset, end);
  }

  /** Under the lock of the granules: into `top`, which may be sealed meanwhile. */
  async write(top: Layer, source: Buffer, start: number): Promise<void> {
    const end = start + source.length;
    if (source.length === 0) return;
    let bytes = source;
    let bytesStart = start;
    if (splitsSector(start, end)) {
      // Widen to whole sectors, whose rest comes from wherever it is.
      bytesStart = start - (start % SECTOR_BYTES);
      bytes = Buffer.allocUnsafe(Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES - bytesStart);
      const headSector = bytes.subarray(0, SECTOR_BYTES);
      const tailSector = bytes.subarray(bytes.length - SECTOR_BYTES);
      await this.#reader.read(headSector, bytesStart, { isHeld: true });
      if (bytes.length > SECTOR_BYTES)
        await this.#reader.read(tailSector, bytesStart + bytes.length - SECTOR_BYTES, { isHeld: true });
      source.copy(bytes, start - bytesStart);
    }
    await top.write(bytes, bytesStart);
    this.#addSectors(top, bytesStart, bytesStart + bytes.length);
  }

  /** As `write`, of zeroes: whole granules are trimmed unless `keepAllocated`. */
  async zero(top: Layer, start: number, end: number, keepAllocated: boolean): Promise<void> {
    const wholeStart = Math.min(granuleCountOf(start) * GRANULE_BYTES, end);
    const wholeEnd = end === this.#diskBytes ? end : Math.max(granuleOf(end) * GRANULE_BYTES, wholeStart);
    if (start < wholeStart) await this.write(top, Buffer.alloc(wholeStart - start), start);
    if (wholeStart < wholeEnd) await this.#zeroGranules(top, wholeStart, wholeEnd, keepAllocated);
    if (wholeEnd < end && wholeEnd >= wholeStart) await this.write(top, Buffer.alloc(end - wholeEnd), wholeEnd);
  }

  /** Begins to complete what an earlier process left partly held in the top layer. */
  findPartial(): void {
    this.#fills.findPartial();
  }

  /** In the turn in which another layer came on top: fills are of that one from now on, the others are the caller's to close. */
  takeFills(): FillQueue {
    const fills = this.#fills;
    this.#fills = this.#fillsOf(this.#stack.top);
    return fills;
  }

  /** Ends the fills. */
  async close(): Promise<void> {
    await this.#fills.close();
  }

  /** Whether the write covers the granule, or what lies in it of the disk, in part, and the top layer lacks some of it. */
  #needsRest(granule: number, start: number, end: number): boolean {
    const granuleStart = granule * GRANULE_BYTES;
    const granuleEnd = Math.min(granuleStart + GRANULE_BYTES, this.#diskBytes);
    return (start > granuleStart || end < granuleEnd) && this.#stack.top.map.get(granule) !== WHOLE;
  }

  /** A write that does not begin and end with granules, all in one turn: nothing is written when it returns false. */
  #tryWriteUnaligned(source: Buffer, start: number, end: number): boolean {
    const { top } = this.#stack;
    const head = granuleOf(start);
    const tail = granuleOf(end - 1);
    const isSplitting = splitsSector(start, end);
    if (head === tail && (isSplitting || this.#needsRest(head, start, end))) {
      const whole = this.#composeNow(head, source, start);
      if (whole !== undefined) {
        if (!top.tryWrite(whole, head * GRANULE_BYTES)) return false;
        top.addRange(head * GRANULE_BYTES, whole.length);
        return true;
      }
    }
    if (isSplitting) return false; // the rest of a sector has to be waited for, or there are two such sectors
    if (!top.tryWrite(source, start)) return false;
    this.#addSectors(top, start, end);
    return true;
  }

  /** The granule as it is to be, in the scratch buffer, when its rest can be had at once. */
  #composeNow(granule: number, source: Buffer, start: number): Buffer | undefined {
    const granuleStart = granule * GRANULE_BYTES;
    const whole = this.#scratch.subarray(0, Math.min(GRANULE_BYTES, this.#diskBytes - granuleStart));
    if (!this.#reader.tryRead(whole, granuleStart)) return undefined;
    source.copy(whole, start - granuleStart);
    return whole;
  }

  /** Marks what a write has put down; sectors that it touched in part were in the layer already. */
  #addSectors(top: Layer, start: number, end: number): void {
    const sectorStart = start - (start % SECTOR_BYTES);
    const sectorEnd = Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES;
    top.addRange(sectorStart, sectorEnd - sectorStart);
    if (top !== this.#stack.top) return; // sealed meanwhile: what it holds in part stays so
    for (const granule of new Set([granuleOf(start), granuleOf(end - 1)])) {
      if (top.map.get(granule) !== WHOLE) this.#fills.add(granule);
    }
  }

  async #zeroGranules(top: Layer, start: number, end: number, keepAllocated: boolean): Promise<void> {
    for (const segment of this.#reader.segments(start, end)) {
      // What no layer holds and what reads as zeroes below stays as it is: a trim of an empty disk costs nothing.
      let position = segment.start;
      const parts =
        segment.owner === BELOW && !keepAllocated
          ? this.#reader.below.extents(segment.start, segment.end - segment.start)
          : [{ kind: 'data', byteLength: segment.end - segment.start } as const];
      for (const part of parts) {
        if (part.kind === 'data') {
          await top.zero(position, part.byteLength, { keepAllocated });
          top.addRange(position, part.byteLength);
        }
        position += part.byteLength;
      }
    }
  }

  /** Completes a partly held granule from below. The bytes below never change, so they may be read without the lock. */
  async #fill(top: Layer, granule: number, signal: AbortSignal): Promise<void> {
    if (top.map.get(granule) === WHOLE) return;
    const start = granule * GRANULE_BYTES;
    const whole = Buffer.allocUnsafe(Math.min(GRANULE_BYTES, this.#diskBytes - start));
    await this.#track(this.#reader.read(whole, start, { signal, isBackground: true })); // a layer that it reads is not closed before
    await this.#locks.run(granule, granule + 1, async () => {
      if (top !== this.#stack.top) return; // sealed meanwhile
      const held = top.map.get(granule);
      for (let sectorStart = 0; sectorStart < whole.length; sectorStart += SECTOR_BYTES) {
        if ((held & (1 << (sectorStart / SECTOR_BYTES))) !== 0) continue;
        await top.write(whole.subarray(sectorStart, sectorStart + SECTOR_BYTES), start + sectorStart);
      }
      top.addRange(start, whole.length);
      top.tryRead(whole, start); // from now on it has a sum
    });
  }

  #fillsOf(top: Layer): FillQueue {
    return new FillQueue({ map: top.map, fill: (granule, signal) => this.#fill(top, granule, signal) });
  }
}

/** Whether the write covers a sector in part. */
const splitsSector = (start: number, end: number): boolean => start % SECTOR_BYTES !== 0 || end % SECTOR_BYTES !== 0;
