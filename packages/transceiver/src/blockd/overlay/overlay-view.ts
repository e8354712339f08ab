/**
 * The disk as it is up to and with a sealed layer, read-only: what a snapshot is made of, and what is written meanwhile is not in it.
 *
 * It reads the overlay's own open layers and the device below them, and lives as long as those: when the overlay is rebased to a state that
 * its topmost layer is part of, or closed, its reads under way end with their bytes and each later one is refused (`shutting-down`). A rebase
 * further down leaves it as it is: it reads the same bytes from the new device. Reads never pause a guest (`isBackground`).
 */
import { CollectiveError } from '@collective/shared';
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { ReadOnlyDevice } from '../read-only-device.js';
import type { Layer } from './layer.js';
import { ownerOfGranule, ownerOfSector, type LayerOwners } from './layer-owners.js';
import { LayeredReader } from './layered-reader.js';
import type { RangeLock } from './range-lock.js';

/** The layers of a view; fewer after a rebase further down. */
class ViewedLayers implements LayerOwners {
  layers: readonly Layer[];

  constructor(layers: readonly Layer[]) {
    this.layers = layers;
  }

  ownerOf(granule: number): number {
    return ownerOfGranule(this.layers, granule);
  }

  sectorOwnerOf(sector: number): number {
    return ownerOfSector(this.layers, sector);
  }
}

export type OverlayViewOptions = {
  /** From the bottom up to the topmost of the view; all sealed. */
  readonly layers: readonly Layer[];
  readonly below: BlockDevice;
  readonly locks: RangeLock;
  /** The overlay closes no layer before these have ended. */
  readonly track: (work: Promise<void>) => Promise<void>;
  readonly onClosed: (view: OverlayView) => void;
};

export class OverlayView extends ReadOnlyDevice implements BlockDevice {
  readonly #options: OverlayViewOptions;
  readonly #owners: ViewedLayers;
  readonly #reader: LayeredReader;
  readonly #inFlight = new Set<Promise<void>>();
  #isOver = false;

  constructor(options: OverlayViewOptions) {
    super(options.below.byteLength, 'a view of a layer');
    this.#options = options;
    this.#owners = new ViewedLayers(options.layers);
    this.#reader = new LayeredReader(this.#owners, options.below, options.locks);
  }

  /** The overlay's: these layers have become part of `below`. In the turn in which the overlay itself does so. */
  rebase(dropped: readonly Layer[], below: BlockDevice): void {
    const left = this.#owners.layers.filter((layer) => !dropped.includes(layer));
    // Without one of its own it would have to trust that `below` ends with its last layer.
    if (left.length === 0) this.end();
    else {
      this.#owners.layers = left;
      this.#reader.below = below;
    }
  }

  /** The overlay's: from now on reads are refused. */
  end(): void {
    this.#isOver = true;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    return !this.#isOver && this.#reader.tryRead(target, byteOffset);
  }

  read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    if (this.#isOver) return Promise.reject(isOver());
    const work = this.#options.track(this.#reader.read(target, byteOffset, { ...options, isBackground: true }));
    this.#inFlight.add(work);
    const done = (): void => void this.#inFlight.delete(work);
    work.then(done, done);
    return work;
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    if (this.#isOver) return byteLength === 0 ? [] : [{ byteLength, kind: 'data' }]; // a read of it says why
    return this.#reader.extents(byteOffset, byteLength);
  }

  warm(byteOffset: number, byteLength: number): void {
    if (!this.#isOver) this.#reader.warm(byteOffset, byteLength);
  }

  async close(): Promise<void> {
    this.end();
    this.#options.onClosed(this);
    await Promise.allSettled(this.#inFlight);
  }
}

const isOver = (): CollectiveError =>
  new CollectiveError(
    'shutting-down',
    'the view has ended: its layer is part of a committed state, or the disk is closed',
  );
