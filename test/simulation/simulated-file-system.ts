/**
 * The transceiver's FileSystem over a SimulatedDisk, as one process sees it: calls take effect and are answered at random moments,
 * long writes happen in pieces, `try` calls refuse at random (and always when the page is not in memory). After a crash or a power
 * cut of the disk every call of it is rejected; the restarted process is a new SimulatedFileSystem.
 */
import { CollectiveError } from '@collective/shared';
import { localError, type FileLock, type FileSystem, type RandomFile } from '@collective/transceiver';
import type { Random } from './random.js';
import { DiskError, type SimulatedDisk, type SimulatedHandle, type SimulatedProcess } from './simulated-disk.js';

export type SimulatedFileSystemOptions = {
  /** How often `tryRead` and `tryWrite` say that they would have to wait. */
  readonly refusedTryProbability?: number;
};

/** A long write reaches the page cache in pieces of at most this. */
const PIECE_BYTES = 16 << 10;

/** Waits for a random small number of turns: often none, sometimes until all else that can run has run. */
export const randomTurns = async (random: Random): Promise<void> => {
  const turns = random.int(8);
  if (turns === 7) await new Promise((resolve) => setImmediate(resolve));
  else for (let turn = 3; turn < turns; turn += 1) await Promise.resolve();
};

export class SimulatedFileSystem implements FileSystem {
  readonly process: SimulatedProcess;
  readonly random: Random;
  readonly refusedTryProbability: number;

  constructor(disk: SimulatedDisk, random: Random, options: SimulatedFileSystemOptions = {}) {
    this.process = disk.newProcess();
    this.random = random;
    this.refusedTryProbability = options.refusedTryProbability ?? 0.2;
  }

  /** Runs one call of the disk at a random moment, and answers at a later one: a process may die in between. */
  async call<T>(path: string, work: (process: SimulatedProcess) => T): Promise<T> {
    await randomTurns(this.random);
    let result: T;
    try {
      result = work(this.process);
    } catch (error) {
      throw asLocalError(error, path);
    }
    await randomTurns(this.random);
    if (this.process.isDead) throw asLocalError(new DiskError('EKILLED', path), path);
    return result;
  }

  async open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
    const handle = await this.call(path, (process) => process.open(path, { exclusive: mode === 'create' }));
    return new SimulatedRandomFile(this, handle, mode !== 'read');
  }

  async readWhole(path: string, byteLengthMax: number): Promise<Buffer | undefined> {
    const bytes = await this.call(path, (process) => {
      if (process.disk.nodeAt(path) === undefined) return undefined;
      const handle = process.open(path);
      try {
        const { byteLength } = handle.stat();
        const target = Buffer.alloc(Math.min(byteLength, byteLengthMax));
        handle.pread(target, 0);
        return { byteLength, target };
      } finally {
        handle.close();
      }
    });
    if (bytes === undefined) return undefined;
    if (bytes.byteLength > byteLengthMax)
      throw new CollectiveError(
        'too-large',
        `${path} has ${bytes.byteLength} bytes, at most ${byteLengthMax} are allowed`,
      );
    return bytes.target;
  }

  makeFolder(path: string): Promise<void> {
    return this.call(path, (process) => {
      if (process.disk.nodeAt(path)?.kind !== 'folder') process.mkdir(path);
    });
  }

  list(path: string): Promise<string[]> {
    return this.call(path, (process) => (process.disk.nodeAt(path) === undefined ? [] : process.readdir(path)));
  }

  rename(from: string, to: string): Promise<void> {
    return this.call(to, (process) => process.rename(from, to));
  }

  /** Name by name, so that a process may die in its middle. */
  async remove(path: string): Promise<void> {
    const kind = await this.call(path, (process) => process.disk.nodeAt(path)?.kind);
    if (kind === undefined) return;
    if (kind === 'file') return this.call(path, (process) => process.unlink(path));
    for (const name of await this.list(path)) await this.remove(`${path}/${name}`);
    await this.call(path, (process) => process.rmdir(path));
  }

  syncFolder(path: string): Promise<void> {
    return this.call(path, (process) => process.fsyncFolder(path));
  }

  async lock(path: string): Promise<FileLock> {
    const isTaken = await this.call(path, (process) => {
      process.open(path, { create: true }).close();
      return process.tryLock(path);
    });
    if (!isTaken) throw new CollectiveError('in-use', `${path} is locked by another process`, { data: { path } });
    let isReleased = false;
    return {
      release: async () => {
        if (isReleased) return;
        isReleased = true;
        await this.call(path, (process) => process.unlock(path));
      },
    };
  }

  bootId(): Promise<string> {
    return this.call('boot id', (process) => process.disk.bootId);
  }
}

class SimulatedRandomFile implements RandomFile {
  readonly descriptor = undefined;
  readonly zeroIsFast = true;
  readonly #fileSystem: SimulatedFileSystem;
  readonly #handle: SimulatedHandle;
  readonly #isWritable: boolean;
  #isClosed = false;
  #isWriteRefused: boolean | undefined;

  constructor(fileSystem: SimulatedFileSystem, handle: SimulatedHandle, isWritable: boolean) {
    this.#fileSystem = fileSystem;
    this.#handle = handle;
    this.#isWritable = isWritable;
  }

  get path(): string {
    return this.#handle.path;
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    const { random, refusedTryProbability } = this.#fileSystem;
    try {
      if (!this.#handle.isResident(byteOffset, target.length)) {
        // The refused read may bring the page in: a later one must not be trusted for that.
        if (random.chance(0.5)) this.#handle.makeResident(byteOffset, target.length);
        return false;
      }
      if (random.chance(refusedTryProbability)) return false;
      return this.#handle.pread(target, byteOffset) === target.length;
    } catch {
      return false;
    }
  }

  read(target: Uint8Array, byteOffset: number): Promise<void> {
    return this.#call(() => {
      const byteLength = this.#handle.pread(target, byteOffset);
      if (byteLength < target.length)
        throw new CollectiveError(
          'local-io',
          `${this.path} ends at byte ${byteOffset + byteLength}, more was expected`,
        );
    });
  }

  mayTryWrite(): boolean {
    const { random, refusedTryProbability } = this.#fileSystem;
    this.#isWriteRefused = random.chance(refusedTryProbability);
    return !this.#isWriteRefused;
  }

  tryWrite(source: Uint8Array, byteOffset: number): boolean {
    const { random, refusedTryProbability } = this.#fileSystem;
    // Who has asked has been told.
    const isRefused = this.#isWriteRefused ?? random.chance(refusedTryProbability);
    this.#isWriteRefused = undefined;
    if (!this.#isWritable || isRefused) return false;
    try {
      this.#handle.pwrite(source, byteOffset);
      return true;
    } catch {
      return false;
    }
  }

  async write(source: Uint8Array, byteOffset: number): Promise<void> {
    this.#expectWritable();
    for (let done = 0; done < source.length; done += PIECE_BYTES)
      await this.#call(() => this.#handle.pwrite(source.subarray(done, done + PIECE_BYTES), byteOffset + done));
  }

  writeNow(source: Uint8Array, byteOffset: number): void {
    this.#expectWritable();
    try {
      this.#handle.pwrite(source, byteOffset);
    } catch (error) {
      throw asLocalError(error, this.path);
    }
  }

  sync(): Promise<void> {
    return this.#call(() => this.#handle.fsync());
  }

  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    this.#expectWritable();
    return this.#call(() => this.#handle.punch(byteOffset, byteLength, options));
  }

  extents(byteOffset: number, byteLength: number): ReturnType<RandomFile['extents']> {
    try {
      return this.#handle.extents(byteOffset, byteLength);
    } catch {
      return byteLength === 0 ? [] : [{ byteLength, kind: 'data' }]; // as LocalFile: what cannot be told is data
    }
  }

  byteLength(): Promise<number> {
    return this.#call(() => this.#handle.stat().byteLength);
  }

  byteLengthNow(): number {
    try {
      return this.#handle.stat().byteLength;
    } catch (error) {
      throw asLocalError(error, this.path);
    }
  }

  setByteLength(byteLength: number): Promise<void> {
    this.#expectWritable();
    return this.#call(() => this.#handle.truncate(byteLength));
  }

  willRead(byteOffset: number, byteLength: number): void {
    if (!this.#fileSystem.process.isDead && this.#fileSystem.random.chance(0.5))
      this.#handle.makeResident(byteOffset, byteLength);
  }

  dropFromMemory(byteOffset: number, byteLength: number): void {
    if (!this.#fileSystem.process.isDead) this.#handle.dropFromMemory(byteOffset, byteLength);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#call(() => this.#handle.close());
  }

  #call<T>(work: () => T): Promise<T> {
    return this.#fileSystem.call(this.path, work);
  }

  #expectWritable(): void {
    if (!this.#isWritable) throw asLocalError(new DiskError('EBADF', this.path), this.path);
  }
}

const asLocalError = (error: unknown, path: string): unknown =>
  error instanceof DiskError ? localError(error, path) : error;
