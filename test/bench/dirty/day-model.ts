/**
 * A day of a person's writes as they reach the user disk: a pure function of its seed. It is a model, not a recording: the paper's
 * traces are not public. Each number is stated here with its reason, so that another one can be put in its place.
 *
 * The day: five to eight bursts of activity of 4 to 110 minutes (mean 30), gaps of more than 5 minutes between them (the paper calls a person
 * idle after that; its ten users were idle 1,278 times in three weeks, six times a day each). A burst is browsing (45 %), mail (15 %), writing (20 %) or programming
 * (20 %); the browser stays open in all of them. In the gaps the mail program polls every ten minutes and the log grows every five.
 *
 * What reaches the disk, and when: what a program syncs, at once; the rest 5 to 30 s later, as Linux writes it back. ext4 commits its
 * journal every 5 s while there is something. `keep` is the part of a granule that zstd cannot compress away.
 *
 * | what | how often | how much | keep | why |
 * |---|---|---|---|---|
 * | browser cache | a page every 12 s | 8 files, 8 KB median | 0.9 | images and scripts come compressed; `~/.cache` lies on the user disk of our images |
 * | browser history, cookies | each page | 4 pages of 32 KiB to the WAL; at 512 KiB those pages in the database | 0.35 | Firefox's page size and checkpoint |
 * | browser session | 60 % of every 15 s | 300 KB median, a new file | 0.75 | Firefox's interval; LZ4 inside |
 * | mail | poll every 5 min, 0 to 6 letters | 20 KB median, 8 % with 0.2 to 5 MB | 0.75 | base64 of what is compressed |
 * | mail index | each letter | 3 pages of 32 KiB, as above | 0.35 | SQLite |
 * | documents | a save every 2 to 6 min | 400 KB median, whole, synced | 0.97 | ODF and OOXML are zip files |
 * | source text | a save every 40 s | 1 to 3 files, 12 KB median | 0.3 | text |
 * | builds | every 5 min | 2 to 15 MB over the last build's | 0.45 | object files |
 * | downloads | about three a day | 8 MB median, at most 60, at 150 KB/s | 1 | archives, over the same 1.5 Mbit/s line |
 * | a program's update | once a day | 40 MB of files at 375 KB/s | 0.4 | what an archive of 16 MB unpacks to at that rate |
 * | journal, inodes | each commit | 6 to 24 granules and 2 to 5 | 0.1, 0.3 | jbd2 |
 */
import { Seeded } from './seeded.js';

export const GRANULE_BYTES = 4096;
const MIB = 1 << 20;
const PAGE_BYTES = 32_768;
const CHECKPOINT_PAGES = 16;

export type DayWrite = {
  readonly kind: 'write';
  readonly atSeconds: number;
  readonly byteOffset: number;
  readonly byteLength: number;
  /** The part of each granule that does not compress, 0 to 1. */
  readonly keep: number;
  readonly isSynced: boolean;
};
/** The person's hands leave the machine, or come back. */
export type DayMark = { readonly kind: 'idle' | 'active'; readonly atSeconds: number; readonly doing: Doing };
export type DayEvent = DayWrite | DayMark;

export type Region = { readonly byteOffset: number; readonly byteLength: number; readonly keep: number };
export type Day = {
  readonly diskBytes: number;
  /** What was there before and is overwritten in place: it makes up the rest of a block of which one granule changes. */
  readonly initial: readonly Region[];
  /** Ascending. */
  readonly events: readonly DayEvent[];
};

export type Doing = 'browsing' | 'mail' | 'writing' | 'programming';
export type DayOptions = {
  /** So many, instead of five to eight. */
  readonly bursts?: number;
  /** This in each burst. */
  readonly doing?: Doing;
  /** Each burst that long, instead of by chance. */
  readonly burstMinutes?: number;
};

const DISK_BYTES = 4096 * MIB;
const REGION = {
  inodes: { byteOffset: 0, byteLength: 8 * MIB, keep: 0.3 },
  journal: { byteOffset: 8 * MIB, byteLength: 64 * MIB, keep: 0.1 },
  history: { byteOffset: 72 * MIB, byteLength: 34 * MIB, keep: 0.35 },
  index: { byteOffset: 106 * MIB, byteLength: 34 * MIB, keep: 0.35 },
  log: { byteOffset: 216 * MIB, byteLength: 8 * MIB, keep: 0.2 },
  builds: { byteOffset: 224 * MIB, byteLength: 32 * MIB, keep: 0.45 },
  cache: { byteOffset: 256 * MIB, byteLength: 512 * MIB, keep: 0.9 },
  files: { byteOffset: 768 * MIB, byteLength: 3328 * MIB, keep: 0.9 },
} as const satisfies Record<string, Region>;

/** What is overwritten a granule or a page at a time; the rest is written front to back. */
const INITIAL: readonly Region[] = [REGION.inodes, REGION.history, REGION.index];

export const makeDay = (seed: number, options: DayOptions = {}): Day => {
  const day = new DayMaker(new Seeded(seed));
  day.make(options);
  return { diskBytes: DISK_BYTES, initial: INITIAL, events: day.sorted() };
};

/** A database with a write-ahead log: pages go there first, and to their places when it is full. */
class Database {
  readonly #walOffset: number;
  readonly #tableOffset: number;
  readonly #tablePages: number;
  readonly #waiting = new Set<number>();
  #walPage = 0;

  constructor({ byteOffset, byteLength }: Region) {
    this.#walOffset = byteOffset;
    this.#tableOffset = byteOffset + 2 * MIB;
    this.#tablePages = (byteLength - 2 * MIB) / PAGE_BYTES;
  }

  /** Where `pages` changed pages go, with what a checkpoint writes. */
  transaction(random: Seeded, pages: number): { readonly wal: number[]; readonly table: number[] } {
    const wal: number[] = [];
    for (let at = 0; at < pages; at += 1) {
      wal.push(this.#walOffset + this.#walPage * PAGE_BYTES);
      this.#walPage += 1;
      // Few pages are hot: indexes and the newest rows.
      const page = Math.floor(this.#tablePages * random.next() ** 4);
      this.#waiting.add(page);
    }
    if (this.#walPage < CHECKPOINT_PAGES) return { wal, table: [] };
    const table = [...this.#waiting].map((page) => this.#tableOffset + page * PAGE_BYTES);
    this.#waiting.clear();
    this.#walPage = 0;
    return { wal, table };
  }
}

class DayMaker {
  readonly #random: Seeded;
  readonly #events: DayEvent[] = [];
  readonly #commits = new Set<number>();
  readonly #history = new Database(REGION.history);
  readonly #index = new Database(REGION.index);
  readonly #next = { journal: 0, cache: 0, files: 0, log: 0 };

  constructor(random: Seeded) {
    this.#random = random;
  }

  sorted(): readonly DayEvent[] {
    return [...this.#events].sort((a, b) => a.atSeconds - b.atSeconds);
  }

  make({ bursts, doing: only, burstMinutes }: DayOptions): void {
    const random = this.#random;
    const count = bursts ?? random.integer(5, 8);
    const updateIn = random.integer(0, count - 1);
    let at = 0;
    for (let burst = 0; burst < count; burst += 1) {
      const seconds = 60 * (burstMinutes ?? random.exponential(30, { least: 4, most: 110 }));
      const doing = only ?? random.pick({ browsing: 0.45, mail: 0.15, writing: 0.2, programming: 0.2 });
      this.#events.push({ kind: 'active', atSeconds: at, doing });
      this.#burst(at, at + seconds, doing);
      if (burst === updateIn) this.#update(at + seconds * random.next());
      if (random.next() < 3 / 8) this.#download(at + seconds * random.next());
      at += seconds;
      this.#events.push({ kind: 'idle', atSeconds: at, doing });
      const gap = 60 * random.exponential(30, { least: 6, most: 180 });
      this.#gap(at, at + gap);
      at += gap;
    }
    this.#journal();
  }

  #burst(from: number, to: number, doing: Doing): void {
    const isBrowsing = doing === 'browsing';
    this.#every(from, to, isBrowsing ? 12 : 90, (at) => this.#page(at));
    this.#every(from, to, 15, (at) => {
      if (this.#random.next() < (isBrowsing ? 0.6 : 0.15)) this.#file(at, this.#random.logNormal(300e3, 0.5), 0.75);
    });
    this.#every(from, to, doing === 'mail' ? 60 : 300, (at) => this.#letters(at, doing === 'mail' ? 2 : 6));
    if (doing === 'writing')
      this.#every(from, to, 240, (at) => this.#file(at, this.#random.logNormal(400e3, 1.2), 0.97, true));
    if (doing !== 'programming') return;
    this.#every(from, to, 40, (at) => {
      const files = this.#random.integer(1, 3);
      for (let file = 0; file < files; file += 1) this.#file(at, this.#random.logNormal(12e3, 1), 0.3, true);
    });
    this.#every(from, to, 300, (at) => {
      const bytes = this.#random.integer(2, 15) * MIB;
      const { builds } = REGION;
      this.#later(at, builds.byteOffset + MIB * this.#random.integer(0, 16), bytes, builds.keep);
    });
  }

  #gap(from: number, to: number): void {
    this.#every(from, to, 600, (at) => this.#letters(at, 3));
    this.#every(from, to, 300, (at) => {
      const { log } = REGION;
      const byteOffset = log.byteOffset + (this.#next.log % (log.byteLength / GRANULE_BYTES)) * GRANULE_BYTES;
      this.#write(at, byteOffset, 3 * GRANULE_BYTES, log.keep, true);
      this.#next.log += 2;
    });
  }

  #page(at: number): void {
    for (let file = 0; file < 8; file += 1) {
      const bytes = this.#random.logNormal(8e3, 1.2);
      this.#later(at, this.#place('cache', bytes), bytes, 0.9);
    }
    this.#transaction(at, this.#history, 4);
  }

  #letters(at: number, most: number): void {
    const count = this.#random.integer(0, most);
    for (let letter = 0; letter < count; letter += 1) {
      const isLarge = this.#random.next() < 0.08;
      const bytes = isLarge ? 0.2e6 * 25 ** this.#random.next() : this.#random.logNormal(20e3, 1);
      this.#file(at, bytes, 0.75, true);
      this.#transaction(at, this.#index, 3);
    }
  }

  #download(at: number): void {
    this.#arriving(at, { bytes: Math.min(60e6, this.#random.logNormal(8e6, 1.2)), keep: 1, bytesPerSecond: 150e3 });
  }

  #update(at: number): void {
    this.#arriving(at, { bytes: 40e6, keep: 0.4, bytesPerSecond: 375e3 });
  }

  #arriving(at: number, of: { readonly bytes: number; readonly keep: number; readonly bytesPerSecond: number }): void {
    const partSeconds = 5;
    for (let done = 0, part = 0; done < of.bytes; part += 1) {
      const bytes = Math.min(of.bytes - done, of.bytesPerSecond * partSeconds);
      this.#file(at + part * partSeconds, bytes, of.keep);
      done += bytes;
    }
  }

  #transaction(at: number, database: Database, pages: number): void {
    const { wal, table } = database.transaction(this.#random, pages);
    for (const byteOffset of wal) this.#later(at, byteOffset, PAGE_BYTES, 0.35);
    for (const byteOffset of table) this.#write(at, byteOffset, PAGE_BYTES, 0.35, true);
  }

  #file(at: number, bytes: number, keep: number, isSynced = false): void {
    const byteOffset = this.#place('files', bytes);
    if (isSynced) this.#write(at, byteOffset, bytes, keep, true);
    else this.#later(at, byteOffset, bytes, keep);
  }

  /** The next free place of its region; from the beginning again at its end. */
  #place(name: 'cache' | 'files', bytes: number): number {
    const { byteOffset, byteLength } = REGION[name];
    if (this.#next[name] + bytes + GRANULE_BYTES > byteLength) this.#next[name] = 0;
    const place = byteOffset + this.#next[name];
    this.#next[name] += Math.ceil(bytes / GRANULE_BYTES) * GRANULE_BYTES;
    return place;
  }

  #later(at: number, byteOffset: number, bytes: number, keep: number): void {
    this.#write(at + 5 + 25 * this.#random.next(), byteOffset, bytes, keep, false);
  }

  #write(atSeconds: number, byteOffset: number, bytes: number, keep: number, isSynced: boolean): void {
    const byteLength = Math.max(1, Math.ceil(bytes / GRANULE_BYTES)) * GRANULE_BYTES;
    this.#events.push({ kind: 'write', atSeconds, byteOffset, byteLength, keep, isSynced });
    this.#commits.add(Math.ceil(atSeconds / 5) * 5);
  }

  #journal(): void {
    for (const at of this.#commits) {
      const { journal, inodes } = REGION;
      const bytes = this.#random.integer(6, 24) * GRANULE_BYTES;
      if (this.#next.journal + bytes > journal.byteLength) this.#next.journal = 0;
      const byteOffset = journal.byteOffset + this.#next.journal;
      this.#next.journal += bytes;
      const write = { kind: 'write', atSeconds: at } as const;
      this.#events.push({ ...write, byteOffset, byteLength: bytes, keep: journal.keep, isSynced: true });
      const hot = this.#random.integer(2, 5);
      for (let each = 0; each < hot; each += 1) {
        const place = inodes.byteOffset + this.#random.integer(0, 199) * 10 * GRANULE_BYTES;
        const one = { byteOffset: place, byteLength: GRANULE_BYTES, keep: inodes.keep, isSynced: false };
        this.#events.push({ ...write, ...one });
      }
    }
  }

  /** About every so many seconds, never in step. */
  #every(from: number, to: number, seconds: number, call: (at: number) => void): void {
    for (let at = from; ;) {
      at += seconds * (0.5 + this.#random.next());
      if (at >= to) return;
      call(at);
    }
  }
}
