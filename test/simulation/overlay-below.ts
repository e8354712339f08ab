/** The disk below a simulated overlay: an image that is near, answers late or with `block-unavailable`, or does not answer at all. */
import { CollectiveError } from '@collective/shared';
import type { BlockDevice, Extent, ReadOptions } from '@collective/transceiver';
import { SECTOR_BYTES } from './overlay-model.js';
import { Places } from './overlay-places.js';
import type { Random } from './random.js';
import { randomTurns } from './simulated-file-system.js';

/** Turns of the event loop that a read waits for a link that is down. */
const WAIT_TURNS = 60;

export class SimulatedBelow implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = true;
  link: 'near' | 'late' | 'down' = 'near';
  /** Of the places that are used. */
  content: Buffer;
  readonly #random: Random;
  readonly #places: Places;
  readonly #waiting = new Set<(error: Error) => void>();

  constructor(content: Buffer, random: Random, places?: Places) {
    this.content = content;
    this.#places = places ?? new Places([{ byteOffset: 0, sectors: content.length / SECTOR_BYTES }]);
    this.byteLength = this.#places.diskBytes;
    this.#random = random;
  }

  /** The process that asked is dead. */
  crash(): void {
    for (const reject of this.#waiting) reject(new Error('killed'));
    this.#waiting.clear();
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    if (this.link !== 'near' || this.#random.chance(0.3)) return false;
    this.#copy(target, byteOffset);
    return true;
  }

  async read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    await randomTurns(this.#random);
    if (this.link === 'down') await this.#waitInVain(options.signal);
    if (this.link === 'late') {
      for (let turn = this.#random.int(4); turn > 0; turn -= 1) await new Promise((resolve) => setImmediate(resolve));
      if (this.#random.chance(0.05)) throw new CollectiveError('block-unavailable', 'the simulated link is slow');
    }
    this.#copy(target, byteOffset);
  }

  /** As the block path does: for a while, then `block-unavailable`. */
  async #waitInVain(signal: AbortSignal | undefined): Promise<never> {
    let fail = (_error: Error): void => {};
    const failed = new Promise<never>((_, reject) => (fail = reject));
    this.#waiting.add(fail);
    const abort = (): void => fail(new Error('aborted'));
    if (signal?.aborted === true) abort();
    signal?.addEventListener('abort', abort);
    let turns = WAIT_TURNS;
    const next = (): void => {
      if ((turns -= 1) === 0) fail(new CollectiveError('block-unavailable', 'the simulated link is down'));
      else if (this.#waiting.has(fail)) setImmediate(next);
    };
    next();
    try {
      return await failed;
    } finally {
      this.#waiting.delete(fail);
      signal?.removeEventListener('abort', abort);
    }
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    if (byteLength === 0) return [];
    const at = this.#places.bufferOffsetOf(byteOffset, byteLength);
    const isHole = this.content.subarray(at, at + byteLength).every((byte) => byte === 0);
    return [{ byteLength, kind: isHole ? 'hole' : 'data' }];
  }

  #copy(target: Buffer, byteOffset: number): void {
    const at = this.#places.bufferOffsetOf(byteOffset, target.length);
    this.content.copy(target, 0, at, at + target.length);
  }

  tryWrite(): boolean {
    return false;
  }

  write(): Promise<void> {
    return Promise.reject(new Error('a write reached the disk below'));
  }

  publishWrites(): void {}

  flush(): Promise<void> {
    return Promise.resolve();
  }

  trim(): Promise<void> {
    return Promise.reject(new Error('a trim reached the disk below'));
  }

  zero(): Promise<void> {
    return Promise.reject(new Error('a zero reached the disk below'));
  }

  warm(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
