/**
 * Long random histories of one machine: writes, seals, steps, kills at any step, lost requests and answers, a lease that
 * another device takes, undos, a new key epoch, a clock that jumps back. What must hold after every commit: the snapshot
 * restores to what was sealed, bit for bit; and always: the local disk is what was written to it. The seed is in the name.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { continueHere, keepBoth, undo } from '@collective/transceiver';
import { CollectiveError } from '@collective/shared';
import { BLOCK_BYTES, blockOf } from '@collective/repository-server';
import { BackupLab, DISK, DISK_BYTES, Killed, type Transceiver } from './backup-lab.js';
import { unreachable } from './injected-client.js';

const STEPS = 450;
const SEEDS = [11, 12, 13, 14, 15];

let lab: BackupLab;
let home: Transceiver;
let other: Transceiver;

beforeAll(async () => {
  lab = await BackupLab.open();
  home = await lab.transceiver();
  other = await lab.transceiver();
});
afterAll(async () => lab[Symbol.asyncDispose]());

/** Seeded: mulberry32. */
const randomOf = (seed: number): ((below: number) => number) => {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
};

class History {
  readonly #random: (below: number) => number;
  readonly #home: Transceiver;
  /** What the guest has written. */
  #model: Buffer;
  /** The model when a layer was sealed. */
  readonly #sealed = new Map<string, Buffer>();
  /** What each snapshot must restore to, by subscription and number. */
  readonly #snapshots = new Map<string, Buffer>();
  readonly counts = { saved: 0, kills: 0, away: 0, lost: 0, apart: 0, undone: 0 };

  constructor(seed: number) {
    this.#random = randomOf(seed);
    this.#home = lab.emptyHome(home);
    this.#model = Buffer.alloc(0);
  }

  async begin(): Promise<void> {
    await this.#home.create();
    this.#model = this.#home.content;
  }

  async step(): Promise<void> {
    const die = this.#random(100);
    if (die < 35) this.#write();
    else if (die < 50) await this.#seal();
    else if (die < 80) await this.#advance();
    else if (die < 91) await this.#withTroubles();
    else if (die < 94) await this.#lose();
    else if (die < 95) lab.clock.seconds -= 3_600;
    else if (die < 96) this.#home.epoch = 2;
    else if (die < 98) await this.#undo();
    else await this.#home.restart();
    expect(this.#home.content.equals(this.#model)).toBe(true);
  }

  async end(): Promise<void> {
    await this.#settle();
    await this.#check();
    const { subscription, head } = this.#home.backup.state;
    expect((await lab.snapshotBytes(subscription, head?.number ?? 0)).equals(this.#model)).toBe(true);
    expect(await this.#home.disks.sealedLayers(DISK)).toEqual([]);
  }

  #write(): void {
    const block = this.#random(4) === 0 ? this.#random(DISK_BYTES / BLOCK_BYTES) : this.#random(12);
    const kind = this.#random(5);
    const seed = kind === 0 ? 0 : kind === 1 ? 1_000 + (block % 7) : 50_000 + this.#random(30);
    const bytes = this.#random(8) === 0 ? blockOf(seed).subarray(0, 512 * (1 + this.#random(7))) : blockOf(seed);
    this.#home.disks.write(DISK, block * BLOCK_BYTES, bytes);
    this.#model = Buffer.from(this.#model);
    this.#model.set(bytes, block * BLOCK_BYTES);
  }

  async #seal(): Promise<void> {
    const reasons = ['periodic', 'request', 'stop'] as const;
    const { backup } = this.#home;
    if ((await backup.seal(reasons[this.#random(3)] ?? 'request')) === 'sealed') this.#noteSealed();
  }

  /** Right after a seal, or a kill in one, or a step, which seals what a kill has left without: nothing has been written since. */
  #noteSealed(): void {
    const { next, pending } = this.#home.backup.state;
    const layer = (next.at(-1) ?? pending)?.layers[0]?.layer;
    if (layer !== undefined && !this.#sealed.has(layer)) this.#sealed.set(layer, this.#model);
  }

  /** A few arrows, one of which may end in a kill. */
  async #advance(): Promise<void> {
    const { signal } = new AbortController();
    if (this.#random(2) === 0) {
      let left = this.#random(8);
      this.#home.onStep = (step) => {
        left -= 1;
        if (left < 0) throw new Killed(step);
      };
    }
    try {
      for (let arrows = this.#random(4); arrows >= 0; arrows -= 1) {
        const did = await this.#step(signal);
        if (did === 'apart') await this.#goOn();
        if (did !== 'more') break;
      }
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
      this.counts.kills += 1;
      await this.#home.restart();
      this.#noteSealed();
    } finally {
      this.#home.onStep = () => undefined;
    }
    await this.#check();
  }

  async #step(signal: AbortSignal): Promise<'more' | 'idle' | 'apart'> {
    const did = await this.#home.backup.step(signal);
    this.#noteSealed();
    await this.#check();
    return did;
  }

  async #withTroubles(): Promise<void> {
    let left = 1 + this.#random(4);
    const isAnswer = this.#random(2) === 0;
    const lose = (): void => {
      left -= 1;
      if (left === 0) throw unreachable();
    };
    if (isAnswer) this.#home.client.afterCall = lose;
    else this.#home.client.beforeCall = lose;
    await this.#advance().catch((error: unknown) => {
      if (!(error instanceof CollectiveError) || error.code !== 'repository-unreachable') throw error;
      this.counts.away += 1;
    });
    this.#home.client.afterCall = () => undefined;
    this.#home.client.beforeCall = () => undefined;
  }

  /** Another device takes the lease, and sometimes saves something of its own. */
  async #lose(): Promise<void> {
    const { isRegistered, subscription, head } = this.#home.backup.state;
    if (!isRegistered || head === null) return;
    this.counts.lost += 1;
    const thief = lab.emptyHome(other);
    await thief.restore(subscription);
    await thief.backup.leases.take('steal');
    if (this.#random(2) === 0) {
      thief.write(this.#random(20), 90_000 + this.#random(1_000));
      const { content } = thief;
      expect(await thief.save()).toBe('idle');
      this.#snapshots.set(`${subscription}/${String(thief.backup.state.head?.number)}`, content);
    }
    if (this.#random(2) === 0) await thief.backup.leases.release();
    if (this.#random(2) === 0) await this.#home.backup.leases.beat();
  }

  async #goOn(): Promise<void> {
    this.counts.apart += 1;
    const { backup, restoreParts } = this.#home;
    if (this.#random(2) === 0) await continueHere(backup, restoreParts);
    else await keepBoth(backup);
    // It seals when nothing is.
    this.#noteSealed();
  }

  async #undo(): Promise<void> {
    await this.#settle();
    const { head, subscription } = this.#home.backup.state;
    if (head === null || head.number < 2) return;
    const number = 1 + this.#random(head.number - 1);
    const target = this.#snapshots.get(`${subscription}/${String(number)}`);
    if (target === undefined) return;
    const before = this.#model;
    try {
      await undo(this.#home.backup, this.#home.restoreParts, number);
    } catch (error) {
      // The other device had saved something, and nothing told of it before: nothing has changed here.
      if (!(error instanceof CollectiveError) || error.code !== 'conflict') throw error;
      return this.#goOn();
    }
    this.counts.undone += 1;
    this.#model = target;
    const now = this.#home.backup.state.head?.number ?? 0;
    this.#snapshots.set(`${subscription}/${String(now)}`, target);
    if (now - head.number > 1) this.#snapshots.set(`${subscription}/${String(now - 1)}`, before);
  }

  /** Until nothing is pending and nobody is apart. */
  async #settle(): Promise<void> {
    const { signal } = new AbortController();
    await this.#seal();
    for (let steps = 0; steps < 100; steps += 1) {
      const did = await this.#step(signal);
      if (did === 'idle') return;
      if (did === 'apart') await this.#goOn();
    }
    throw new Error('it does not come to an end');
  }

  /** A snapshot that has just been committed restores to what was sealed. */
  async #check(): Promise<void> {
    const { head, pending, subscription } = this.#home.backup.state;
    const name = `${subscription}/${String(head?.number)}`;
    if (head === null || pending?.kind !== 'committed' || this.#snapshots.has(name)) return;
    const expected = this.#sealed.get(pending.layers[0]?.layer ?? '');
    if (expected === undefined) throw new Error('a layer that nobody sealed was saved');
    expect((await lab.snapshotBytes(subscription, head.number)).equals(expected)).toBe(true);
    this.#snapshots.set(name, expected);
    this.counts.saved += 1;
  }
}

describe('a random history', () => {
  const seen = new Map<string, number>();

  test.each(SEEDS)('with seed %d holds', async (seed) => {
    const history = new History(seed);
    await history.begin();
    for (let step = 0; step < STEPS; step += 1) await history.step();
    await history.end();
    // It has seen something.
    expect(history.counts.saved).toBeGreaterThan(15);
    expect(history.counts.kills).toBeGreaterThan(10);
    for (const [what, count] of Object.entries(history.counts)) seen.set(what, (seen.get(what) ?? 0) + count);
  });

  test('all that can happen has happened', () => {
    for (const [what, count] of seen) expect([what, count > 10]).toEqual([what, true]);
    expect(seen.size).toBe(6);
  });
});
