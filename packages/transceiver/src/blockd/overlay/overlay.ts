/**
 * The writable disk over an immutable one: reads (layered-reader.ts) come from the topmost layer that holds the bytes, or from below; writes
 * (layered-writer.ts) go to the top layer and wait for nothing but the local disk. Here is what happens to the layers while both go on: seals,
 * views, rebases and the close, and who waits for whom.
 *
 * Operations that wait (thread pool, trims, fills) hold their granules in a RangeLock; a synchronous write steps back from
 * held granules and becomes a waiting one. So whoever looks at a mask and writes accordingly does it either in one
 * turn of the event loop or under the lock.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { granuleCountOf, granuleOf } from './geometry.js';
import type { Layer } from './layer.js';
import { LayerStack, type OpenBelow } from './layer-stack.js';
import { LayeredReader } from './layered-reader.js';
import { LayeredWriter } from './layered-writer.js';
import { changedBlocks } from './changed-blocks.js';
import { OverlayView } from './overlay-view.js';
import { RangeLock } from './range-lock.js';
import { SealTimes, type SealStatus } from './seal-times.js';

export class Overlay implements BlockDevice {
  readonly byteLength: number;
  readonly readOnly = false;
  readonly #stack: LayerStack;
  readonly #reader: LayeredReader;
  readonly #writer: LayeredWriter;
  readonly #locks = new RangeLock();
  readonly #views = new Set<OverlayView>();
  readonly #sealTimes = new SealTimes();
  readonly #inFlight = new Set<Promise<void>>();
  /** Seals, rebases and looks at sealed layers come one after the other. */
  #lastLayerChange: Promise<unknown> = Promise.resolve();
  #isClosing = false;
  #closed: Promise<void> | undefined;

  private constructor(stack: LayerStack, below: BlockDevice) {
    this.byteLength = below.byteLength;
    this.#stack = stack;
    this.#reader = new LayeredReader(stack, below, this.#locks);
    const track = (work: Promise<void>): Promise<void> => this.#track(work);
    this.#writer = new LayeredWriter({ stack, reader: this.#reader, locks: this.#locks, track });
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
    overlay.#writer.findPartial();
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
    if (this.#isClosing || !this.#writer.tryWrite(source, byteOffset)) return false;
    if (this.#sealTimes.isUnderWay) this.#sealTimes.noteWrite();
    return true;
  }

  write(source: Buffer, byteOffset: number): Promise<void> {
    const end = byteOffset + source.length;
    return this.#change(byteOffset, end, (top) => this.#writer.write(top, source, byteOffset));
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
    return this.#change(byteOffset, end, (top) => this.#writer.zero(top, byteOffset, end, keepAllocated));
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
    await this.#writer.close();
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
    const underWay = this.#locks.allReleased();
    this.#stack.putOnTop(fresh);
    const fills = this.#writer.takeFills();
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
