/**
 * kill -9 of block daemon, agent, supervisor, repository server and collector while a real guest writes and its disk is saved every two
 * seconds: seal, upload, commit, forget, thin, collect. Afterwards, with no cache left: every snapshot that the server lists, and every
 * one that can be brought back, is a state that the disk really had, to the byte; later ones are of later; what the guest had flushed
 * before a snapshot was asked for is in it; every flushed write is on the local disk; the server lacks nothing that it names.
 *
 * KILLS=n, KILLS_SEED=s and KILLS_REPORT as in kills.integ.ts. There the guest's own work is judged; here it is the way of its bytes.
 */
import { writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { repositoryCommand } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { Random } from '../simulation/random.js';
import { killPoints, VICTIMS, type Victim } from './kill-plan.js';
import { type Collected, NAME, SnapshotsLab } from './snapshots-lab.js';
import { Victims } from './victims.js';
import { BLOCKS_PER_GENERATION } from './write-history.js';

const number = (name: string, otherwise: number): number => {
  const value = Number(process.env[name] ?? otherwise);
  if (!Number.isInteger(value) || value < 0) throw new Error(`${name} is not a whole number`);
  return value;
};
const KILLS = number('KILLS', 50);
const SEED = number('KILLS_SEED', 1);
const TAKE_EVERY_MS = 2_000;
const COLLECT_EVERY_MS = 5_000;
const COLLECTOR_KILLED_WITHIN_MS = 1_500;
/** A commit takes about a second when nobody is killed: some pauses are shorter and some longer. */
const AFTER_MS_MAX = 2_500;
/** So often the next kill waits for a commit, and the guest is asked how far it is. */
const LOOK_EVERY = 5;
const COMMIT_MS = 120_000;
const THINNED_MS = 300_000;

/** Repeats `work`, about so often, until `end` is called, which waits for the last one. */
const again = (everyMs: number, work: () => Promise<void>): { readonly end: () => Promise<void> } => {
  let isOver = false;
  const ended = (async () => {
    while (!isOver) {
      const next = delay(everyMs);
      await work();
      await next;
    }
  })();
  ended.catch(() => undefined);
  return {
    end: async () => {
      isOver = true;
      await ended;
    },
  };
};

/** What a run counts. `commitsBetween`: in how many of the times from one kill to the next the server got a snapshot. */
type Counts = Record<Victim | 'collector' | 'takes' | 'commitsBetween', number>;

/** What was flushed when a snapshot was asked for must be in that one and in all after it. */
type Promised = { readonly number: number; readonly generation: number };

class Run {
  readonly counts: Counts = {
    blockd: 0,
    agent: 0,
    supervisor: 0,
    server: 0,
    collector: 0,
    takes: 0,
    commitsBetween: 0,
  };
  readonly collected = { snapshotsForgotten: 0, objectsDeleted: 0, objectsRewritten: 0 };
  readonly promised: Promised[] = [];
  readonly #lab: SnapshotsLab;
  readonly #random: Random;
  /** Who waits until all is saved would wait for ever beside somebody who makes more of it. */
  #isLooking = false;

  constructor(lab: SnapshotsLab, random: Random) {
    this.#lab = lab;
    this.#random = random;
  }

  /** Kills so many times; the snapshots and the collector go on beside it. */
  async kills(count: number, say: (text: string) => void): Promise<void> {
    const lab = this.#lab;
    const victims = new Victims(lab.person, lab.repository);
    const points = killPoints(this.#random.fork(), { afterMsMax: AFTER_MS_MAX });
    const ofCollector = this.#random.fork();
    const takes = again(TAKE_EVERY_MS, async () => {
      if (this.#isLooking) return;
      const { code } = await lab.person.run(['snapshots', 'take', NAME, '--no-wait', '--json']);
      if (code === 0) this.counts.takes += 1;
    });
    const collections = again(COLLECT_EVERY_MS, async () => {
      const killAfterMs = ofCollector.chance(0.3) ? 1 + ofCollector.int(COLLECTOR_KILLED_WITHIN_MS) : undefined;
      this.#add(await lab.collect(killAfterMs), killAfterMs !== undefined);
    });
    try {
      let head = await lab.headNumber();
      for (let killed = 0; killed < count; killed += 1) {
        const point = points.next().value;
        if (killed % LOOK_EVERY === LOOK_EVERY - 1) await this.#look();
        await delay(point.afterMs);
        const now = await lab.headNumber();
        this.counts.commitsBetween += now > head ? 1 : 0;
        head = now;
        await victims.kill(point.victims);
        for (const victim of point.victims) this.counts[victim] += 1;
        if ((killed + 1) % 10 === 0) say(`${killed + 1} kills, ${head} snapshots`);
      }
    } finally {
      await takes.end();
      await collections.end();
    }
  }

  /** On a busy machine snapshots came too seldom for any to be one too many: until one was, in quick succession. */
  async untilThinned(): Promise<void> {
    await eventually('a snapshot is thinned', THINNED_MS, async () => {
      await this.#lab.person.run(['snapshots', 'take', NAME, '--json'], { timeoutMs: COMMIT_MS });
      this.#add(await this.#lab.collect(undefined), false);
      return this.collected.snapshotsForgotten > 0 ? true : undefined;
    });
  }

  /** Asks the guest how far it is, and waits for a snapshot that must have it. */
  async #look(): Promise<void> {
    this.#isLooking = true;
    try {
      const generation = await this.#lab.flushedGeneration();
      await eventually('a snapshot is made and saved', COMMIT_MS, async () => {
        const { code } = await this.#lab.person.run(['snapshots', 'take', NAME, '--json'], { timeoutMs: COMMIT_MS });
        return code === 0 ? true : undefined;
      });
      this.promised.push({ number: await this.#lab.headNumber(), generation });
    } finally {
      this.#isLooking = false;
    }
  }

  #add(collected: Collected | undefined, isKilled: boolean): void {
    if (collected === undefined) this.counts.collector += isKilled ? 1 : 0;
    else
      for (const name of ['snapshotsForgotten', 'objectsDeleted', 'objectsRewritten'] as const)
        this.collected[name] += collected[name];
  }
}

/** Every snapshot restores to a state that the disk had, none to an earlier one than its predecessor. Gives the writes of each. */
const judgeSnapshots = async (lab: SnapshotsLab): Promise<ReadonlyMap<number, number>> => {
  for (const { number: deleted } of await lab.snapshots('deleted'))
    await lab.person.json(['snapshots', 'restore', NAME, String(deleted)]);
  const rows = [...(await lab.snapshots('kept'))].sort((a, b) => a.number - b.number);
  const writes = new Map<number, number>();
  let before = 0;
  for (const row of rows) {
    let found: number;
    try {
      found = lab.history.judge(await lab.readSnapshot(row.number));
    } catch (error) {
      throw new Error(`snapshot ${row.number} (${row.reason})`, { cause: error });
    }
    expect(found, `snapshot ${row.number} is not of before the one before it`).toBeGreaterThanOrEqual(before);
    before = found;
    writes.set(row.number, found);
  }
  return writes;
};

it(
  `${KILLS} kills (KILLS_SEED=${SEED}) between seal, upload, commit, forget, thin and collect: every snapshot restores to a state that was, nothing flushed is lost, nothing is missing on the server`,
  async () => {
    const random = new Random(SEED);
    const began = performance.now();
    const say = (text: string): void =>
      console.log(`snapshot kills, ${((performance.now() - began) / 1000).toFixed(0)} s: ${text}`);
    await using lab = await SnapshotsLab.open(SEED);
    const task = new Run(lab, random);
    const report = async (more: object): Promise<void> => {
      const { KILLS_REPORT } = process.env;
      if (KILLS_REPORT !== undefined)
        await writeFile(
          KILLS_REPORT,
          JSON.stringify({ seed: SEED, kills: KILLS, ...task.counts, ...task.collected, ...more }),
        );
    };
    try {
      await lab.start();
      say('the guest writes');
      await task.kills(KILLS, say);
      if (KILLS >= 50) await task.untilThinned();
      say(`${KILLS} kills: ${JSON.stringify({ ...task.counts, ...task.collected })}`);
      const last = await lab.stop();
      const writes = (last + 1) * BLOCKS_PER_GENERATION;
      await lab.isSaved();
      say(`the guest has stopped after ${writes} writes, everything is saved`);

      const head = await lab.headNumber();
      expect(task.counts.commitsBetween).toBeGreaterThanOrEqual(Math.floor(KILLS / LOOK_EVERY));
      for (const victim of VICTIMS) expect(task.counts[victim]).toBeGreaterThanOrEqual(Math.floor(KILLS / 6));

      // Here.
      expect(lab.history.judge(await lab.readLocal())).toBe(writes);
      expect(await lab.layerCount()).toBeLessThanOrEqual(1);
      expect(await lab.logs()).not.toMatch(/Unhandled 'error' event/);
      // There.
      const checked = await repositoryCommand(['check', lab.repository.folder]);
      expect(checked).toMatchObject({ ok: true, problems: [] });
      await lab.forgetCaches();
      const restored = await judgeSnapshots(lab);
      expect(restored.get(head)).toBe(writes);
      for (const { number: from, generation } of task.promised)
        for (const [each, has] of restored)
          if (each >= from)
            expect(has, `snapshot ${each} has generation ${generation}`).toBeGreaterThanOrEqual(
              (generation + 1) * BLOCKS_PER_GENERATION,
            );
      // Something was thinned and collected, or nothing of that was tested.
      if (KILLS >= 50) {
        expect(restored.size).toBeLessThan(head);
        expect(task.collected.snapshotsForgotten).toBeGreaterThan(0);
      }
      say(`right: ${head} snapshots were committed, ${restored.size} are there and restore`);
      await report({ passed: true, commits: head, restored: restored.size, writes });
    } catch (error) {
      await report({ passed: false });
      console.error(`KILLS_SEED=${SEED} ${JSON.stringify(task.counts)}\n${await lab.logs()}`);
      throw error;
    }
  },
  900_000 + KILLS * 60_000,
);
