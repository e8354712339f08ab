/**
 * A BlockDevice in memory for tests: counts what is asked of it, and can be told to make everything wait (`gate`), to be
 * slow (`tryRead` and `tryWrite` refuse) or to fail to publish.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockDevice, Extent } from '../block-device.js';

export class MemoryDevice implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly: boolean;
  readonly zeroIsFast: boolean;
  readonly content: Buffer;
  readonly counts = { read: 0, write: 0, flush: 0, publish: 0, warm: 0 };
  isSlow = false;
  publishFails = false;
  /** While set, waiting operations do not go on. */
  gate: Promise<void> | undefined;

  constructor(byteLength: number, options: { readonly readOnly?: boolean; readonly zeroIsFast?: boolean } = {}) {
    this.byteLength = byteLength;
    this.content = Buffer.alloc(byteLength);
    this.readOnly = options.readOnly ?? false;
    this.zeroIsFast = options.zeroIsFast ?? true;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    this.#assertInside(byteOffset, target.length);
    if (this.isSlow) return false;
    this.counts.read += 1;
    this.content.copy(target, 0, byteOffset, byteOffset + target.length);
    return true;
  }

  async read(target: Buffer, byteOffset: number): Promise<void> {
    this.#assertInside(byteOffset, target.length);
    this.counts.read += 1;
    await this.gate;
    this.content.copy(target, 0, byteOffset, byteOffset + target.length);
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    this.#assertInside(byteOffset, source.length);
    if (this.isSlow) return false;
    this.counts.write += 1;
    source.copy(this.content, byteOffset);
    return true;
  }

  async write(source: Buffer, byteOffset: number): Promise<void> {
    this.#assertInside(byteOffset, source.length);
    this.counts.write += 1;
    await this.gate;
    source.copy(this.content, byteOffset);
  }

  publishWrites(): void {
    this.counts.publish += 1;
    if (this.publishFails) throw new CollectiveError('disk-full');
  }

  async flush(): Promise<void> {
    this.counts.flush += 1;
    await this.gate;
  }

  trim(byteOffset: number, byteLength: number): Promise<void> {
    return this.zero(byteOffset, byteLength);
  }

  async zero(byteOffset: number, byteLength: number): Promise<void> {
    this.#assertInside(byteOffset, byteLength);
    await this.gate;
    this.content.fill(0, byteOffset, byteOffset + byteLength);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    this.#assertInside(byteOffset, byteLength);
    const extents: Extent[] = [];
    for (let at = byteOffset; at < byteOffset + byteLength;) {
      const end = Math.min(byteOffset + byteLength, at - (at % 4096) + 4096);
      const kind = this.content.subarray(at, end).every((byte) => byte === 0) ? 'hole' : 'data';
      extents.push({ byteLength: end - at, kind });
      at = end;
    }
    return extents;
  }

  warm(): void {
    this.counts.warm += 1;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #assertInside(byteOffset: number, byteLength: number): void {
    if (byteOffset < 0 || byteOffset + byteLength > this.byteLength)
      throw new Error(`outside: ${byteOffset}+${byteLength}`);
  }
}
