/**
 * Reads of a disk below which layers lie: each part from the topmost layer that holds it, else from the device below. The overlay reads
 * through one of all its layers, a view (overlay-view.ts) through one of some. It knows nothing of writes but the lock of those that wait.
 */
import type { BlockDevice, Extent, ReadOptions } from '../block-device.js';
import { granuleCountOf, granuleOf } from './geometry.js';
import type { Layer } from './layer.js';
import { BELOW, MIXED, type LayerOwners } from './layer-owners.js';
import type { RangeLock } from './range-lock.js';
import { segmentsOf, type Segment } from './segments.js';

export class LayeredReader {
  /** Replaced in the same turn of the event loop as the layers that it takes the place of. */
  below: BlockDevice;
  readonly #owners: LayerOwners;
  readonly #locks: RangeLock;

  constructor(owners: LayerOwners, below: BlockDevice, locks: RangeLock) {
    this.#owners = owners;
    this.below = below;
    this.#locks = locks;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    const owners = this.#owners;
    const first = granuleOf(byteOffset);
    const last = granuleOf(byteOffset + target.length - 1);
    const owner = owners.ownerOf(first);
    for (let granule = first + 1; granule <= last; granule += 1) {
      if (owners.ownerOf(granule) !== owner) return this.#tryReadSegments(target, byteOffset);
    }
    if (owner === BELOW) return this.below.tryRead(target, byteOffset);
    if (owner === MIXED) return this.#tryReadSegments(target, byteOffset);
    return owners.layers[owner]?.tryRead(target, byteOffset) ?? false;
  }

  /** `isHeld`: the caller holds the granules. */
  async read(
    target: Buffer,
    byteOffset: number,
    options: ReadOptions & { readonly isHeld?: boolean } = {},
  ): Promise<void> {
    // Who holds what is decided now: every write that was acknowledged before the call is seen.
    // All of them are waited for, also when one fails: the caller's bytes are its own again then, and a read that still fills and decrypts
    // them would garble what is read into them next (seen: a read that was repeated after damage in another layer).
    const results = await Promise.allSettled(
      this.segments(byteOffset, byteOffset + target.length).map(({ owner, start, end }) => {
        const part = target.subarray(start - byteOffset, end - byteOffset);
        const layer = this.#owners.layers[owner];
        if (layer === undefined) return this.below.read(part, start, options);
        return this.#readLayer(layer, part, start, options.isHeld ?? false);
      }),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  segments(start: number, end: number): Segment[] {
    return segmentsOf(this.#owners, start, end);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const extents: Extent[] = [];
    for (const segment of this.segments(byteOffset, byteOffset + byteLength)) {
      const parts =
        segment.owner === BELOW
          ? this.below.extents(segment.start, segment.end - segment.start)
          : (this.#owners.layers[segment.owner]?.extents(segment.start, segment.end - segment.start) ?? []);
      for (const part of parts) {
        const before = extents.at(-1);
        if (before?.kind === part.kind) {
          extents[extents.length - 1] = { kind: part.kind, byteLength: before.byteLength + part.byteLength };
        } else extents.push(part);
      }
    }
    return extents;
  }

  warm(byteOffset: number, byteLength: number): void {
    for (const segment of this.segments(byteOffset, byteOffset + byteLength)) {
      if (segment.owner === BELOW) this.below.warm(segment.start, segment.end - segment.start);
      else this.#owners.layers[segment.owner]?.willRead(segment.start, segment.end - segment.start);
    }
  }

  #tryReadSegments(target: Buffer, byteOffset: number): boolean {
    for (const { owner, start, end } of this.segments(byteOffset, byteOffset + target.length)) {
      const part = target.subarray(start - byteOffset, end - byteOffset);
      const isRead =
        owner === BELOW ? this.below.tryRead(part, start) : (this.#owners.layers[owner]?.tryRead(part, start) ?? false);
      if (!isRead) return false;
    }
    return true;
  }

  async #readLayer(layer: Layer, target: Buffer, start: number, isHeld: boolean): Promise<void> {
    if (await layer.read(target, start)) return;
    // A write came between, or it is damage: under the lock it is seen which.
    if (isHeld) await layer.readHeld(target, start);
    else {
      const end = granuleCountOf(start + target.length);
      await this.#locks.run(granuleOf(start), end, () => layer.readHeld(target, start));
    }
  }
}
