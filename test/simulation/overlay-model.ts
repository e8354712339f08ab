/**
 * What an overlay may answer: per sector of 512 bytes the set of contents that are legal now, and of those that may be there after a
 * power cut.
 *
 * Every write has a number, its tag, and fills its sectors with it, so that a sector says which write it comes from. A write lives
 * from when it was asked for to when it was acknowledged. Two writes that overlap in time may happen in any order; otherwise the later
 * one replaces the earlier. A write that was refused or cut off may have happened or not, sector by sector.
 */
export const SECTOR_BYTES = 512;
/** The content of the disk below, and zeroes. */
export const BASE_TAG = 1;
export const ZERO_TAG = 0;

export type ModelWrite = {
  readonly tag: number;
  readonly first: number;
  readonly end: number;
  readonly startedAt: number;
  /** Infinity: under way. */
  endedAt: number;
  /** Refused, or cut off: it replaces nothing. */
  isUncertain: boolean;
};

export type ModelRead = {
  readonly first: number;
  readonly end: number;
  readonly startedAt: number;
  /** Per sector what it may show. */
  readonly allowed: Set<number>[];
};

/** Fills whole sectors from number `first` on. A sector of zeroes has no number. */
export const fillSectors = (target: Buffer, first: number, tag: number): Buffer => {
  if (tag === ZERO_TAG) return target.fill(0);
  const words = new Uint32Array(target.buffer, target.byteOffset, target.length / 4);
  for (let at = 0; at < words.length; at += 2) {
    words[at] = first + (at >>> 7);
    words[at + 1] = tag;
  }
  return target;
};

/** The tag of a sector; throws when its bytes are of more than one write or belong elsewhere. `at` is a byte offset in `bytes`. */
export const tagOf = (bytes: Buffer, at: number, sector: number): number => {
  const tag = bytes.readUInt32LE(at + 4);
  const number = bytes.readUInt32LE(at);
  const isUniform = bytes.compare(bytes, at, at + SECTOR_BYTES - 8, at + 8, at + SECTOR_BYTES) === 0;
  if (!isUniform) throw new Error(`sector ${sector} is mixed: begins with tag ${tag} of sector ${number}`);
  if (tag === ZERO_TAG && number === 0) return ZERO_TAG;
  if (number !== sector) throw new Error(`sector ${sector} holds sector ${number} of write ${tag}`);
  return tag;
};

export class OverlayModel {
  readonly sectorCount: number;
  /** What a read may show now. */
  readonly #current: ModelWrite[][];
  /** What a power cut may leave, the current ones included. */
  readonly #history: ModelWrite[][];
  readonly #reads = new Set<ModelRead>();
  #now = 0;
  #lastTag = BASE_TAG;

  constructor(base: Buffer) {
    this.sectorCount = base.length / SECTOR_BYTES;
    const writes = Array.from({ length: this.sectorCount }, (_, sector): ModelWrite[] => [
      settled(tagOf(base, sector * SECTOR_BYTES, sector), sector, 0),
    ]);
    this.#current = writes.map((list) => [...list]);
    this.#history = writes;
  }

  tick(): number {
    return (this.#now += 1);
  }

  nextTag(): number {
    return (this.#lastTag += 1);
  }

  beginWrite(tag: number, first: number, end: number): ModelWrite {
    const write = { tag, first, end, startedAt: this.tick(), endedAt: Infinity, isUncertain: false };
    for (let sector = first; sector < end; sector += 1) {
      this.#current[sector]?.push(write);
      this.#history[sector]?.push(write);
    }
    for (const read of this.#reads)
      for (let sector = Math.max(first, read.first); sector < Math.min(end, read.end); sector += 1)
        read.allowed[sector - read.first]?.add(tag);
    return write;
  }

  /** It is acknowledged: what had ended before it began is not seen any more. */
  endWrite(write: ModelWrite): void {
    write.endedAt = this.tick();
    for (let sector = write.first; sector < write.end; sector += 1) replace(this.#current, sector, write);
  }

  /** It failed, or its process died. */
  failWrite(write: ModelWrite): void {
    write.endedAt = this.tick();
    write.isUncertain = true;
  }

  beginRead(first: number, end: number): ModelRead {
    const allowed: Set<number>[] = [];
    for (let sector = first; sector < end; sector += 1)
      allowed.push(new Set(this.#current[sector]?.map((write) => write.tag)));
    const read = { first, end, startedAt: this.tick(), allowed };
    this.#reads.add(read);
    return read;
  }

  dropRead(read: ModelRead): void {
    this.#reads.delete(read);
  }

  /** Throws when the bytes are not legal for it. What it saw of writes that had all ended is how it stays. */
  endRead(read: ModelRead, bytes: Buffer, what: string): void {
    this.#reads.delete(read);
    for (let sector = read.first; sector < read.end; sector += 1) {
      const tag = tagOf(bytes, (sector - read.first) * SECTOR_BYTES, sector);
      const allowed = read.allowed[sector - read.first];
      if (allowed?.has(tag) !== true)
        throw new Error(
          `${what}: sector ${sector} reads as write ${tag}, not one of ${[...(allowed ?? [])].join(' ')}`,
        );
      const current = this.#current[sector] ?? [];
      // A refused write may be seen and be gone after a crash; those that were acknowledged have got an order now.
      if (current.length > 1 && current.every((write) => !write.isUncertain && write.endedAt < read.startedAt))
        this.#observe(sector, tag);
    }
  }

  /** A flush that was asked for at `startedAt` was acknowledged: all that had been acknowledged by then stays. */
  endFlush(startedAt: number): void {
    for (let sector = 0; sector < this.sectorCount; sector += 1)
      for (const write of [...(this.#history[sector] ?? [])])
        if (!write.isUncertain && write.endedAt < startedAt) replace(this.#history, sector, write);
  }

  /** It was acknowledged with FUA: it stays. */
  endFuaWrite(write: ModelWrite): void {
    this.endWrite(write);
    for (let sector = write.first; sector < write.end; sector += 1) replace(this.#history, sector, write);
  }

  /** All processes died. `bytes` is what the disk reads as afterwards; it stays so. */
  endCrash(bytes: Buffer, options: { readonly isPowerCut: boolean }, what: string): void {
    this.#reads.clear();
    for (let sector = 0; sector < this.sectorCount; sector += 1) {
      const legal = (options.isPowerCut ? this.#history : this.#current)[sector] ?? [];
      const tag = tagOf(bytes, sector * SECTOR_BYTES, sector);
      if (!legal.some((write) => write.tag === tag)) {
        const list = legal.map((write) => `${write.tag}${write.isUncertain ? '?' : ''}`).join(' ');
        throw new Error(`${what}: sector ${sector} holds write ${tag}, not one of ${list}`);
      }
      this.#observe(sector, tag);
      if (options.isPowerCut) this.#history[sector] = [...(this.#current[sector] ?? [])];
    }
  }

  /** How many sectors may be one of several things after a power cut: of what the model lets pass. */
  get openSectors(): number {
    return this.#history.filter((writes) => writes.length > 1).length;
  }

  /** Throws unless `tags` are the disk at one moment between `startedAt` and now, with nothing that lacks what was acknowledged before it. */
  checkCut(tags: readonly number[], read: ModelRead, writes: readonly ModelWrite[], what: string): void {
    this.#reads.delete(read);
    const byTag = new Map(writes.map((write) => [write.tag, write]));
    let lastStartedAt = 0;
    tags.forEach((tag, sector) => {
      if (read.allowed[sector]?.has(tag) !== true)
        throw new Error(
          `${what}: sector ${sector} is of write ${tag}, not one of ${[...(read.allowed[sector] ?? [])].join(' ')}`,
        );
      if (tag !== ZERO_TAG) lastStartedAt = Math.max(lastStartedAt, byTag.get(tag)?.startedAt ?? 0);
    });
    for (const write of writes) {
      if (write.isUncertain || write.endedAt >= lastStartedAt) continue;
      for (let sector = write.first; sector < write.end; sector += 1) {
        const tag = tags[sector];
        if (tag === undefined || tag === write.tag || tag === ZERO_TAG) continue;
        const seen = byTag.get(tag);
        if (seen === undefined || seen.endedAt < write.startedAt)
          throw new Error(
            `${what}: has a write of ${lastStartedAt}, but lacks write ${write.tag}, acknowledged at ${write.endedAt}`,
          );
      }
    }
  }

  #observe(sector: number, tag: number): void {
    const write = settled(tag, sector, this.tick());
    this.#current[sector] = [write];
    this.#history[sector]?.push(write);
  }
}

const settled = (tag: number, sector: number, at: number): ModelWrite => ({
  tag,
  first: sector,
  end: sector + 1,
  startedAt: at,
  endedAt: at,
  isUncertain: false,
});

/** Takes away what had ended before `write` began. */
const replace = (lists: ModelWrite[][], sector: number, write: ModelWrite): void => {
  const list = lists[sector];
  if (list?.some((other) => other.endedAt < write.startedAt) === true)
    lists[sector] = list.filter((other) => !(other.endedAt < write.startedAt));
};
