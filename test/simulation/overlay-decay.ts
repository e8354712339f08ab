/**
 * Bits that flip in the data of an overlay's layers on a simulated medium, and flip back, wherever what they damaged has got to meanwhile.
 */
import { OVERLAY_FOLDER } from './overlay-layer-files.js';
import { SECTOR_BYTES } from './overlay-model.js';
import type { Places } from './overlay-places.js';
import type { Random } from './random.js';
import type { SimulatedDisk } from './simulated-disk.js';

/** A sector before and after a bit of it flipped. */
type Flip = { readonly path: string; readonly byteOffset: number; readonly before: Buffer; readonly after: Buffer };

export class Decay {
  readonly #disk: SimulatedDisk;
  readonly #places: Places;
  readonly #isEncrypted: boolean;
  readonly #flips: Flip[] = [];

  constructor(disk: SimulatedDisk, places: Places, options: { readonly isEncrypted: boolean }) {
    this.#disk = disk;
    this.#places = places;
    this.#isEncrypted = options.isEncrypted;
  }

  /**
   * Flips one bit of a sector (of the model). Plain ones in the last byte of a tag: tags are below 2^24, so that a byte which is not zero there
   * is damage, whatever else happened to its sector since. Encrypted ones anywhere: no sector is like another.
   */
  flip(random: Random, layerId: string, sector: number): void {
    const path = `${OVERLAY_FOLDER}/layers/${layerId}/data`;
    const byteOffset = this.#places.byteOffsetOf(sector);
    const at = this.#isEncrypted ? random.int(SECTOR_BYTES) : 8 * random.int(SECTOR_BYTES / 8) + 7;
    const read = (): Buffer => this.#disk.fileAt(path).mediumBytes(byteOffset, SECTOR_BYTES);
    const before = read();
    this.#disk.flipBit(path, byteOffset + at, random.int(8));
    this.#flips.push({ path, byteOffset, before, after: read() });
  }

  repair(): void {
    if (this.#isEncrypted) {
      // The last first: a sector may have been damaged twice. Each time all of them: a cut may bring back a layer whose name was gone.
      for (const flip of this.#flips.toReversed()) this.#undo(flip);
      return;
    }
    for (const [path, kind] of this.#disk.tree()) {
      if (kind === 'folder' || !path.endsWith('/data')) continue;
      this.#disk.fileAt(path).repair((bytes) => {
        for (let at = 7; at < bytes.length; at += 8) bytes[at] = 0;
      });
    }
  }

  #undo({ path, byteOffset, before, after }: Flip): void {
    if (this.#disk.nodeAt(path) === undefined) return; // its layer was forgotten
    this.#disk.fileAt(path).repair((bytes, pageOffset) => {
      const at = byteOffset - pageOffset;
      if (at < 0 || at >= bytes.length) return;
      const sector = bytes.subarray(at, at + SECTOR_BYTES);
      if (sector.equals(after)) before.copy(sector);
    });
  }
}
