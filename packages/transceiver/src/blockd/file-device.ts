/**
 * A BlockDevice over a raw file, whole: for tests, benchmarks and as the image below an overlay in them.
 *
 * A file is its own truth, so `publishWrites` has nothing to do. Bytes of the file beyond the last whole sector are not
 * part of the disk.
 */
import type { BlockDevice, Extent } from './block-device.js';
import { RangeLock } from './overlay/range-lock.js';
import type { FileSystem, RandomFile } from '../storage/file-system.js';
import { GroupSync } from '../storage/group-sync.js';

const SECTOR_BYTES = 512;

export class FileDevice implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly: boolean;
  readonly #file: RandomFile;
  /** Bytes that a waiting change is about to replace: a later one takes its turn, as a client expects of a trim and a write. */
  readonly #locks = new RangeLock();
  readonly #inFlight = new Set<Promise<void>>();
  readonly #groupSync: GroupSync;
  #closed: Promise<void> | undefined;

  private constructor(file: RandomFile, byteLength: number, readOnly: boolean) {
    this.#file = file;
    this.byteLength = byteLength;
    this.readOnly = readOnly;
    // Dirty from the start: whoever wrote the file before may not have synced it.
    this.#groupSync = new GroupSync(() => file.sync(), { dirty: !readOnly });
  }

  /** Errors: `not-found`, `local-io`. */
  static async open(
    fileSystem: FileSystem,
    path: string,
    options: { readonly readOnly: boolean },
  ): Promise<FileDevice> {
    const file = await fileSystem.open(path, options.readOnly ? 'read' : 'write');
    try {
      const byteLength = await file.byteLength();
      return new FileDevice(file, byteLength - (byteLength % SECTOR_BYTES), options.readOnly);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get zeroIsFast(): boolean {
    return this.#file.zeroIsFast;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    return this.#file.tryRead(target, byteOffset);
  }

  read(target: Buffer, byteOffset: number): Promise<void> {
    return this.#track(this.#file.read(target, byteOffset));
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    if (this.#locks.isHeld(byteOffset, byteOffset + source.length)) return false;
    const written = this.#file.tryWrite(source, byteOffset);
    this.#groupSync.note();
    return written;
  }

  write(source: Buffer, byteOffset: number): Promise<void> {
    return this.#change(byteOffset, source.length, () => this.#file.write(source, byteOffset));
  }

  publishWrites(): void {}

  flush(): Promise<void> {
    return this.#track(this.#groupSync.sync());
  }

  trim(byteOffset: number, byteLength: number): Promise<void> {
    return this.zero(byteOffset, byteLength);
  }

  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated?: boolean } = {}): Promise<void> {
    const keepAllocated = options.keepAllocated ?? false;
    return this.#change(byteOffset, byteLength, () => this.#file.zero(byteOffset, byteLength, { keepAllocated }));
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#file.extents(byteOffset, byteLength);
  }

  warm(byteOffset: number, byteLength: number): void {
    this.#file.willRead(byteOffset, byteLength);
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      await Promise.allSettled(this.#inFlight);
      await this.#file.close();
    })();
    return this.#closed;
  }

  #change(byteOffset: number, byteLength: number, work: () => Promise<void>): Promise<void> {
    const locked = this.#locks.run(byteOffset, byteOffset + byteLength, work);
    return this.#track(locked.finally(() => this.#groupSync.note()));
  }

  #track(work: Promise<void>): Promise<void> {
    this.#inFlight.add(work);
    const done = (): void => void this.#inFlight.delete(work);
    work.then(done, done);
    return work;
  }
}
