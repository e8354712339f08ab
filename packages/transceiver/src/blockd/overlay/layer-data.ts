/**
 * The data file of a layer with the sums of its granules: what is read is compared with what was written, or first read, in this life of
 * the process or since a clean stop (ADR 0014). A bit that flipped on the medium meanwhile is never served.
 *
 * Who changes granules holds them in the overlay's RangeLock or does it in one turn of the event loop. So:
 *  - A synchronous change writes and sets the sums, or forgets them when a part may have been written, in one turn.
 *  - A waiting change leaves the old sums until it has ended, so that old bytes that are damaged are not served meanwhile; half of a write
 *    does not fit, and waits for the lock. Then it sets what it knows and forgets the rest. Nothing is learned meanwhile: it would be the sum of
 *    half a write, and be forgotten again, with damage that it would have shown.
 *  - A waiting read may have got what a write replaced meanwhile. It only says that it does not fit, and is repeated under the lock.
 *  - Only a synchronous read learns, while no change waits: nothing can have come between its bytes and the sum.
 * A granule that the layer holds in part has no sum.
 *
 * The file may be encrypted by sectors (storage/encrypted-file.ts), so it is read and written by whole sectors only: a read that wants less
 * is widened here, a write by the overlay.
 */
import { CollectiveError } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { GRANULE_BYTES, granuleCountOf, granuleOf, SECTOR_BYTES, WHOLE } from './geometry.js';
import { granuleSumOf, type GranuleSums } from './granule-sums.js';
import type { SectorMap } from './sector-map.js';

export class LayerData {
  readonly file: RandomFile;
  readonly sums: GranuleSums;
  readonly #map: SectorMap;
  readonly #diskBytes: number;
  /** For granules of which a synchronous call has a part: its first and its last. */
  readonly #head = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  readonly #tail = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  /** Under way. */
  #waitingChanges = 0;

  constructor(
    file: RandomFile,
    parts: { readonly map: SectorMap; readonly sums: GranuleSums; readonly diskBytes: number },
  ) {
    this.file = file;
    this.sums = parts.sums;
    this.#map = parts.map;
    this.#diskBytes = parts.diskBytes;
  }

  /** False: it would have to wait, or what was read is not what was written. */
  tryRead(target: Buffer, byteOffset: number): boolean {
    const end = byteOffset + target.length;
    if (byteOffset % GRANULE_BYTES === 0 && this.#endsGranule(end))
      return this.file.tryRead(target, byteOffset) && this.#fitsNow(target, byteOffset);
    for (let position = byteOffset; position < end;) {
      const partEnd = this.#partEnd(position, end);
      const part = target.subarray(position - byteOffset, partEnd - byteOffset);
      const isWhole = position % GRANULE_BYTES === 0 && this.#endsGranule(partEnd);
      if (isWhole) {
        if (!this.file.tryRead(part, position) || !this.#fitsNow(part, position)) return false;
      } else if (this.#map.get(granuleOf(position)) !== WHOLE) {
        if (!this.#tryReadSectors(part, position)) return false;
      } else {
        const granule = this.#granuleIn(this.#head, position);
        const granuleStart = position - (position % GRANULE_BYTES);
        if (!this.file.tryRead(granule, granuleStart) || !this.#fitsNow(granule, granuleStart)) return false;
        granule.copy(part, 0, position - granuleStart);
      }
      position = partEnd;
    }
    return true;
  }

  /** Of one granule. */
  #tryReadSectors(part: Buffer, byteOffset: number): boolean {
    const start = byteOffset - (byteOffset % SECTOR_BYTES);
    const end = Math.ceil((byteOffset + part.length) / SECTOR_BYTES) * SECTOR_BYTES;
    if (end - start === part.length) return this.file.tryRead(part, byteOffset);
    const sectors = this.#head.subarray(0, end - start);
    if (!this.file.tryRead(sectors, start)) return false;
    sectors.copy(part, 0, byteOffset - start);
    return true;
  }

  /** False: what was read is not what was written, or a write came between. */
  async read(target: Buffer, byteOffset: number): Promise<boolean> {
    const end = byteOffset + target.length;
    const start = byteOffset - (byteOffset % GRANULE_BYTES);
    const wholeEnd = Math.min(granuleCountOf(end) * GRANULE_BYTES, this.#diskBytes);
    const bytes = start === byteOffset && wholeEnd === end ? target : Buffer.allocUnsafe(wholeEnd - start);
    await this.file.read(bytes, start);
    for (let at = start; at < wholeEnd; at += GRANULE_BYTES) {
      if (!this.sums.fits(granuleOf(at), bytes.subarray(at - start, at - start + GRANULE_BYTES))) return false;
    }
    if (bytes !== target) bytes.copy(target, 0, byteOffset - start);
    return true;
  }

  /**
   * Reads again after a read did not fit, while the caller holds the granules so that nobody changes them: once as it is, and once from the
   * medium, which may be right where the memory is not. Error `local-io`, as fault `layer-damaged`.
   */
  async readHeld(target: Buffer, byteOffset: number): Promise<void> {
    if (await this.read(target, byteOffset)) return;
    const start = byteOffset - (byteOffset % GRANULE_BYTES);
    this.file.dropFromMemory(start, byteOffset + target.length - start);
    if (await this.read(target, byteOffset)) return;
    throw new CollectiveError(
      'local-io',
      `${this.file.path}: bytes ${byteOffset} to ${byteOffset + target.length} are not what was written there; the medium is damaged`,
      { data: { fault: 'layer-damaged', path: this.file.path, byteOffset } },
    );
  }

  /** As RandomFile, whole sectors; false also when a granule that it changes in part would have to be waited for, or is damaged. Nothing was written then. */
  tryWrite(source: Buffer, byteOffset: number): boolean {
    if (!this.file.mayTryWrite(source.length)) return false;
    const end = byteOffset + source.length;
    const first = granuleOf(byteOffset);
    const endGranule = granuleCountOf(end);
    let head: Buffer | undefined;
    let tail: Buffer | undefined;
    if (byteOffset % GRANULE_BYTES !== 0 || !this.#endsGranule(end)) {
      if (this.#isPart(first, byteOffset, end) && this.sums.isKnown(first)) {
        head = this.#granuleIn(this.#head, byteOffset);
        if (!this.file.tryRead(head, first * GRANULE_BYTES) || !this.sums.fits(first, head)) return false;
      }
      const last = endGranule - 1;
      if (last !== first && this.#isPart(last, byteOffset, end) && this.sums.isKnown(last)) {
        tail = this.#granuleIn(this.#tail, end - 1);
        if (!this.file.tryRead(tail, last * GRANULE_BYTES) || !this.sums.fits(last, tail)) return false;
      }
    }
    if (!this.file.tryWrite(source, byteOffset)) {
      this.sums.forget(first, endGranule);
      return false;
    }
    this.#setSums(source, byteOffset, head, tail);
    return true;
  }

  /** As RandomFile, whole sectors; the caller holds the granules. Error also `local-io` when a granule that it changes in part is damaged: nothing is written. */
  async write(source: Buffer, byteOffset: number): Promise<void> {
    const end = byteOffset + source.length;
    const first = granuleOf(byteOffset);
    const endGranule = granuleCountOf(end);
    const last = endGranule - 1;
    this.#waitingChanges += 1;
    try {
      const head = this.#isPart(first, byteOffset, end) ? await this.#knownGranule(first) : undefined;
      const tail = last !== first && this.#isPart(last, byteOffset, end) ? await this.#knownGranule(last) : undefined;
      try {
        await this.file.write(source, byteOffset);
      } catch (error) {
        this.sums.forget(first, endGranule);
        throw error;
      }
      this.#setSums(source, byteOffset, head, tail);
    } finally {
      this.#waitingChanges -= 1;
    }
  }

  /** As RandomFile; the caller holds the granules. A granule that it changes in part has no sum afterwards. */
  async zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    const end = byteOffset + byteLength;
    const first = granuleOf(byteOffset);
    const endGranule = granuleCountOf(end);
    this.#waitingChanges += 1;
    try {
      await this.file.zero(byteOffset, byteLength, options);
    } finally {
      this.#waitingChanges -= 1;
      this.sums.forget(first, endGranule);
    }
    this.sums.setZero(granuleCountOf(byteOffset), granuleOf(end));
    const lastStart = granuleOf(end) * GRANULE_BYTES;
    if (end === this.#diskBytes && lastStart < end && byteOffset <= lastStart)
      this.sums.set(granuleOf(end), granuleSumOf(Buffer.alloc(end - lastStart)));
  }

  /** Of the granule that is known, right and in memory, or was waited for. */
  async #knownGranule(granule: number): Promise<Buffer | undefined> {
    if (!this.sums.isKnown(granule)) return undefined;
    const start = granule * GRANULE_BYTES;
    const bytes = Buffer.allocUnsafe(this.#granuleEnd(granule) - start);
    await this.readHeld(bytes, start);
    return bytes;
  }

  /** After a write of `source`; `head` and `tail` are what its first and last granule were before, where it is known. */
  #setSums(source: Buffer, byteOffset: number, head: Buffer | undefined, tail: Buffer | undefined): void {
    const end = byteOffset + source.length;
    const first = granuleOf(byteOffset);
    if (byteOffset % GRANULE_BYTES === 0 && end === this.#granuleEnd(first)) {
      this.sums.set(first, granuleSumOf(source)); // the usual case makes no view
      return;
    }
    for (let position = byteOffset; position < end;) {
      const granule = granuleOf(position);
      const start = granule * GRANULE_BYTES;
      const partEnd = Math.min(end, this.#granuleEnd(granule));
      const part = source.subarray(position - byteOffset, partEnd - byteOffset);
      if (position === start && partEnd === this.#granuleEnd(granule)) this.sums.set(granule, granuleSumOf(part));
      else {
        const before = granule === first ? head : tail;
        if (before !== undefined) {
          part.copy(before, position - start);
          this.sums.set(granule, granuleSumOf(before));
        } else this.sums.forget(granule, granule + 1);
      }
      position = partEnd;
    }
  }

  /** Whether whole granules that were read in this turn are right; what is not known is learned. */
  #fitsNow(bytes: Buffer, byteOffset: number): boolean {
    const first = granuleOf(byteOffset);
    if (bytes.length <= GRANULE_BYTES) return this.#fitsOrLearns(first, bytes);
    for (let at = 0, granule = first; at < bytes.length; at += GRANULE_BYTES, granule += 1) {
      if (!this.#fitsOrLearns(granule, bytes.subarray(at, at + GRANULE_BYTES))) return false;
    }
    return true;
  }

  #fitsOrLearns(granule: number, bytes: Buffer): boolean {
    if (this.sums.isKnown(granule)) return this.sums.fits(granule, bytes);
    if (this.#waitingChanges === 0 && this.#map.get(granule) === WHOLE) this.sums.set(granule, granuleSumOf(bytes));
    return true;
  }

  /** Room for the granule that holds the byte. */
  #granuleIn(scratch: Buffer, byteOffset: number): Buffer {
    const granule = granuleOf(byteOffset);
    return scratch.subarray(0, this.#granuleEnd(granule) - granule * GRANULE_BYTES);
  }

  #granuleEnd(granule: number): number {
    return Math.min((granule + 1) * GRANULE_BYTES, this.#diskBytes);
  }

  /** Whether a granule, or the disk, ends at `end`. */
  #endsGranule(end: number): boolean {
    return end % GRANULE_BYTES === 0 || end === this.#diskBytes;
  }

  /** Whether [start, end) covers the granule in part. */
  #isPart(granule: number, start: number, end: number): boolean {
    return start > granule * GRANULE_BYTES || end < this.#granuleEnd(granule);
  }

  /** Where the run from `position` on ends that is one part of a granule, or all whole granules up to `end`. */
  #partEnd(position: number, end: number): number {
    const granuleEnd = this.#granuleEnd(granuleOf(position));
    if (position % GRANULE_BYTES !== 0 || end < granuleEnd) return Math.min(end, granuleEnd);
    return this.#endsGranule(end) ? end : granuleOf(end) * GRANULE_BYTES;
  }
}
