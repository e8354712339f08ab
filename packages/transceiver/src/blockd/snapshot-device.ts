/**
 * The committed state of a user disk, read-only: each block is zero, public or private, and goes by its kind to one of two images, which are as
 * they are for purely public disks: each with its cache, its waits and its readahead. A request is split where the kind changes, at block borders.
 */
import { MAP_KIND } from '@collective/shared';
import type { OpenedBase } from './base/open-base.js';
import type { BlockDevice, Extent, ReadOptions } from './block-device.js';
import type { ImageDevice, ImageMap } from './image-device.js';
import { ReadOnlyDevice } from './read-only-device.js';

/** What one of the two images sees of a base: the other's blocks are zero to it. Digests are shared. */
export const halfOf = (base: OpenedBase, half: 'public' | 'private'): ImageMap => {
  const { diskBytes, blockBytes, blockCount, digestBytes } = base;
  const own = MAP_KIND[half];
  // To an image, a block that is not zero is one that its store has. A loop, because the guest's requests wait meanwhile: with `map` a
  // commit held up a disk of 4 GiB for 7 ms.
  const kinds = new Uint8Array(blockCount).fill(MAP_KIND.zero);
  for (let index = 0; index < blockCount; index += 1) if (base.kinds[index] === own) kinds[index] = MAP_KIND.public;
  return { diskBytes, blockBytes, blockCount, digestBytes, kinds };
};

type Run = { readonly image: ImageDevice; readonly start: number; readonly end: number };

export class SnapshotDevice extends ReadOnlyDevice implements BlockDevice {
  readonly #blockBytes: number;
  readonly #kinds: Uint8Array;
  readonly #public: ImageDevice;
  readonly #private: ImageDevice;

  /** Takes over the two images. */
  constructor(base: OpenedBase, images: { readonly public: ImageDevice; readonly private: ImageDevice }) {
    super(base.diskBytes, 'a snapshot');
    this.#blockBytes = base.blockBytes;
    this.#kinds = base.kinds;
    this.#public = images.public;
    this.#private = images.private;
  }

  tryRead(target: Buffer, byteOffset: number): boolean {
    const first = Math.floor(byteOffset / this.#blockBytes);
    if (byteOffset + target.length <= (first + 1) * this.#blockBytes)
      return this.imageOf(first).tryRead(target, byteOffset);
    for (const { image, start, end } of this.#runs(byteOffset, target.length)) {
      if (!image.tryRead(target.subarray(start - byteOffset, end - byteOffset), start)) return false;
    }
    return true;
  }

  async read(target: Buffer, byteOffset: number, options: ReadOptions = {}): Promise<void> {
    // All are waited for: afterwards nothing writes into the caller's bytes any more.
    const results = await Promise.allSettled(
      this.#runs(byteOffset, target.length).map(({ image, start, end }) =>
        image.read(target.subarray(start - byteOffset, end - byteOffset), start, options),
      ),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** The image that has the block, or to which it is zero. */
  imageOf(blockIndex: number): ImageDevice {
    return this.#kinds[blockIndex] === MAP_KIND.private ? this.#private : this.#public;
  }

  /** As ImageDevice.foresee: each image takes its own blocks. */
  foresee(touches: Parameters<ImageDevice['foresee']>[0]): number {
    return this.#private.foresee(touches) + this.#public.foresee(touches);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    const extents: Extent[] = [];
    for (const { image, start, end } of this.#runs(byteOffset, byteLength)) {
      for (const part of image.extents(start, end - start)) {
        const before = extents.at(-1);
        if (before?.kind === part.kind)
          extents[extents.length - 1] = { kind: part.kind, byteLength: before.byteLength + part.byteLength };
        else extents.push(part);
      }
    }
    return extents;
  }

  warm(byteOffset: number, byteLength: number): void {
    for (const { image, start, end } of this.#runs(byteOffset, byteLength)) image.warm(start, end - start);
  }

  async close(): Promise<void> {
    await Promise.all([this.#public.close(), this.#private.close()]);
  }

  #runs(byteOffset: number, byteLength: number): Run[] {
    const runs: Run[] = [];
    const rangeEnd = byteOffset + byteLength;
    for (let start = byteOffset; start < rangeEnd;) {
      let index = Math.floor(start / this.#blockBytes);
      const image = this.imageOf(index);
      do index += 1;
      while (index * this.#blockBytes < rangeEnd && this.imageOf(index) === image);
      const end = Math.min(rangeEnd, index * this.#blockBytes);
      runs.push({ image, start, end });
      start = end;
    }
    return runs;
  }
}
