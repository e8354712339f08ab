/**
 * Remembers in which order a disk's blocks are first read, and when: the boot trace (docs/formats/trace.md). On a published disk it lies
 * below the overlay, on a user disk above, because what lies in its layers here travels elsewhere. A block that was written as a whole
 * before it was read is no touch: nobody needs what was there. In memory and bounded; a repeated touch costs one look into a byte array.
 */
import { TRACE_TOUCHES_MAX, type BootPhase, type TraceTouch } from '@collective/shared';
import type { BlockDevice, Extent, ReadOptions } from './block-device.js';
import type { Clock } from './clock.js';

export class Recorder implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly: boolean;
  readonly blockBytes: number;
  readonly #next: BlockDevice;
  readonly #clock: Clock;
  readonly #touched: Uint8Array;
  readonly #touchesMax: number;
  #touches: TraceTouch[] = [];
  #beganMs: number;
  #phase: BootPhase = 0;
  /** Called at each first touch, before the read: has to be quick. */
  onFirstTouch: ((blockIndex: number) => void) | undefined;

  /** `touchesMax`: later ones are left out; by default as many as a trace has. */
  constructor(
    next: BlockDevice,
    options: { readonly blockBytes: number; readonly clock: Clock; readonly touchesMax?: number },
  ) {
    this.#next = next;
    this.#clock = options.clock;
    this.byteLength = next.byteLength;
    this.readOnly = next.readOnly;
    this.blockBytes = options.blockBytes;
    this.#touchesMax = options.touchesMax ?? TRACE_TOUCHES_MAX;
    this.#touched = new Uint8Array(Math.ceil(next.byteLength / options.blockBytes));
    this.#beganMs = options.clock.nowMs();
  }

  get zeroIsFast(): boolean {
    return this.#next.zeroIsFast ?? false;
  }

  /** First touches since the machine was started, in order. */
  get touches(): readonly TraceTouch[] {
    return this.#touches;
  }

  /** The machine is started now: forget what was before. */
  restart(): void {
    this.#touched.fill(0);
    this.#touches = [];
    this.#beganMs = this.#clock.nowMs();
    this.#phase = 0;
  }

  /** What the machine is doing from now on. */
  setPhase(phase: BootPhase): void {
    this.#phase = phase;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    this.#record(byteOffset, target.length);
    return this.#next.tryRead(target, byteOffset);
  }

  read(target: Buffer, byteOffset: number, options?: ReadOptions): Promise<void> {
    this.#record(byteOffset, target.length);
    return this.#next.read(target, byteOffset, options);
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    this.#leaveOut(byteOffset, source.length);
    return this.#next.tryWrite(source, byteOffset);
  }

  write(source: Buffer, byteOffset: number): Promise<void> {
    this.#leaveOut(byteOffset, source.length);
    return this.#next.write(source, byteOffset);
  }

  publishWrites(): void {
    this.#next.publishWrites();
  }

  flush(): Promise<void> {
    return this.#next.flush();
  }

  trim(byteOffset: number, byteLength: number): Promise<void> {
    this.#leaveOut(byteOffset, byteLength);
    return this.#next.trim(byteOffset, byteLength);
  }

  zero(byteOffset: number, byteLength: number, options?: { readonly keepAllocated?: boolean }): Promise<void> {
    this.#leaveOut(byteOffset, byteLength);
    return this.#next.zero(byteOffset, byteLength, options);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#next.extents(byteOffset, byteLength);
  }

  warm(byteOffset: number, byteLength: number): void {
    this.#next.warm(byteOffset, byteLength);
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  /** Blocks that are written as a whole. */
  #leaveOut(byteOffset: number, byteLength: number): void {
    const first = Math.ceil(byteOffset / this.blockBytes);
    this.#touched.fill(1, first, Math.max(first, Math.floor((byteOffset + byteLength) / this.blockBytes)));
  }

  #record(byteOffset: number, byteLength: number): void {
    const last = Math.floor((byteOffset + byteLength - 1) / this.blockBytes);
    for (let index = Math.floor(byteOffset / this.blockBytes); index <= last; index += 1) {
      if (this.#touched[index] !== 0) continue;
      this.#touched[index] = 1;
      this.onFirstTouch?.(index);
      if (this.#touches.length >= this.#touchesMax) continue;
      this.#touches.push({
        blockIndex: index,
        afterMs: Math.round(this.#clock.nowMs() - this.#beganMs),
        phase: this.#phase,
        chunkBytes: 0, // the repository knows it
      });
    }
  }
}
