/**
 * A disk whose whole history of writes is known, so that any state of it can be judged. Its guest writes blocks of 4 KiB one after the
 * other, never two at once, in generations of eight that lie side by side and are then flushed. Which write put a block where it lies is
 * seen from its bytes: so an image is right if and only if it is what the first K writes made, for some K, and nothing else. A write that was
 * lost, came too early, is torn, or is of another moment than the rest is found, and named.
 */
import { seededBytes } from './seeded-bytes.js';

export const BLOCK_BYTES = 4_096;
export const BLOCKS_PER_GENERATION = 8;
const SECTOR_BYTES = 512;
/** Where a generation can begin: a prime, so that generations overlap in every way, and places and contents do not soon repeat together. */
const PLACES = 2_039;
const STRIDE = 37;
export const DISK_BLOCKS = PLACES - 1 + BLOCKS_PER_GENERATION;
/** Contents are taken from here, in turn; with the place they say which generation it was, of the first 521,984. */
const PATTERN_GENERATIONS = 256;
const PATTERN_BLOCKS = PATTERN_GENERATIONS * BLOCKS_PER_GENERATION;
const GENERATIONS_MAX = PLACES * PATTERN_GENERATIONS;

const INITIAL = -1;
const FOREIGN = -2;

export class WriteHistory {
  /** What the disk is before the first write; its length is that of the disk, a multiple of 64 KiB. */
  readonly initial: Buffer;
  /** What the guest copies from. */
  readonly pattern: Buffer;
  readonly #patternIndex = new Map<string, number>();
  readonly #firstGeneration = new Map<number, number>();

  constructor(seed: number) {
    const diskBytes = Math.ceil((DISK_BLOCKS * BLOCK_BYTES) / 65_536) * 65_536;
    this.initial = seededBytes(seed * 2 + 1, diskBytes);
    this.pattern = seededBytes(seed * 2 + 2, PATTERN_BLOCKS * BLOCK_BYTES);
    for (let index = 0; index < PATTERN_BLOCKS; index += 1)
      this.#patternIndex.set(keyOf(this.#patternBlock(index)), index);
    for (let place = 0, generation = 0; generation < PLACES; generation += 1) {
      this.#firstGeneration.set(place, generation);
      place = (place + STRIDE) % PLACES;
    }
  }

  /**
   * For a shell in the guest, in the background until /tmp/stop is there: /tmp/g holds the number of the last generation that was flushed.
   * The writes go past the page cache, each after the one before has been acknowledged.
   */
  guestScript({
    disk,
    pattern,
    pauseMs,
  }: {
    readonly disk: string;
    readonly pattern: string;
    readonly pauseMs: number;
  }): string {
    const [bs, count] = [BLOCK_BYTES, BLOCKS_PER_GENERATION];
    const from = `skip=$((g%${PATTERN_GENERATIONS}*${count}))`;
    const copy = `dd if=${pattern} of=${disk} bs=${bs} count=${count} ${from} seek=$((g*${STRIDE}%${PLACES})) oflag=direct conv=fsync,notrunc`;
    return `(g=0; while [ ! -e /tmp/stop ]; do ${copy} 2>/tmp/dd || { cp /tmp/dd /tmp/bad; break; }; echo $g >/tmp/g; g=$((g+1)); usleep ${pauseMs * 1_000}; done; : >/tmp/over) & :`;
  }

  /** How many writes the state holds. Errors: an Error that names what is wrong, when it is no state that the disk ever had. */
  judge(image: Buffer): number {
    if (image.length !== this.initial.length)
      throw new Error(`the disk has ${image.length} bytes, not ${this.initial.length}`);
    const blocks = image.length / BLOCK_BYTES;
    const found = Array.from({ length: blocks }, (_, block) => this.#writeOf(image, block));
    const writes = Math.max(INITIAL, ...found) + 1;
    const expected = this.#stateAfter(writes);
    const wrong = found.flatMap((write, block) => (write === expected[block] ? [] : [block]));
    // The one that was under way may be there by halves.
    const [first] = wrong;
    if (
      first !== undefined &&
      wrong.length === 1 &&
      first === placeOf(writes) &&
      this.#isTorn(image, first, { writes, under: expected[first] ?? FOREIGN })
    )
      return writes;
    if (wrong.length === 0) return writes;
    const some = wrong
      .slice(0, 10)
      .map((block) => `block ${block} is ${nameOf(found[block])}, not ${nameOf(expected[block])}`);
    throw new Error(`no state of the first ${writes} writes: ${wrong.length} blocks are wrong: ${some.join('; ')}`);
  }

  /** The disk after so many writes. */
  imageAfter(writes: number): Buffer {
    const image = Buffer.from(this.initial);
    this.#stateAfter(writes).forEach((write, block) => {
      if (write >= 0) this.#contentOf(write).copy(image, block * BLOCK_BYTES);
    });
    return image;
  }

  /** Of each block the last write of the first so many. */
  #stateAfter(writes: number): number[] {
    const state = Array.from({ length: this.initial.length / BLOCK_BYTES }, () => INITIAL);
    for (let write = 0; write < writes; write += 1) state[placeOf(write)] = write;
    return state;
  }

  #writeOf(image: Buffer, block: number): number {
    const bytes = image.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    if (bytes.equals(this.initial.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES))) return INITIAL;
    const index = this.#patternIndex.get(keyOf(bytes));
    if (index === undefined || !bytes.equals(this.#patternBlock(index))) return FOREIGN;
    const inGeneration = index % BLOCKS_PER_GENERATION;
    const first = this.#firstGeneration.get(block - inGeneration);
    if (first === undefined) return FOREIGN;
    for (let generation = first; generation < GENERATIONS_MAX; generation += PLACES)
      if (generation % PATTERN_GENERATIONS === Math.floor(index / BLOCKS_PER_GENERATION))
        return generation * BLOCKS_PER_GENERATION + inGeneration;
    return FOREIGN;
  }

  #isTorn(
    image: Buffer,
    block: number,
    { writes, under }: { readonly writes: number; readonly under: number },
  ): boolean {
    const at = block * BLOCK_BYTES;
    const old = under === INITIAL ? this.initial.subarray(at, at + BLOCK_BYTES) : this.#contentOf(under);
    const next = this.#contentOf(writes);
    for (let sector = 0; sector < BLOCK_BYTES; sector += SECTOR_BYTES) {
      const is = image.subarray(at + sector, at + sector + SECTOR_BYTES);
      const isOne = [old, next].some((other) => is.equals(other.subarray(sector, sector + SECTOR_BYTES)));
      if (!isOne) return false;
    }
    return true;
  }

  #contentOf(write: number): Buffer {
    return this.#patternBlock(write % PATTERN_BLOCKS);
  }

  #patternBlock(index: number): Buffer {
    return this.pattern.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES);
  }
}

/** The block that a write goes to. */
const placeOf = (write: number): number =>
  ((Math.floor(write / BLOCKS_PER_GENERATION) * STRIDE) % PLACES) + (write % BLOCKS_PER_GENERATION);

const keyOf = (block: Buffer): string => block.toString('latin1', 0, 16);

const nameOf = (write: number | undefined): string =>
  write === INITIAL ? 'as it began' : write === undefined || write === FOREIGN ? 'foreign' : `write ${write}`;
