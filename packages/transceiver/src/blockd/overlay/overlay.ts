/**
 * The writable disk over an immutable one: reads come from the topmost layer that holds the bytes, or from below; writes
 * go to the top layer and wait for nothing but the local disk.
 *
 * A write that covers a granule only in part is completed at once when the rest is in memory. Otherwise its sectors alone
 * are written and marked, and the rest is read in the background (`FillQueue`). Only a write that covers a *sector* in
 * part has to wait for the rest of it: layers are written by whole sectors, because they may be encrypted by sectors.
 *
 * Operations that wait (thread pool, trims, fills) hold their granules in a RangeLock; a synchronous write steps back from
 * held granules and becomes a waiting one. So whoever looks at a mask and writes accordingly does it either in one
 * turn of the event loop or under the lock.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { FillQueue } from './fill-queue.js';
import { GRANULE_BYTES, granuleCountOf, granuleOf, SECTOR_BYTES, WHOLE } from './geometry.js';
import type { Layer } from './layer.js';
import { BELOW } from './layer-owners.js';
import { LayerStack, type OpenBelow } from './layer-stack.js';
import { LayeredReader } from './layered-reader.js';
import { changedBlocks } from './changed-blocks.js';
import { OverlayView } from './overlay-view.js';
import { RangeLock } from './range-lock.js';
import { SealTimes, type SealStatus } from './seal-times.js';

export class Overlay implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = false;
  readonly #stack: LayerStack;
  readonly #reader: LayeredReader;
  readonly #locks = new RangeLock();
  readonly #views = new Set<OverlayView>();
  readonly #sealTimes = new SealTimes();
  #fills: FillQueue;
  readonly #inFlight = new Set<Promise<void>>();
  /** Seals, rebases and looks at sealed layers come one after the other. */
  #lastLayerChange: Promise<unknown> = Promise.resolve();
  readonly #scratch = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  #isClosing = false;
  #closed: Promise<void> | undefined;

  private constructor(stack: LayerStack, below: BlockDevice) {
    this.byteLength = below.byteLength;
    this.#stack = stack;
    this.#reader = new LayeredReader(stack, below, this.#locks);
    this.#fills = this.#fillsOf(stack.top);
  }

  /**
   * Opens the overlay in `folder`, or makes an empty one over `newBase`. `below` is, or gives, the device below the layers (of the base that `overlay.json`
   * names); it stays the caller's and must outlive its place below them. `key` (64 bytes, copied): the layers are, or become, encrypted with it. Errors:
   * `in-use`, `bad-image` (made for another size), `wrong-key` (nothing was changed), `malformed`, `unknown-format`, `disk-full`, `local-io`, and those of `below`.
   */
  static async open(
    fileSystem: FileSystem,
    folder: string,
    below: BlockDevice | OpenBelow,
    options: { readonly key?: Uint8Array | undefined; readonly newBase?: Digest | null | undefined } = {},
  ): Promise<Overlay> {
    const openBelow = typeof below === 'function' ? below : () => Promise.resolve(below);
    const opened = await LayerStack.openOrCreate(fileSystem, folder, { ...options, openBelow });
    const overlay = new Overlay(opened.stack, opened.below);
    overlay.#fills.findPartial();
    return overlay;
  }

  get zeroIsFast(): boolean {
    return this.#stack.top.zeroIsFast;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    return this.#reader.tryRead(target, byteOffset);
  }

  read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    return this.#track(this.#reader.read(target, byteOffset, options));
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    const isWritten = this.#tryWriteNow(source, byteOffset);
    if (isWritten && this.#sealTimes.isUnderWay) this.#sealTimes.noteWrite();
    return isWritten;
  }

  write(source: Buffer, byteOffset: number): Promise<void> {
    const end = byteOffset + source.length;
    return this.#change(byteOffset, end, (top) => this.#writeLocked(top, source, byteOffset));
  }

  publishWrites(): void {
    this.#stack.publish();
  }

  flush(): Promise<void> {
    return this.#track(this.#stack.flush());
  }

  trim(byteOffset: number, byteLength: number): Promise<void> {
    return this.zero(byteOffset, byteLength);
  }

  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated?: boolean } = {}): Promise<void> {
    const keepAllocated = options.keepAllocated ?? false;
    const end = byteOffset + byteLength;
    return this.#change(byteOffset, end, (top) => this.#zeroLocked(top, byteOffset, end, keepAllocated));
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#reader.extents(byteOffset, byteLength);
  }

  warm(byteOffset: number, byteLength: number): void {
    this.#reader.warm(byteOffset, byteLength);
  }

  /** Whether a bit of the granule in the layer's data that flips on the medium from now on would be noticed. */
  isSummed(layerId: string, byteOffset: number): boolean {
    return this.#stack.layers.find((layer) => layer.layerId === layerId)?.isSummed(byteOffset) ?? false;
  }

  /** The layers that take no more writes, from the bottom to the top. Durable after the next `flush`. */
  get sealedLayerIds(): readonly string[] {
    return this.#stack.layers.slice(0, -1).map((layer) => layer.layerId);
  }

  /**
   * Freezes the top layer and puts a fresh one above it, while the disk is in use; resolves with the frozen layer's id when it is
   * durable and will never change. The cut lies between two acknowledged writes: every write that was acknowledged before the
   * call is in it, none that began after the call resolved; of those at the same time, none without all that were acknowledged before
   * it began. No write waits for it. Errors: `too-large` (too many layers), `shutting-down`, `disk-full`, `local-io`.
   * Where making the frozen layer durable fails after the cut it is made all the same, and a later flush makes up for it.
   */
  seal(): Promise<string> {
    const sealing = this.#changeLayers(async () => {
      // What was written before is made durable first, so that between the cut and its durability there is little left to do.
      await this.flush();
      return await this.#sealTimes.during(() => this.#seal());
    });
    // Nobody waits for the sums of the frozen layer. They come before any other change of the layers; never without them at a close.
    this.#changeLayers(async () => {
      const layerId = await sealing;
      await this.#stack.keepSums(this.#stack.layers.filter((layer) => layer.layerId === layerId));
    }).catch(() => undefined);
    return sealing;
  }

  /** Of all seals since it was opened. */
  get sealStatus(): SealStatus {
    return this.#sealTimes.status;
  }

  /** The base file that `overlay.json` names; null: none. */
  get base(): Digest | null {
    return this.#stack.base;
  }

  /**
   * The disk as it is up to and with a sealed layer, which is durable when this resolves. Whoever opens a view closes it. Errors: `not-found` when
   * the layer is not there or takes writes, `shutting-down`, `disk-full`, `local-io`.
   */
  openView(layerId: string): Promise<OverlayView> {
    return this.#changeLayers(async () => {
      const layers = this.#sealedUpTo(layerId);
      // Of one that a killed predecessor sealed, or was about to, nothing may be on the medium yet.
      await this.#stack.flush(layers.at(-1));
      const view = new OverlayView({
        layers,
        below: this.#reader.below,
        locks: this.#locks,
        track: (work) => this.#track(work),
        onClosed: (closed) => this.#views.delete(closed),
      });
      this.#views.add(view);
      if (this.#isClosing) view.end();
      return view;
    });
  }

  /** Numbers of the blocks that the layers up to and with a sealed one touch, ascending. Errors: `not-found`, `shutting-down`. */
  changedBlocks(layerId: string, blockBytes: number): Promise<Uint32Array> {
    return this.#changeLayers(() =>
      changedBlocks(this.#sealedUpTo(layerId), { diskBytes: this.byteLength, blockBytes }),
    );
  }

  /** Numbers of the blocks that any layer touches, ascending, of a disk that nobody writes to. Errors: `shutting-down`. */
  touchedBlocks(blockBytes: number): Promise<Uint32Array> {
    return this.#changeLayers(() => changedBlocks(this.#stack.layers, { diskBytes: this.byteLength, blockBytes }));
  }

  /**
   * Puts a committed state in the place of the layers up to and with a sealed one, in one durable step, while the disk is in use: `below` must read
   * as the device below and those layers do, and `base` is how a successor finds it. Views of those layers end. Resolves when nothing reads the
   * device that was below any more, which the caller may close then, and the layers' space has been given back. Errors, after which the disk is
   * as before: `not-found` when the layer is not there or takes writes, `bad-image` (another size), `shutting-down`, `disk-full`, `local-io`.
   */
  rebase(layerId: string, to: { readonly base: Digest; readonly below: BlockDevice }): Promise<void> {
    return this.#changeLayers(async () => {
      const count = this.#sealedUpTo(layerId).length;
      if (to.below.byteLength !== this.byteLength)
        throw new CollectiveError('bad-image', `a base of ${to.below.byteLength} bytes, not ${this.byteLength}`);
      const { take } = await this.#stack.replaceByBase(count, to.base);
      // In one turn: no read sees the new device with the old layers, or the old one without them.
      const dropped = take();
      this.#reader.below = to.below;
      for (const view of this.#views) view.rebase(dropped, to.below);
      await Promise.allSettled([...this.#inFlight]);
      // What cannot be removed now is not named any more and goes at the next open.
      for (const layer of dropped) await this.#stack.remove(layer).catch(() => undefined);
    });
  }

  /** Ends fills, waits for what is under way, and flushes. Errors: those of `flush`; everything is closed all the same. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** Lets go of everything without publishing or flushing, as the end of the process would. Waits for what is under way. */
  async abandon(): Promise<void> {
    this.#closed ??= (async () => {
      await this.#quiesce();
      await this.#stack.close();
    })();
    await this.#closed;
  }

  async #quiesce(): Promise<void> {
    this.#isClosing = true;
    for (const view of this.#views) view.end();
    await this.#fills.close();
    while (this.#inFlight.size > 0) await Promise.allSettled(this.#inFlight);
    await this.#lastLayerChange;
  }

  async #close(): Promise<void> {
    await this.#quiesce();
    try {
      this.#stack.publish();
      await this.#stack.flush();
      await this.#stack.keepSums();
    } finally {
      await this.#stack.close();
    }
  }

  #fillsOf(top: Layer): FillQueue {
    return new FillQueue({ map: top.map, fill: (granule, signal) => this.#fill(top, granule, signal) });
  }

  #changeLayers<T>(work: () => Promise<T>): Promise<T> {
    const change = this.#lastLayerChange.then(() => {
      if (this.#isClosing) throw isBeingClosed();
      return work();
    });
    this.#lastLayerChange = change.catch(() => undefined);
    return change;
  }

  async #seal(): Promise<string> {
    const fresh = await this.#stack.prepareLayer();
    if (this.#isClosing) {
      await fresh.close();
      throw isBeingClosed();
    }
    // The cut: in one turn, all that begins from now on goes to the fresh layer.
    const sealed = this.#stack.top;
    const fills = this.#fills;
    const underWay = this.#locks.allReleased();
    this.#stack.putOnTop(fresh);
    this.#fills = this.#fillsOf(fresh);
    // What holds a lock had begun before it and ends in the sealed layer. A granule that is partly held stays so.
    await fills.close();
    await underWay;
    sealed.publish();
    await this.#stack.flush(sealed);
    return sealed.layerId;
  }

  /** From the bottom up to and with that sealed one. Error: `not-found`. */
  #sealedUpTo(layerId: string): readonly Layer[] {
    const { layers } = this.#stack;
    const index = layers.findIndex((layer) => layer.layerId === layerId);
    if (index < 0 || index === layers.length - 1)
      throw new CollectiveError('not-found', `${layerId} is none of the sealed layers`);
    return layers.slice(0, index + 1);
  }

  /** Whether the write covers the granule, or what lies in it of the disk, in part, and the top layer lacks some of it. */
  #needsRest(granule: number, start: number, end: number): boolean {
    const granuleStart = granule * GRANULE_BYTES;
    const granuleEnd = Math.min(granuleStart + GRANULE_BYTES, this.byteLength);
    return (start > granuleStart || end < granuleEnd) && this.#stack.top.map.get(granule) !== WHOLE;
  }

  #tryWriteNow(source: Buffer, byteOffset: number): boolean {
    const end = byteOffset + source.length;
    const { top } = this.#stack;
    if (this.#isClosing || this.#locks.isHeld(granuleOf(byteOffset), granuleCountOf(end))) return false;
    if (byteOffset % GRANULE_BYTES === 0 && (end % GRANULE_BYTES === 0 || end === this.byteLength)) {
      if (!top.tryWrite(source, byteOffset)) return false;
      top.addRange(byteOffset, source.length);
      return true;
    }
    return this.#tryWriteUnaligned(source, byteOffset, end);
  }

  /** A write that does not begin and end with granules, all in one turn: nothing is written when it returns false. */
  #tryWriteUnaligned(source: Buffer, start: number, end: number): boolean {
    const { top } = this.#stack;
    const head = granuleOf(start);
    const tail = granuleOf(end - 1);
    const isSplitting = splitsSector(start, end);
    if (head === tail && (isSplitting || this.#needsRest(head, start, end))) {
      const whole = this.#composeNow(head, source, start);
      if (whole !== undefined) {
        if (!top.tryWrite(whole, head * GRANULE_BYTES)) return false;
        top.addRange(head * GRANULE_BYTES, whole.length);
        return true;
      }
    }
    if (isSplitting) return false; // the rest of a sector has to be waited for, or there are two such sectors
    if (!top.tryWrite(source, start)) return false;
    this.#addSectors(top, start, end);
    return true;
  }

  /** The granule as it is to be, in the scratch buffer, when its rest can be had at once. */
  #composeNow(granule: number, source: Buffer, start: number): Buffer | undefined {
    const granuleStart = granule * GRANULE_BYTES;
    const whole = this.#scratch.subarray(0, Math.min(GRANULE_BYTES, this.byteLength - granuleStart));
    if (!this.tryRead(whole, granuleStart)) return undefined;
    source.copy(whole, start - granuleStart);
    return whole;
  }

  /** Marks what a write has put down; sectors that it touched in part were in the layer already. */
  #addSectors(top: Layer, start: number, end: number): void {
    const sectorStart = start - (start % SECTOR_BYTES);
    const sectorEnd = Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES;
    top.addRange(sectorStart, sectorEnd - sectorStart);
    if (top !== this.#stack.top) return; // sealed meanwhile: what it holds in part stays so
    for (const granule of new Set([granuleOf(start), granuleOf(end - 1)])) {
      if (top.map.get(granule) !== WHOLE) this.#fills.add(granule);
    }
  }

  async #writeLocked(top: Layer, source: Buffer, start: number): Promise<void> {
    const end = start + source.length;
    if (source.length === 0) return;
    let bytes = source;
    let bytesStart = start;
    if (splitsSector(start, end)) {
      // Widen to whole sectors, whose rest comes from wherever it is.
      bytesStart = start - (start % SECTOR_BYTES);
      bytes = Buffer.allocUnsafe(Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES - bytesStart);
      const headSector = bytes.subarray(0, SECTOR_BYTES);
      const tailSector = bytes.subarray(bytes.length - SECTOR_BYTES);
      await this.#reader.read(headSector, bytesStart, { isHeld: true });
      if (bytes.length > SECTOR_BYTES)
        await this.#reader.read(tailSector, bytesStart + bytes.length - SECTOR_BYTES, { isHeld: true });
      source.copy(bytes, start - bytesStart);
    }
    await top.write(bytes, bytesStart);
    this.#addSectors(top, bytesStart, bytesStart + bytes.length);
  }

  async #zeroLocked(top: Layer, start: number, end: number, keepAllocated: boolean): Promise<void> {
    const wholeStart = Math.min(granuleCountOf(start) * GRANULE_BYTES, end);
    const wholeEnd = end === this.byteLength ? end : Math.max(granuleOf(end) * GRANULE_BYTES, wholeStart);
    if (start < wholeStart) await this.#writeLocked(top, Buffer.alloc(wholeStart - start), start);
    if (wholeStart < wholeEnd) await this.#zeroGranules(top, wholeStart, wholeEnd, keepAllocated);
    if (wholeEnd < end && wholeEnd >= wholeStart) await this.#writeLocked(top, Buffer.alloc(end - wholeEnd), wholeEnd);
  }

  async #zeroGranules(top: Layer, start: number, end: number, keepAllocated: boolean): Promise<void> {
    for (const segment of this.#reader.segments(start, end)) {
      // What no layer holds and what reads as zeroes below stays as it is: a trim of an empty disk costs nothing.
      let position = segment.start;
      const parts =
        segment.owner === BELOW && !keepAllocated
          ? this.#reader.below.extents(segment.start, segment.end - segment.start)
          : [{ kind: 'data', byteLength: segment.end - segment.start } as const];
      for (const part of parts) {
        if (part.kind === 'data') {
          await top.zero(position, part.byteLength, { keepAllocated });
          top.addRange(position, part.byteLength);
        }
        position += part.byteLength;
      }
    }
  }

  /** Completes a partly held granule from below. The bytes below never change, so they may be read without the lock. */
  async #fill(top: Layer, granule: number, signal: AbortSignal): Promise<void> {
    if (top.map.get(granule) === WHOLE) return;
    const start = granule * GRANULE_BYTES;
    const whole = Buffer.allocUnsafe(Math.min(GRANULE_BYTES, this.byteLength - start));
    await this.#track(this.#reader.read(whole, start, { signal, isBackground: true })); // a layer that it reads is not closed before
    await this.#locks.run(granule, granule + 1, async () => {
      if (top !== this.#stack.top) return; // sealed meanwhile
      const held = top.map.get(granule);
      for (let sectorStart = 0; sectorStart < whole.length; sectorStart += SECTOR_BYTES) {
        if ((held & (1 << (sectorStart / SECTOR_BYTES))) !== 0) continue;
        await top.write(whole.subarray(sectorStart, sectorStart + SECTOR_BYTES), start + sectorStart);
      }
      top.addRange(start, whole.length);
      top.tryRead(whole, start); // from now on it has a sum
    });
  }

  /** Runs a change of [start, end) under the lock of its granules, in the layer that is on top when it has it. */
  #change(start: number, end: number, work: (top: Layer) => Promise<void>): Promise<void> {
    if (this.#isClosing) return Promise.reject(isBeingClosed());
    const startedMs = performance.now();
    const change = this.#locks.run(granuleOf(start), granuleCountOf(end), () => work(this.#stack.top));
    return this.#track(change.finally(() => this.#sealTimes.noteWaited(startedMs)));
  }

  #track(work: Promise<void>): Promise<void> {
    this.#inFlight.add(work);
    const done = (): void => void this.#inFlight.delete(work);
    work.then(done, done);
    return work;
  }
}

const isBeingClosed = (): CollectiveError => new CollectiveError('shutting-down', 'the overlay is being closed');

/** Whether the write covers a sector in part. */
const splitsSector = (start: number, end: number): boolean => start % SECTOR_BYTES !== 0 || end % SECTOR_BYTES !== 0;
