/**
 * Keeps the indexes of snapshot objects that were used last: a commit late in a long history looks into all objects that
 * its parent lists, and the next one looks into the same. An index is kept under the footer of its object, which holds its
 * digest: an object that was rewritten has another footer, so nothing here can be stale. Bounded in bytes.
 */
import { SNAPSHOT_RECORD_BYTES, type SnapshotIndex } from '@collective/shared';

/** What a kept index costs beyond its records; those of each are 44 bytes, and 4 for their order. */
const ENTRY_BYTES = 512;

export class SnapshotIndexMemory {
  readonly #bytesMax: number;
  /** In the order of use, the last one newest. */
  readonly #kept = new Map<string, SnapshotIndex>();
  #bytes = 0;

  constructor(options: { readonly bytesMax: number }) {
    this.#bytesMax = options.bytesMax;
  }

  get(footer: Buffer): SnapshotIndex | undefined {
    const key = footer.toString('latin1');
    const known = this.#kept.get(key);
    if (known === undefined) return undefined;
    this.#kept.delete(key);
    this.#kept.set(key, known);
    return known;
  }

  /** One that would fill half of the memory is not kept. */
  keep(footer: Buffer, index: SnapshotIndex): void {
    const key = footer.toString('latin1');
    if (this.#kept.has(key) || indexBytes(index) > this.#bytesMax / 2) return;
    this.#kept.set(key, index);
    this.#bytes += indexBytes(index);
    for (const [oldKey, old] of this.#kept) {
      if (this.#bytes <= this.#bytesMax) break;
      this.#kept.delete(oldKey);
      this.#bytes -= indexBytes(old);
    }
  }
}

export const indexBytes = ({ recordCount }: SnapshotIndex): number =>
  recordCount * (SNAPSHOT_RECORD_BYTES + 4) + ENTRY_BYTES;
