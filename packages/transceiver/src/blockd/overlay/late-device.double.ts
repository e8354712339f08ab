/**
 * A read-only BlockDevice for tests whose bytes are known and which answers only when it is let: `isAway` makes `tryRead`
 * refuse and `read` wait for `arrive`.
 */
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { ReadOnlyDevice } from '../read-only-device.js';

export class LateDevice extends ReadOnlyDevice implements BlockDevice {
  readonly content: Buffer;
  isAway = false;
  #waiting: (() => void)[] = [];

  constructor(content: Buffer) {
    super(content.length, 'a device that may be late');
    this.content = content;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** Lets everything through, now and from now on. */
  arrive(): void {
    this.isAway = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const proceed of waiting) proceed();
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    if (this.isAway) return false;
    this.content.copy(target, 0, byteOffset, byteOffset + target.length);
    return true;
  }

  async read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    const { signal } = options;
    if (this.isAway) {
      await new Promise<void>((resolve, reject) => {
        this.#waiting.push(resolve);
        signal?.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
        if (signal?.aborted === true) reject(new Error('aborted'));
      });
    }
    this.content.copy(target, 0, byteOffset, byteOffset + target.length);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const isHole = this.content.subarray(byteOffset, byteOffset + byteLength).every((byte) => byte === 0);
    return byteLength === 0 ? [] : [{ byteLength, kind: isHole ? 'hole' : 'data' }];
  }

  warm(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
