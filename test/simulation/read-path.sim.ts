/**
 * "Never a wrong byte" (DESIGN §1, promise 1) for the whole read path: image, cache, messages between the threads, retries, verification and
 * HTTP, over a disk that rots, a line that lies and processes that die.
 *
 * The model is the image's bytes. What must hold: a read that succeeds returns them; every read ends, within the waiting time;
 * a read that was given up is announced, and so is the block's arrival; when the faults end every block is read within a
 * bounded time and nothing is left over; what went wrong was counted under its name.
 *
 * One file, longer than others, because a history is one state machine: guests, faults and checks share it.
 */
import { hasCode } from '@collective/shared';
import {
  FAULTS,
  FLAGS_WORD,
  RECORD_WORDS,
  SLOT_PINNED,
  SLOT_TAKEN,
  type FaultCounts,
  type SlotFile,
} from '@collective/transceiver';
import type { Random } from './random.js';
import { READ_CHUNKS, READ_IMAGES, type ReadImage } from './read-path-images.js';
import { CACHE_FOLDER, ReadPathProcess, type ReadPathOptions } from './read-path-process.js';
import { simulate, type Tally } from './simulate.js';
import { SimulatedClock } from './simulated-clock.js';
import { SimulatedDisk } from './simulated-disk.js';
import { ANSWER_NAMES, FAIR, SimulatedNetwork, type Answer, type Weather } from './simulated-network.js';

const STORM: Weather = { wrong: 0.5, answers: ANSWER_NAMES };
const WEATHERS: readonly Weather[] = [
  FAIR,
  FAIR,
  { wrong: 0.1, answers: ANSWER_NAMES },
  STORM,
  STORM,
  { wrong: 1, answers: ['silent'] },
  { wrong: 1, answers: ['refused'] },
  { wrong: 1, answers: ['status-503', 'status-429'] },
  { wrong: 1, answers: ['portal', 'status-302'] },
  { wrong: 0.7, answers: ['bit-flip', 'other-block', 'stale', 'bomb', 'short'] },
];
const weatherOf = (random: Random): Weather =>
  random.chance(0.6) ? random.pick(WEATHERS) : { wrong: random.pick([0.5, 1]), answers: [random.pick(ANSWER_NAMES)] };

/** How long a history may take, in simulated time. */
const UNTIL_MS = 3_600_000;
/** When all faults have ended, everything is there after this. The longest pause between two attempts is 30 s. */
const HEALED_MS = 120_000;
/** What a read may take beyond the waiting time: the simulated disk's and threads' delays. */
const READ_SLACK_MS = 500;

type SlotMemory = SlotFile['memory'];

class ClientLeft extends Error {}

class ReadPathHistory {
  readonly #random: Random;
  readonly #clock = new SimulatedClock();
  readonly #disk: SimulatedDisk;
  readonly #network: SimulatedNetwork;
  readonly #images: readonly ReadImage[];
  readonly #options: ReadPathOptions;
  readonly #tally: Record<string, number> = {};
  /** Blocks whose read was given up and that have not come. */
  readonly #awaited = new Map<string, () => void>();
  readonly #faultsBefore: FaultCounts[] = [];
  readonly #copies = new Map<string, Buffer>();
  #life: ReadPathProcess | undefined;
  #opening: Promise<ReadPathProcess> | undefined;
  #freeBytes = Number.MAX_SAFE_INTEGER;
  #tokens = 0;
  #step = 'begin';

  constructor(random: Random) {
    this.#random = random;
    this.#disk = new SimulatedDisk({ random: random.fork() });
    this.#network = new SimulatedNetwork(random.fork(), READ_CHUNKS);
    const [first, ...others] = random.shuffled(READ_IMAGES);
    // Mostly small blocks, because they are cheap.
    this.#images = random.chance(0.9)
      ? READ_IMAGES.filter(({ map }) => map.blockBytes === 4096)
      : [...(first === undefined ? [] : [first]), ...others.slice(0, random.int(3))];
    const largest = Math.max(...this.#images.map(({ map }) => map.blockBytes));
    this.#options = {
      cacheBytesMax: largest * random.pick([1, 2, 5, 8, 24, 64]),
      reserveBytes: 1 << 20,
      refusedTryProbability: random.pick([0, 0, 0.3]),
      useNowait: random.chance(0.7),
      waitMs: random.pick([500, 2_000, 5_000]),
      messageDelayMs: random.pick([0, 1, 5]),
      freeBytes: () => this.#freeBytes,
    };
  }

  async run(): Promise<Tally> {
    try {
      await this.#clock.run(this.#history(), UNTIL_MS, () => `${this.#step}; ${this.#life?.business ?? 'idle'}`);
    } finally {
      this.#life?.kill();
    }
    this.#count('things happened', this.#clock.happened);
    return this.#tally;
  }

  async #history(): Promise<void> {
    const random = this.#random;
    await this.#openLife();
    const readers = Array.from({ length: random.between(1, 3) }, (_unused, at) => this.#guest(at, random.fork()));
    const gremlin = this.#gremlin(random.fork());
    await gremlin;
    this.#heal();
    this.#step = 'the guests finish';
    await within(this.#clock, HEALED_MS, 'the guests did not finish after all faults had ended', Promise.all(readers));
    await this.#sweep();
    await this.#idle();
    await this.#checkFaults();
    if (random.chance(0.2)) await this.#evictAll();
    if (random.chance(0.2)) {
      this.#step = 'a plain end and a start';
      await this.#closeLife();
      const life = await this.#openLife();
      await this.#sweep();
      // What was damaged was mended, not only served from elsewhere.
      const damaged = life.faults['cache-block-damaged'] ?? 0;
      if (damaged > 0) throw new Error(`${damaged} blocks were still damaged after a plain end and a start`);
      this.#count('starts that found all in order');
    }
    await this.#closeLife();
  }

  // --- guests

  async #guest(number: number, random: Random): Promise<void> {
    const reads = random.between(3, 9);
    const image = random.pick(this.#images);
    let position = random.int(image.bytes.length / 512);
    for (let read = 0; read < reads; read += 1) {
      const { blockBytes } = image.map;
      if (random.chance(0.4)) position = random.int(image.bytes.length / 512);
      const sectors = random.pick([1, 2, 8, 8, blockBytes / 512, random.between(1, (3 * blockBytes) / 512)]);
      const byteOffset = position * 512;
      const byteLength = Math.min(sectors * 512, image.bytes.length - byteOffset);
      if (byteLength <= 0) {
        position = 0;
        continue;
      }
      await this.#readAsQemu(image, byteOffset, byteLength, `guest ${number}`);
      position += Math.ceil(byteLength / 512);
      if (random.chance(0.5)) await this.#clock.sleep(random.int(400));
    }
  }

  /** As QEMU does: after EIO the machine is paused until the block is there, then the request is repeated. */
  async #readAsQemu(image: ReadImage, byteOffset: number, byteLength: number, who: string): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      if (attempt > 200) throw new Error(`${who}: a read was repeated ${attempt} times`);
      const life = await this.#alive();
      const target = Buffer.alloc(byteLength, 0xee);
      const { top } = life.path(image);
      const beganMs = this.#clock.nowMs();
      try {
        if (top.tryRead(target, byteOffset)) this.#count('reads at once');
        else {
          const leaving = who === 'sweep' ? undefined : this.#maybeLeave();
          const reading = top.read(target, byteOffset, leaving === undefined ? {} : { signal: leaving });
          await Promise.race([reading, life.killed]);
          this.#count('reads that waited');
        }
      } catch (error) {
        if (error instanceof ClientLeft) {
          this.#count('clients that left');
          return;
        }
        const tookMs = this.#clock.nowMs() - beganMs;
        if (life.isDead) {
          this.#count('reads that a kill ended');
          continue;
        }
        if (!hasCode(error, 'block-unavailable')) throw error;
        this.#count('reads given up');
        if (tookMs < this.#options.waitMs || tookMs > this.#options.waitMs + READ_SLACK_MS)
          throw new Error(`a read was given up after ${tookMs} ms, waitMs is ${this.#options.waitMs}`, {
            cause: error,
          });
        await this.#arrival(life, image, Number(error.data['blockIndex']));
        continue;
      }
      if (!life.isDead && this.#clock.nowMs() - beganMs > this.#options.waitMs + READ_SLACK_MS)
        throw new Error(`a read took ${this.#clock.nowMs() - beganMs} ms`);
      this.#compare(image, byteOffset, target);
      return;
    }
  }

  /** Now and then the client of a read goes away before it is answered. */
  #maybeLeave(): AbortSignal | undefined {
    if (!this.#random.chance(0.05)) return undefined;
    const leaving = new AbortController();
    this.#clock.after(this.#random.int(this.#options.waitMs), () => leaving.abort(new ClientLeft()));
    return leaving.signal;
  }

  #compare(image: ReadImage, byteOffset: number, found: Buffer): void {
    const wanted = image.bytes.subarray(byteOffset, byteOffset + found.length);
    if (wanted.equals(found)) return;
    let at = 0;
    while (wanted[at] === found[at]) at += 1;
    throw new Error(
      `WRONG BYTE: ${image.name} at ${byteOffset + at} is ${String(found[at])}, should be ${String(wanted[at])} (read of ${found.length} at ${byteOffset})`,
    );
  }

  /** Waits for the event that lets the machine go on; a restart of blockd does that, too. */
  async #arrival(life: ReadPathProcess, image: ReadImage, blockIndex: number): Promise<void> {
    const key = `${image.name}/${blockIndex}`;
    const waiting = life.path(image).image.waiting.find((block) => block.blockIndex === blockIndex);
    if (waiting?.isUnavailable !== true && this.#awaited.has(key))
      throw new Error(`${key}: a read was given up, and status does not show that its block is missing`);
    if (!this.#awaited.has(key)) return; // has come since
    await new Promise<void>((resolve) => {
      const before = this.#awaited.get(key);
      this.#awaited.set(key, () => {
        before?.();
        resolve();
      });
      life.killed.catch(() => resolve());
    });
  }

  // --- lives of blockd

  async #openLife(): Promise<ReadPathProcess> {
    const world = { random: this.#random, clock: this.#clock, disk: this.#disk, network: this.#network };
    this.#awaited.clear();
    this.#opening = ReadPathProcess.open(world, this.#images, this.#options, {
      onUnavailable: (image, blockIndex) => {
        const key = `${image.name}/${blockIndex}`;
        if (!this.#awaited.has(key)) this.#awaited.set(key, () => undefined);
      },
      onArrived: (image, blockIndex) => {
        const key = `${image.name}/${blockIndex}`;
        const wake = this.#awaited.get(key);
        if (wake === undefined) throw new Error(`${key} is said to have arrived, and no read was given up`);
        this.#awaited.delete(key);
        this.#count('arrivals');
        wake();
      },
    });
    this.#life = await this.#opening;
    this.#opening = undefined;
    return this.#life;
  }

  async #closeLife(): Promise<void> {
    if (this.#life !== undefined) this.#faultsBefore.push(this.#life.faults);
    await this.#life?.close();
    this.#life = undefined;
  }

  /** The process, which may be on its way up. */
  async #alive(): Promise<ReadPathProcess> {
    while (this.#life === undefined || this.#life.isDead) {
      await this.#opening;
      await this.#clock.sleep(1);
    }
    return this.#life;
  }

  async #die(isPowerCut: boolean): Promise<void> {
    const life = this.#life;
    if (life === undefined) return;
    this.#faultsBefore.push(life.faults);
    this.#life = undefined;
    life.kill();
    if (isPowerCut) this.#disk.powerCut(this.#random);
    else this.#disk.crash();
    this.#count(isPowerCut ? 'power cuts' : 'kills');
    if (this.#random.chance(0.4)) this.#rotAtRest();
    await this.#clock.sleep(this.#random.int(1_000));
    await this.#openLife();
  }

  // --- what goes wrong

  /** While nobody looks: what was written rots on the medium, the table's records not least. */
  #rotAtRest(): void {
    for (const path of this.#disk.tree().keys()) {
      if (!/\.(slots|table)$/.test(path)) continue;
      const file = this.#disk.fileAt(path);
      file.sync();
      // Few bits of the table's header, many of its records.
      const from = path.endsWith('.table') && this.#random.chance(0.8) ? 4096 : 0;
      if (file.byteLength <= from) continue;
      for (let flips = this.#random.pick([1, 4, 30]); flips > 0; flips -= 1)
        this.#disk.flipBit(path, this.#random.between(from, file.byteLength - 1), this.#random.int(8));
      this.#disk.dropPages(path);
      this.#count('files rotted at rest');
    }
  }

  async #gremlin(random: Random): Promise<void> {
    if (random.chance(0.5)) this.#network.weather = weatherOf(random);
    for (let turns = random.between(1, 6); turns > 0; turns -= 1) {
      await this.#clock.sleep(random.int(random.chance(0.3) ? 8_000 : 800));
      this.#step = 'faults';
      if (random.chance(0.4)) {
        this.#network.weather = weatherOf(random);
        if (this.#network.weather !== FAIR) this.#count('changes of the weather');
      } else await this.#mischief(random);
    }
  }

  async #mischief(random: Random): Promise<void> {
    const { blockBytes } = random.pick(this.#images).map;
    const slots = `${CACHE_FOLDER}/${blockBytes}.slots`;
    const table = `${CACHE_FOLDER}/${blockBytes}.table`;
    const file = random.chance(0.75) ? slots : table;
    if (this.#disk.nodeAt(file) === undefined) return;
    const rot = (what: string, work: () => void): void => {
      work();
      if (random.chance(0.8)) this.#disk.dropPages(file);
      this.#count(what);
    };
    const { byteLength } = this.#disk.fileAt(file);
    const kinds = [
      'flip',
      'flip',
      'sync and flip',
      'swap',
      'zero',
      'older',
      'older',
      'cut',
      'drop',
      'full',
      'write errors',
      'read errors',
      'kill',
      'power',
      'token',
      'back',
      'pin',
    ] as const;
    const kind = random.pick(kinds);
    switch (kind) {
      case 'flip':
      case 'sync and flip':
        if (byteLength === 0) return;
        if (kind === 'sync and flip') this.#disk.fileAt(file).sync();
        return rot('bits flipped', () => {
          for (let flips = random.pick([1, 1, 8, 40]); flips > 0; flips -= 1)
            this.#disk.flipBit(file, random.int(byteLength), random.int(8));
        });
      case 'swap': {
        const count = Math.floor(this.#disk.fileAt(slots).byteLength / blockBytes);
        if (count < 2) return;
        this.#disk.fileAt(slots).sync();
        const medium = this.#disk.fileAt(slots).mediumBytes();
        const [one, other] = random.shuffled(Array.from({ length: count }, (_unused, at) => at * blockBytes));
        if (one === undefined || other === undefined) return;
        this.#disk.corrupt(slots, one, medium.subarray(other, other + blockBytes));
        this.#disk.corrupt(slots, other, medium.subarray(one, one + blockBytes));
        this.#disk.dropPages(slots);
        return this.#count('slots swapped');
      }
      case 'zero': {
        if (byteLength === 0) return;
        const at = random.int(byteLength);
        this.#disk.fileAt(file).sync();
        return rot('stretches zeroed', () =>
          this.#disk.corrupt(file, at, Buffer.alloc(Math.min(byteLength - at, random.pick([512, 4096, 20_000])))),
        );
      }
      case 'older': {
        const older = this.#copies.get(file);
        this.#disk.fileAt(file).sync();
        const now = this.#disk.fileAt(file).mediumBytes();
        if (older === undefined) this.#copies.set(file, now);
        else
          rot('files replaced by an older copy', () =>
            this.#disk.corrupt(file, 0, older.subarray(0, Math.min(older.length, now.length))),
          );
        return;
      }
      case 'cut':
        this.#disk.truncateAtRest(file, random.int(byteLength + 1));
        return this.#count('files cut');
      case 'drop':
        this.#disk.fileAt(slots).sync();
        this.#disk.dropPages(slots);
        return this.#count('pages dropped');
      case 'full': {
        const isTold = random.chance(0.6); // the file system may say that it has space, and has none for us
        if (isTold) this.#freeBytes = random.int(random.pick([1 << 20, 2 << 20]));
        if (!isTold || random.chance(0.5)) this.#disk.capacityBytes = this.#disk.usedBytes;
        this.#count('disks full');
        // A disk that is full may be one that also fails: what gives space back is refused then.
        if (random.chance(0.6)) this.#failCalls('write', random);
        await this.#clock.sleep(random.int(5_000));
        this.#freeBytes = Number.MAX_SAFE_INTEGER;
        this.#disk.capacityBytes = Number.MAX_SAFE_INTEGER;
        this.#disk.fault = undefined;
        return;
      }
      case 'write errors':
      case 'read errors': {
        this.#failCalls(kind === 'write errors' ? 'write' : 'read', random);
        await this.#clock.sleep(random.int(3_000));
        this.#disk.fault = undefined;
        return;
      }
      case 'kill':
        return await this.#die(false);
      case 'power':
        return await this.#die(true);
      case 'token':
        this.#network.token = `token-${(this.#tokens += 1)}`;
        return this.#count('tokens expired');
      case 'back':
        (await this.#alive()).networkIsBack();
        return this.#count('network back');
      case 'pin': {
        const life = await this.#alive();
        const slotFile = await life.writer.file(blockBytes);
        for (const { map } of this.#images) {
          if (map.blockBytes !== blockBytes) continue;
          const digest = map.digestAt(random.int(map.blockCount));
          if (digest !== undefined && slotFile.setPinned(digest, random.chance(0.6))) this.#count('pins');
        }
        return;
      }
      default:
        kind satisfies never;
    }
  }

  #failCalls(wanted: 'read' | 'write', random: Random): void {
    const probability = random.pick([0.3, 1]);
    this.#disk.fault = (call) => {
      if (call !== wanted || !random.chance(probability)) return undefined;
      this.#count(`${wanted}s failed`);
      return 'EIO';
    };
  }

  #heal(): void {
    this.#network.weather = FAIR;
    this.#disk.fault = undefined;
    if (this.#random.chance(0.3)) this.#life?.networkIsBack();
  }

  // --- afterwards

  /** Everything can be read again. */
  async #sweep(): Promise<void> {
    this.#step = 'every block is read after the faults';
    const beganMs = this.#clock.nowMs();
    for (const image of this.#images) {
      const stepBytes = image.map.blockBytes * this.#random.pick([1, 3, 64]);
      for (let at = 0; at < image.bytes.length; at += stepBytes)
        await this.#readAsQemu(image, at, Math.min(stepBytes, image.bytes.length - at), 'sweep');
    }
    if (this.#clock.nowMs() - beganMs > HEALED_MS)
      throw new Error(`it took ${this.#clock.nowMs() - beganMs} ms to read everything after the faults had ended`);
  }

  /** Nothing is left over. */
  async #idle(): Promise<void> {
    this.#step = 'nothing is under way any more';
    const life = await this.#alive();
    const untilMs = this.#clock.nowMs() + HEALED_MS;
    while (life.business !== undefined || this.#network.inFlight > 0) {
      if (this.#clock.nowMs() > untilMs)
        throw new Error(`left over: ${life.business ?? ''}, ${this.#network.inFlight} requests on the line`);
      await this.#clock.sleep(200);
    }
    if (this.#awaited.size > 0) throw new Error(`never said to have arrived: ${[...this.#awaited.keys()].join(', ')}`);
    for (const blockBytes of new Set(this.#images.map(({ map }) => map.blockBytes))) {
      const { memory, usedBytes } = await life.writer.file(blockBytes);
      // A fill that nobody waits for may still be under way.
      for (let patience = 20; countFlag(memory, SLOT_TAKEN) > 0; patience -= 1) {
        if (patience === 0) throw new Error('a slot is taken and nobody fills it');
        await this.#clock.sleep(100);
      }
      if (new Uint8Array(memory.readers).some((readers) => readers !== 0))
        throw new Error('a slot is still held by a reader');
      if (usedBytes > this.#options.cacheBytesMax) throw new Error(`the cache holds ${usedBytes} bytes`);
    }
    this.#count('evictions', life.cacheCounters.evicted);
    this.#count('fills', life.cacheCounters.filled);
  }

  /** Every slot that is not pinned can be given up, however its block came there; and then everything is fetched again. */
  async #evictAll(): Promise<void> {
    this.#step = 'everything is evicted';
    const life = await this.#alive();
    for (const blockBytes of new Set(this.#images.map(({ map }) => map.blockBytes))) {
      const file = await life.writer.file(blockBytes);
      while (file.evict(8) > 0);
      const pinned = countFlag(file.memory, SLOT_PINNED);
      if (file.usedSlots !== pinned)
        throw new Error(`${file.usedSlots} slots stay when everything is evicted, ${pinned} are pinned`);
    }
    await this.#sweep();
    await this.#idle();
    this.#count('caches emptied');
  }

  /** What reached the store was counted by its name, neither more nor less. */
  async #checkFaults(): Promise<void> {
    const life = await this.#alive();
    const counted = new Map<string, number>();
    for (const faults of [...this.#faultsBefore, life.faults])
      for (const [name, times] of Object.entries(faults)) counted.set(name, (counted.get(name) ?? 0) + times);
    for (const [name, times] of counted) this.#count(name, times);
    for (const [answer, times] of this.#network.sent) this.#count(`sent ${answer}`, times);
    const of = (counts: ReadonlyMap<string, number>, ...names: string[]): number =>
      names.reduce((sum, name) => sum + (counts.get(name) ?? 0), 0);
    const names = new Set([...counted.keys(), ...this.#network.met.keys()].filter((name) => name.startsWith('net-')));
    for (const name of names) {
      // A chunk that was cut may fail by its length or by its digest.
      const group =
        name === 'net-wrong-bytes' || name === 'net-not-a-block' ? ['net-wrong-bytes', 'net-not-a-block'] : [name];
      const met = of(this.#network.met, ...group);
      if (met !== of(counted, ...group))
        throw new Error(`${group.join(' and ')}: met ${met} times, counted ${of(counted, ...group)} times`);
    }
  }

  #count(what: string, times = 1): void {
    if (times > 0) this.#tally[what] = (this.#tally[what] ?? 0) + times;
  }
}

const countFlag = (memory: SlotMemory, flag: number): number => {
  const records = new Uint32Array(memory.records);
  let count = 0;
  for (let at = FLAGS_WORD; at < records.length; at += RECORD_WORDS) if (((records[at] ?? 0) & flag) !== 0) count += 1;
  return count;
};

const within = async (
  clock: SimulatedClock,
  durationMs: number,
  what: string,
  work: Promise<unknown>,
): Promise<void> => {
  const timeout = new AbortController();
  await Promise.race([
    work,
    clock.sleep(durationMs, timeout.signal).then(() => {
      throw new Error(what);
    }),
  ]).finally(() => timeout.abort());
};

const sentAtLeast = (answers: readonly Answer[]): Tally =>
  Object.fromEntries(answers.map((answer) => [`sent ${answer}`, 0.02]));

simulate('reads: never a wrong byte, every read ends', 10_000, (random) => new ReadPathHistory(random).run(), {
  ...sentAtLeast(ANSWER_NAMES),
  ...Object.fromEntries(
    Object.keys(FAULTS).flatMap((name) => (/^(net-(?!wrong-server|no-key)|cache-)/.test(name) ? [[name, 0.005]] : [])),
  ),
  'power cuts': 0.02,
  kills: 0.02,
  'slots swapped': 0.02,
  'files replaced by an older copy': 0.005,
  evictions: 5,
  'reads at once': 2,
  'reads that waited': 5,
});
