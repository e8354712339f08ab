/**
 * A disk in real use while everything below it lies, decays, is cut short and is killed: fio writes, trims and verifies one half of it,
 * a checker compares the other half, which nobody writes, with what was published. No read may be wrong, and `status` must name what was met.
 *
 * Below: bits flipped in the cache file on its medium (after they were read, with the pages dropped), slots swapped, the file cut, its table
 * damaged, a cache that is smaller than the image, the scrub, a repository that answers wrong, short, endless, slow, never or with
 * errors, and kill -9.
 *
 * `INTEGRITY_SECONDS` (60) says how long, `FAULT_SEED` which faults; the seed is in the test's name.
 */
import path from 'node:path';
import { expect, it } from 'vitest';
import type { Behaviour, BlockdStatus } from '@collective/transceiver';
import { BlockdUnderTest } from '../blockd/blockd-process.js';
import { PYTHON, scriptPath } from '../interop/nbd-fixture.js';
import { Random } from '../simulation/random.js';
import { Child, run } from '../support/child.js';
import { Medium } from './medium.js';

const SECONDS = Number(process.env['INTEGRITY_SECONDS'] ?? 60);
const SEED = Number(process.env['FAULT_SEED'] ?? 1);

const BLOCK = 65_536;
/** The first half is written by fio, the second half is what was published. */
const HALF_BYTES = 32 << 20;
const CACHE_BYTES = 20 << 20;
const TABLE_HEADER = 4096;
const RECORD = 24;

/** Every one is told once before any is told again; `slow` takes 20 s and more to be seen through, so it is rare. */
const LIES: readonly Behaviour[] = [
  ...(['wrong-bytes', 'other-block', 'short', 'huge', 'garbage', 'endless', 'stall', 'silent', 'reset'] as const),
  { status: 500 },
  { status: 503, retryAfter: 1 },
];
const LIE_PROBABILITY = 1 / 12;
const SLOW_PROBABILITY = 1 / 600;
/** Answers of the repository between one damage and the next. */
const DECAY_EVERY_MIN = 2;
const DECAY_EVERY_MAX = 12;
const SCRUB_PROBABILITY = 1 / 20;

/** What must have been met, whatever the seed; what else was met is printed. */
const MUST_BE_MET = [
  ...['cache-block-damaged', 'scrub-block-damaged', 'cache-record-damaged'],
  ...['net-wrong-bytes', 'net-not-a-block', 'net-too-long', 'net-silent', 'net-unreachable', 'net-busy'],
  'net-server-failed',
] as const;

class Tally {
  readonly counts = new Map<string, number>();

  add(name: string, times = 1): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + times);
  }

  /** Of one run of blockd. */
  addRun({ cache, faults }: BlockdStatus): void {
    for (const [name, times] of Object.entries(faults)) this.add(name, times);
    this.add('evicted', cache.evicted);
  }

  toString(): string {
    return [...this.counts].map(([name, times]) => `${name} ${times}`).join(', ');
  }
}

/**
 * Damages the cache's files on their medium, a little all the time: after so many answers of the repository. What is damaged is fetched
 * again, and the cache is smaller than the image, so those go on.
 */
class Decay {
  readonly #random: Random;
  readonly #tally: Tally;
  readonly #slots: Medium;
  readonly #table: Medium;
  #answersLeft = 0;

  constructor(blockd: BlockdUnderTest, random: Random, tally: Tally) {
    const file = (name: string): string => path.join(blockd.home, 'cache', `${BLOCK}.${name}`);
    this.#random = random;
    this.#tally = tally;
    this.#slots = new Medium(file('slots'));
    this.#table = new Medium(file('table'));
  }

  /** The repository is about to answer; true when something was done to the files. */
  countAnswer(): boolean {
    this.#answersLeft -= 1;
    if (this.#answersLeft > 0) return false;
    this.#answersLeft = this.#random.between(DECAY_EVERY_MIN, DECAY_EVERY_MAX);
    this.step();
    return true;
  }

  step(): void {
    const random = this.#random;
    const slots = Math.floor(this.#slots.byteLength / BLOCK);
    const draw = random.int(20);
    if (slots < 40) return;
    if (draw < 11) {
      for (let flips = random.between(1, 4); flips > 0; flips -= 1)
        if (this.#slots.flip(random.int(slots * BLOCK), random.int(8))) this.#tally.add('bits flipped');
    } else if (draw < 13) {
      this.#slots.swap(random.int(slots) * BLOCK, random.int(slots) * BLOCK, BLOCK);
      this.#tally.add('slots swapped');
    } else if (draw < 14) {
      this.#slots.truncate((slots - random.between(1, 12)) * BLOCK - 512 * random.int(8));
      this.#tally.add('cuts');
    } else this.#tally.add('drops of pages');
    // Clean pages only: what blockd has written and the kernel not yet stays.
    this.#slots.dropPages();
  }

  /** Of what the next start reads. */
  damageTable(): void {
    const records = Math.floor((this.#table.byteLength - TABLE_HEADER) / RECORD);
    for (let flips = 8; flips > 0 && records > 0; flips -= 1) {
      if (this.#table.flip(TABLE_HEADER + this.#random.int(records * RECORD), this.#random.int(8)))
        this.#tally.add('table bits flipped');
    }
  }

  close(): void {
    this.#slots.close();
    this.#table.close();
  }
}

const liar = (random: Random, tally: Tally): (() => Behaviour) => {
  let lies: Behaviour[] = [];
  return () => {
    if (random.chance(SLOW_PROBABILITY)) {
      tally.add('slow answers');
      return 'slow';
    }
    if (!random.chance(LIE_PROBABILITY)) return 'serve';
    if (lies.length === 0) lies = random.shuffled(LIES);
    tally.add('lies');
    return lies.pop() ?? 'serve';
  };
};

/** One run of fio over the first half; its own check of what it reads back. */
const fio = async (blockd: BlockdUnderTest, words: readonly string[]): Promise<void> => {
  const all = [
    ...['--name=integrity', '--ioengine=nbd', `--uri=${blockd.uri}`, `--size=${HALF_BYTES}`],
    ...['--verify_fatal=1', '--verify_state_save=0', ...words],
  ];
  const result = await run('fio', all, { cwd: blockd.home, timeoutMs: 180_000 });
  if (result.code !== 0)
    throw new Error(`fio ${all.join(' ')} ended with ${result.code}\n${result.stdout}\n${result.stderr}`);
};

const MIXED = '--bssplit=512/15:1k/10:4k/40:16k/15:64k/10:132k/5:256k/5';

/** fio's jobs; one that says `then` is run again with those words after a kill of blockd. */
const JOBS: readonly { readonly words: readonly string[]; readonly then?: readonly string[] }[] = [
  { words: ['--rw=randrw', '--rwmixread=40', MIXED, '--verify=crc32c', '--verify_backlog=256', '--io_size=24m'] },
  { words: ['--rw=randrw', '--bsrange=512-256k', '--bs_unaligned=1', '--verify=sha256', '--io_size=16m'] },
  { words: ['--rw=randtrimwrite', '--bs=4k', '--verify=crc32c', '--io_size=8m'] },
  { words: ['--rw=write', '--bs=128k', '--verify=pattern', '--verify_pattern=0x5aa5f00f%o', '--io_size=32m'] },
  {
    words: ['--rw=randwrite', MIXED, '--verify=crc32c', '--do_verify=0', '--io_size=12m'],
    then: ['--rw=randwrite', MIXED, '--verify=crc32c', '--verify_only=1', '--io_size=12m'],
  },
];

it(
  `${SECONDS} s of fio and a checker over decay, lies and kills (FAULT_SEED=${SEED}): no read is wrong, each fault is named`,
  {
    timeout: SECONDS * 1000 + 300_000,
  },
  async () => {
    const random = new Random(SEED);
    const tally = new Tally();
    await using blockd = await BlockdUnderTest.open({
      diskBytes: 2 * HALF_BYTES + 1536,
      blockBytes: BLOCK,
      words: ['--cache-bytes-max', String(CACHE_BYTES)],
    });
    const attach = (fresh: boolean): Promise<void> => blockd.attach({ overlay: 'persistent', fresh, waitMs: 300_000 });
    await attach(true);
    await using checker = new Child('checker', PYTHON, [
      ...[scriptPath('../integrity/image_checker.py'), blockd.uri, path.join(blockd.home, 'expected.raw')],
      ...[String(HALF_BYTES), String(2 * HALF_BYTES + 1536), String(SEED)],
    ]);
    await checker.waitFor(/"reads": [1-9]/, 120_000);
    const decay = new Decay(blockd, random.fork(), tally);
    const lie = liar(random.fork(), tally);
    const scrubs = random.fork();
    let isDown = false;
    blockd.repository.behave = () => {
      if (decay.countAnswer() && !isDown && scrubs.chance(SCRUB_PROBABILITY)) {
        blockd.client.request('scrub', { start: true }).then(
          () => tally.add('scrubs'),
          () => undefined, // killed just now
        );
      }
      return lie();
    };
    const kill = async (): Promise<void> => {
      tally.addRun(await blockd.client.request('status', {}));
      isDown = true;
      blockd.process.kill('SIGKILL');
      await blockd.process.exit();
      decay.step();
      decay.damageTable();
      await blockd.restart();
      await attach(false);
      isDown = false;
      tally.add('kills');
    };
    const endMs = performance.now() + SECONDS * 1000;
    try {
      for (let round = 0; performance.now() < endMs || round < JOBS.length; round += 1) {
        const job = JOBS[round % JOBS.length];
        if (job === undefined) break;
        const common = [`--iodepth=${random.pick([1, 16, 64])}`, `--randseed=${random.int(1 << 30)}`];
        await fio(blockd, [...job.words, ...common]);
        tally.add('runs of fio');
        if (job.then === undefined) continue;
        await kill();
        await fio(blockd, [...job.then, ...common]);
      }
    } finally {
      blockd.repository.behave = () => 'serve';
      decay.close();
    }
    tally.addRun(await blockd.client.request('status', {}));
    const { code, stdout, stderr } = await checker.stop();
    const counts = stdout.trim().split('\n').at(-1) ?? '';
    console.log(`integrity, seed ${SEED}: ${tally.toString()}; checker ${counts}`);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(JSON.parse(counts)).toMatchObject({ wrong: 0, refused: 0 });
    expect(tally.counts.get('evicted')).toBeGreaterThan(0);
    expect(MUST_BE_MET.filter((name) => !tally.counts.has(name))).toEqual([]);
  },
);
