/** The real disk, but for tests: files whose path ends as told fail to sync, to be written or to be read, with a given error. */
import { CollectiveError } from '@collective/shared';
import type { Extent } from '../blockd/block-device.js';
import type { RandomFile } from './file-system.js';
import { LocalFileSystem } from './local-file-system.js';

type Fault = {
  readonly pathEnd: string;
  readonly call: 'sync' | 'write' | 'read';
  readonly code: 'disk-full' | 'local-io';
};

export class FaultyFileSystem extends LocalFileSystem {
  fault: Fault | undefined;

  override async open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
    return new FaultyFile(await super.open(path, mode), (call) => {
      const { fault } = this;
      if (fault?.call === call && path.endsWith(fault.pathEnd))
        throw new CollectiveError(fault.code, `${call} of ${path}`);
    });
  }
}

class FaultyFile implements RandomFile {
  readonly #file: RandomFile;
  readonly #check: (call: Fault['call']) => void;

  constructor(file: RandomFile, check: (call: Fault['call']) => void) {
    this.#file = file;
    this.#check = check;
  }

  get path(): string {
    return this.#file.path;
  }

  get descriptor(): number | undefined {
    return this.#file.descriptor;
  }

  get zeroIsFast(): boolean {
    return this.#file.zeroIsFast;
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    return this.#file.tryRead(target, byteOffset);
  }

  async read(target: Uint8Array, byteOffset: number): Promise<void> {
    this.#check('read');
    await this.#file.read(target, byteOffset);
  }

  mayTryWrite(byteLength: number): boolean {
    return this.#file.mayTryWrite(byteLength);
  }

  tryWrite(source: Uint8Array, byteOffset: number): boolean {
    try {
      this.#check('write');
    } catch {
      return false;
    }
    return this.#file.tryWrite(source, byteOffset);
  }

  async write(source: Uint8Array, byteOffset: number): Promise<void> {
    this.#check('write');
    await this.#file.write(source, byteOffset);
  }

  writeNow(source: Uint8Array, byteOffset: number): void {
    this.#check('write');
    this.#file.writeNow(source, byteOffset);
  }

  async sync(): Promise<void> {
    this.#check('sync');
    await this.#file.sync();
  }

  async zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    this.#check('write');
    await this.#file.zero(byteOffset, byteLength, options);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#file.extents(byteOffset, byteLength);
  }

  willRead(byteOffset: number, byteLength: number): void {
    this.#file.willRead(byteOffset, byteLength);
  }

  dropFromMemory(byteOffset: number, byteLength: number): void {
    this.#file.dropFromMemory(byteOffset, byteLength);
  }

  byteLength(): Promise<number> {
    return this.#file.byteLength();
  }

  byteLengthNow(): number {
    return this.#file.byteLengthNow();
  }

  setByteLength(byteLength: number): Promise<void> {
    return this.#file.setByteLength(byteLength);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
