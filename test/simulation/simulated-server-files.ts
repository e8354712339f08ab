/**
 * The repository server's file system over a simulated disk, as one process sees it: every call takes effect at a random
 * moment and is answered at a later one, and the process may die before, in between and after. A dead process's calls
 * throw `KilledError`, which is no error of the product: nothing in it may handle it as one.
 */
import { type FileStat, type FileSystem, type FolderEntry, type OpenFile } from '@collective/repository-server';
import { CollectiveError } from '@collective/shared';
import { DiskError, type SimulatedDisk, type SimulatedProcess } from './simulated-disk.js';
import { type Random } from './random.js';

export class KilledError extends Error {
  constructor() {
    super('the process is dead');
  }
}

/** One process of the simulation, over disk and catalogue. `onStep` is asked before and after each of its steps. */
export class SimulatedLife {
  readonly process: SimulatedProcess;
  readonly disk: SimulatedDisk;
  readonly #random: Random;
  readonly #onStep: () => void;

  constructor(disk: SimulatedDisk, random: Random, onStep: () => void) {
    this.disk = disk;
    this.process = disk.newProcess();
    this.#random = random;
    this.#onStep = onStep;
  }

  get isDead(): boolean {
    return this.process.isDead;
  }

  requireAlive(): void {
    if (this.isDead) throw new KilledError();
  }

  /** `work` has its effect at once when it is called; what it promises is waited for. */
  async step<T>(work: () => T | Promise<T>): Promise<T> {
    await this.#turns();
    this.#onStep();
    this.requireAlive();
    const result = await work();
    this.#onStep();
    this.requireAlive();
    await this.#turns();
    this.requireAlive();
    return result;
  }

  /** Often few turns, sometimes until all else that can run has run. */
  async #turns(): Promise<void> {
    const turns = this.#random.int(16);
    if (turns === 15) await new Promise((resolve) => setImmediate(resolve));
    else for (let turn = 8; turn < turns; turn += 1) await Promise.resolve();
  }
}

export class SimulatedServerFiles implements FileSystem {
  readonly #life: SimulatedLife;

  constructor(life: SimulatedLife) {
    this.#life = life;
  }

  async createSynced(path: string, bytes: Uint8Array): Promise<void> {
    const handle = await this.#call(path, (process) => process.open(path, { exclusive: true }));
    try {
      const half = Math.ceil(bytes.length / 2);
      await this.#call(path, () => handle.pwrite(bytes.subarray(0, half), 0));
      await this.#call(path, () => handle.pwrite(bytes.subarray(half), half));
      await this.#call(path, () => handle.fsync());
    } finally {
      if (!this.#life.isDead) handle.close();
    }
  }

  async writeSynced(path: string, bytes: Uint8Array, byteOffset: number): Promise<void> {
    const handle = await this.#call(path, (process) => process.open(path, { create: true }));
    try {
      const half = Math.ceil(bytes.length / 2);
      await this.#call(path, () => handle.pwrite(bytes.subarray(0, half), byteOffset));
      await this.#call(path, () => handle.pwrite(bytes.subarray(half), byteOffset + half));
      await this.#call(path, () => handle.truncate(byteOffset + bytes.length));
      await this.#call(path, () => handle.fsync());
    } finally {
      if (!this.#life.isDead) handle.close();
    }
  }

  async open(path: string): Promise<OpenFile | undefined> {
    const opened = await this.#call(path, (process) =>
      unless('ENOENT', () => {
        const handle = process.open(path);
        return { handle, byteLength: handle.stat().byteLength };
      }),
    );
    if (opened === undefined) return undefined;
    const { handle, byteLength: fileBytes } = opened;
    return {
      byteLength: fileBytes,
      read: (byteOffset, byteLength) =>
        this.#call(path, () => {
          const bytes = Buffer.alloc(byteLength);
          if (handle.pread(bytes, byteOffset) < byteLength) throw new DiskError('EIO', path);
          return bytes;
        }),
      close: async () => {
        if (!this.#life.isDead) handle.close();
      },
    };
  }

  link(from: string, to: string): Promise<boolean> {
    return this.#call(to, (process) => unless('EEXIST', () => (process.link(from, to), true)) ?? false);
  }

  rename(from: string, to: string): Promise<void> {
    return this.#call(to, (process) => process.rename(from, to));
  }

  async remove(path: string): Promise<void> {
    const kind = await this.#call(path, ({ disk }) => disk.nodeAt(path)?.kind);
    if (kind === 'folder') {
      for (const { name } of await this.list(path)) await this.remove(`${path}/${name}`);
      await this.#call(path, (process) => process.rmdir(path));
    } else if (kind === 'file') {
      await this.#call(path, (process) => void unless('ENOENT', () => process.unlink(path)));
    }
  }

  makeFolder(path: string): Promise<boolean> {
    return this.#call(path, (process) => unless('EEXIST', () => (process.mkdir(path), true)) ?? false);
  }

  syncFolder(path: string): Promise<void> {
    return this.#call(path, (process) => process.fsyncFolder(path));
  }

  read(path: string): Promise<Buffer | undefined> {
    return this.#call(path, (process) => unless('ENOENT', () => readWhole(process, path)));
  }

  readNow(path: string): Buffer | undefined {
    this.#life.requireAlive();
    return guard(path, () => unless('ENOENT', () => readWhole(this.#life.process, path)));
  }

  list(path: string): Promise<FolderEntry[]> {
    return this.#call(path, (process) => {
      const names = unless('ENOENT', () => process.readdir(path)) ?? [];
      return names.map((name) => ({ name, kind: process.disk.nodeAt(`${path}/${name}`)?.kind ?? 'other' }));
    });
  }

  stat(path: string): Promise<FileStat | undefined> {
    return this.#call(path, (process) => unless('ENOENT', () => process.stat(path)));
  }

  freeBytes(): Promise<number> {
    return this.#call('the disk', ({ disk }) => disk.capacityBytes - disk.usedBytes);
  }

  #call<T>(path: string, work: (process: SimulatedProcess) => T): Promise<T> {
    return this.#life.step(() => guard(path, () => work(this.#life.process)));
  }
}

const readWhole = (process: SimulatedProcess, path: string): Buffer => {
  const handle = process.open(path);
  try {
    const bytes = Buffer.alloc(handle.stat().byteLength);
    handle.pread(bytes, 0);
    return bytes;
  } finally {
    handle.close();
  }
};

/** Undefined for that one errno (and for ENOTDIR: nothing is there). */
const unless = <T>(code: 'ENOENT' | 'EEXIST', work: () => T): T | undefined => {
  try {
    return work();
  } catch (error) {
    if (error instanceof DiskError && (error.code === code || error.code === 'ENOTDIR')) return undefined;
    throw error;
  }
};

const guard = <T>(path: string, work: () => T): T => {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    if (error.code === 'EKILLED') throw new KilledError();
    throw new CollectiveError(error.code === 'ENOSPC' ? 'disk-full' : 'local-io', `${path}: ${error.code}`, {
      cause: error,
    });
  }
};
