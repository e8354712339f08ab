/**
 * RandomFile over node:fs and the few calls of `syscalls`.
 *
 * Reads that must not wait use preadv2(RWF_NOWAIT); where that cannot be had (no koffi, or a file system that answers
 * EOPNOTSUPP), the measured latency of synchronous reads decides. Buffered writes cannot be asked beforehand on ext4, so
 * their measured latency always decides.
 */
import { close, fdatasync, fstat, fstatSync, ftruncate, read, readSync, write, writeSync } from 'node:fs';
import { CollectiveError } from '@collective/shared';
import type { Extent } from '../blockd/block-device.js';
import { ERRNO, syscalls } from '../blockd/syscalls.js';
import type { RandomFile } from './file-system.js';
import { SlowGate } from './slow-gate.js';

/** A synchronous read that took longer came from the medium. */
const SLOW_READ_MS = 1;
/** A synchronous write that took longer slept in dirty throttling. */
const SLOW_WRITE_MS = 2;
const GATE = { windowCalls: 64, closedMs: 100, closedMsMax: 3_200 } as const;
/**
 * Writes go to the page cache in pieces of this size. The kernel (6.x, ext4) makes folios as large as the write, and a later
 * 4 KiB write into a folio walks all of its blocks. Measured, CPU per random 4 KiB write after filling the file in pieces of
 * 4 KiB 1.7 us, 16 KiB 2.0, 64 KiB 3.6, 256 KiB 6.7, 1 MiB 17.1.
 */
const WRITE_PIECE_BYTES = 16 << 10;
/** A longer write is done in slices with turns of the event loop between them, so as not to hold up everybody else. */
const SYNC_WRITE_BYTES_MAX = 128 << 10;
/** Each piece costs a thread hop there. */
const POOL_WRITE_BYTES = 64 << 10;
/** Where zeroes have to be written, they are written in pieces of this size. */
const ZERO_PIECE_BYTES = 1 << 20;

const PAGE_BYTES = 4096;

const zeroes = Buffer.alloc(ZERO_PIECE_BYTES);

/** An error of node:fs as one of ours. */
export const localError = (error: unknown, path: string): CollectiveError => {
  const errno: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
  const name = typeof errno === 'string' ? errno : 'unknown';
  const code =
    name === 'ENOSPC' || name === 'EDQUOT'
      ? 'disk-full'
      : name === 'ENOENT'
        ? 'not-found'
        : name === 'EEXIST'
          ? 'exists'
          : 'local-io';
  const text = error instanceof Error ? error.message : String(error);
  return new CollectiveError(code, `${path}: ${text}`, { cause: error, data: { path, errno: name } });
};

export class LocalFile implements RandomFile {
  readonly path: string;
  readonly #fd: number;
  readonly #readGate = new SlowGate({ slowCallMs: SLOW_READ_MS, ...GATE });
  readonly #writeGate = new SlowGate({ slowCallMs: SLOW_WRITE_MS, ...GATE });
  #nowait = syscalls !== undefined;
  #punches = syscalls !== undefined;
  /** From then on the descriptor's number may be another file's: nothing may begin. What has begun is the owner's to wait for. */
  #closed = false;

  /** Takes over the descriptor. */
  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.path = path;
  }

  get descriptor(): number {
    return this.#fd;
  }

  get zeroIsFast(): boolean {
    return this.#punches;
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    if (this.#closed) return false;
    if (this.#nowait && syscalls !== undefined) {
      const count = syscalls.readNowait(this.#fd, target, byteOffset);
      if (count === target.length) return true;
      if (count === -ERRNO.EOPNOTSUPP || count === -ERRNO.EINVAL) this.#nowait = false;
      return false;
    }
    const beganMs = performance.now();
    if (!this.#readGate.isOpen(beganMs)) return false;
    try {
      return readSync(this.#fd, target, 0, target.length, byteOffset) === target.length;
    } catch {
      return false; // the waiting read repeats it and reports
    } finally {
      this.#readGate.record(beganMs, performance.now());
    }
  }

  read(target: Uint8Array, byteOffset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      let done = 0;
      const next = (): void => {
        if (this.#closed) return reject(this.#isClosed());
        read(this.#fd, target, done, target.length - done, byteOffset + done, (error, count) => {
          if (error !== null) reject(localError(error, this.path));
          else if (count === 0) reject(this.#tooShort(byteOffset + done));
          else {
            done += count;
            if (done === target.length) resolve();
            else next();
          }
        });
      };
      if (target.length === 0) resolve();
      else next();
    });
  }

  mayTryWrite(byteLength: number): boolean {
    return !this.#closed && byteLength <= SYNC_WRITE_BYTES_MAX && this.#writeGate.isOpen(performance.now());
  }

  tryWrite(source: Uint8Array, byteOffset: number): boolean {
    const beganMs = performance.now();
    if (this.#closed || source.length > SYNC_WRITE_BYTES_MAX || !this.#writeGate.isOpen(beganMs)) return false;
    try {
      return this.#writePieces(source, 0, source.length, byteOffset) === source.length;
    } catch {
      return false; // the waiting write repeats it and reports
    } finally {
      this.#writeGate.record(beganMs, performance.now());
    }
  }

  async write(source: Uint8Array, byteOffset: number): Promise<void> {
    let done = 0;
    while (done < source.length) {
      this.#assertOpen();
      const beganMs = performance.now();
      if (this.#writeGate.isOpen(beganMs)) {
        const sliceEnd = Math.min(source.length, done + SYNC_WRITE_BYTES_MAX);
        try {
          done = this.#writePieces(source, done, sliceEnd, byteOffset);
        } catch (error) {
          throw localError(error, this.path);
        } finally {
          this.#writeGate.record(beganMs, performance.now());
        }
        if (done < source.length) await new Promise((resolve) => setImmediate(resolve));
      } else {
        done += await this.#writeInPool(source, done, byteOffset + done);
      }
    }
  }

  /** Writes source[from, end) piece by piece; returns where it stopped, which is before `end` after a short write. */
  #writePieces(source: Uint8Array, from: number, end: number, byteOffset: number): number {
    let done = from;
    while (done < end) {
      const pieceBytes = Math.min(WRITE_PIECE_BYTES, end - done);
      const count = writeSync(this.#fd, source, done, pieceBytes, byteOffset + done);
      done += count;
      if (count < pieceBytes) break;
    }
    return done;
  }

  #writeInPool(source: Uint8Array, from: number, byteOffset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      write(this.#fd, source, from, Math.min(POOL_WRITE_BYTES, source.length - from), byteOffset, (error, count) => {
        if (error === null) resolve(count);
        else reject(localError(error, this.path));
      });
    });
  }

  writeNow(source: Uint8Array, byteOffset: number): void {
    this.#assertOpen();
    try {
      let done = 0;
      while (done < source.length) done += writeSync(this.#fd, source, done, source.length - done, byteOffset + done);
    } catch (error) {
      throw localError(error, this.path);
    }
  }

  sync(): Promise<void> {
    return this.#call((callback) => fdatasync(this.#fd, callback));
  }

  async zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    if (byteLength === 0) return;
    this.#assertOpen();
    if (this.#punches && syscalls !== undefined) {
      const result = options.keepAllocated
        ? await syscalls.zeroRange(this.#fd, byteOffset, byteLength)
        : await syscalls.punchHole(this.#fd, byteOffset, byteLength);
      if (result === 0) return;
      // The errno of a thread-pool call is lost. Writing zeroes is right in every case and reports the true error.
      if (!options.keepAllocated) this.#punches = false;
    }
    for (let done = 0; done < byteLength; done += ZERO_PIECE_BYTES) {
      const pieceBytes = Math.min(ZERO_PIECE_BYTES, byteLength - done);
      await this.write(pieceBytes === ZERO_PIECE_BYTES ? zeroes : zeroes.subarray(0, pieceBytes), byteOffset + done);
    }
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const end = byteOffset + byteLength;
    if (syscalls === undefined || this.#closed) return byteLength === 0 ? [] : [{ byteLength, kind: 'data' }];
    const extents: Extent[] = [];
    let position = byteOffset;
    while (position < end) {
      // Only ENXIO says "no data from here on". A hole that is none would be a wrong byte, so any other error means data.
      const data = syscalls.seekData(this.#fd, position);
      const dataStart = data === -ERRNO.ENXIO ? end : data < position ? position : Math.min(data, end);
      if (dataStart > position) extents.push({ byteLength: dataStart - position, kind: 'hole' });
      if (dataStart === end) break;
      const hole = syscalls.seekHole(this.#fd, dataStart);
      const dataEnd = hole <= dataStart ? end : Math.min(hole, end);
      extents.push({ byteLength: dataEnd - dataStart, kind: 'data' });
      position = dataEnd;
    }
    return extents;
  }

  willRead(byteOffset: number, byteLength: number): void {
    if (!this.#closed) syscalls?.advise(this.#fd, byteOffset, byteLength, 'soon');
  }

  dropFromMemory(byteOffset: number, byteLength: number): void {
    // The kernel drops whole pages only.
    const start = byteOffset - (byteOffset % PAGE_BYTES);
    const end = Math.ceil((byteOffset + byteLength) / PAGE_BYTES) * PAGE_BYTES;
    if (!this.#closed) syscalls?.advise(this.#fd, start, end - start, 'drop');
  }

  byteLength(): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(this.#isClosed());
      fstat(this.#fd, (error, stats) => (error === null ? resolve(stats.size) : reject(localError(error, this.path))));
    });
  }

  byteLengthNow(): number {
    this.#assertOpen();
    try {
      return fstatSync(this.#fd).size;
    } catch (error) {
      throw localError(error, this.path);
    }
  }

  setByteLength(byteLength: number): Promise<void> {
    return this.#call((callback) => ftruncate(this.#fd, byteLength, callback));
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    const closing = this.#call((callback) => close(this.#fd, callback));
    this.#closed = true;
    return closing;
  }

  #call(start: (callback: (error: Error | null) => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(this.#isClosed());
      start((error) => (error === null ? resolve() : reject(localError(error, this.path))));
    });
  }

  #assertOpen(): void {
    if (this.#closed) throw this.#isClosed();
  }

  #isClosed(): CollectiveError {
    return new CollectiveError('local-io', `${this.path} is closed`, { data: { path: this.path } });
  }

  #tooShort(byteOffset: number): CollectiveError {
    return new CollectiveError('local-io', `${this.path} ends at byte ${byteOffset}, more was expected`, {
      data: { path: this.path, byteOffset },
    });
  }
}
