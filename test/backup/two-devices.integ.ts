/**
 * Long random histories of two devices with one person's disks: versions with other disks, undo, starts with and without the repository,
 * answers that get lost, kills, suspended machines, and the choice of who continues. Always: a disk changes under nobody but by an undo or
 * because the other device went on, and then what was here is in the history. At the end: nothing hangs, and what is here is saved. The
 * seed is in the name.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CollectiveError, hasCode } from '@collective/shared';
import { BLOCK_BYTES, blockOf } from '@collective/repository-server';
import {
  BaseFolder,
  beginVersion,
  catchUp,
  continueHere,
  drain,
  endVersion,
  isVersionChange,
  keepBoth,
  prepareStart,
  undo,
  type DiskBeginning,
} from '@collective/transceiver';
import { BackupLab, DISK, Killed, type Transceiver } from './backup-lab.js';
import { unreachable } from './injected-client.js';
import { EXTRA, VersionLab, type LabVersion } from './version-lab.js';

const STEPS = 120;
const SEEDS = [31, 32, 33, 34];
const { signal } = new AbortController();
const NAMES = [DISK, EXTRA] as const;

let lab: BackupLab;
let devices: readonly Transceiver[];
let versions: readonly LabVersion[];

beforeAll(async () => {
  lab = await BackupLab.open();
  devices = [await lab.transceiver(), await lab.transceiver()];
  const versionLab = new VersionLab(lab);
  versions = [versionLab.first, await versionLab.publish(DISK, EXTRA), await versionLab.publish(DISK)];
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

class Home {
  readonly of: Transceiver;
  readonly #random: (below: number) => number;
  version: LabVersion;
  isSuspended = false;
  isAway = false;
  /** Answers get lost. */
  isDeaf = false;
  readonly log: string[];
  readonly subscriptions = new Set<string>();
  #was: readonly Buffer[] = [];

  constructor(of: Transceiver, random: (below: number) => number, log: string[]) {
    [this.of, this.#random, this.log] = [of, random, log];
    this.version = versions[0] as LabVersion;
    of.addDisk(EXTRA);
    of.client.beforeCall = (name) => {
      if (this.isAway) throw unreachable();
      if (name === 'commitSnapshot' && random(25) === 0)
        throw new CollectiveError('block-missing', 'as the server says when a chunk was collected');
    };
    of.objectLimits = { listedMax: 4, left: 2, lookEvery: 2 };
    of.client.afterCall = (name) => {
      if (this.isDeaf && name === 'commitSnapshot') throw unreachable();
    };
    for (const method of ['seal', 'view', 'changedBlocks', 'rebase', 'replace'] as const) {
      const { disks } = of;
      const real = (disks[method] as (...args: unknown[]) => Promise<never>).bind(disks);
      disks[method] = (async (...args: unknown[]): Promise<never> => {
        if (this.isSuspended) throw new CollectiveError('suspended', 'as the agent says');
        return real(...args);
      }) as never;
    }
  }

  get contents(): readonly Buffer[] {
    const known = this.of.backup.state.disks.map(({ name }) => name);
    return NAMES.filter((name) => known.includes(name)).map((name) => this.of.disks.content(name));
  }

  /** What only the other device had: the block path attaches it over what is committed when it is used first. */
  async #attach(): Promise<void> {
    const { disks, backup } = this.of;
    const committed = backup.state.disks.find(({ name }) => name === EXTRA)?.committed ?? null;
    if (committed === null || disks.baseOf(EXTRA) !== undefined || backup.state.pending?.kind === 'committed') return;
    if ((await disks.sealedLayers(EXTRA)).length > 0 || (await disks.heldBytes(EXTRA)) > 0) return;
    if (this.isUsed) return;
    await disks.attachBase(EXTRA, await (await BaseFolder.open(this.of.overlayOf(EXTRA))).base(committed.base));
  }
  /** It was ever attached here. */
  isUsed = false;

  note(): void {
    const { pending } = this.of.backup.state;
    // In the middle of it one disk is as it was, and another one is not.
    if (pending === null || pending.kind === 'sealed' || !pending.isAnew) this.#was = this.contents;
    this.subscriptions.add(this.of.backup.state.subscription);
  }

  #say(what: string): void {
    const { state } = this.of.backup;
    this.log.push(
      `${this.of.name} ${what} head ${String(state.head?.number)} pending ${String(state.pending?.kind)}/${String(state.pending?.reason)} next ${String(state.next.length)}${state.apart === null ? '' : ' APART'}${state.mustCommit ? ' mustCommit' : ''}${state.givenUp === undefined ? '' : ` givenUp ${String(state.givenUp.number)}`}`,
    );
  }

  #isKept(): boolean {
    const { contents } = this;
    return this.#was.every((content, at) => content.equals(contents[at] ?? Buffer.alloc(0)));
  }

  async expectKept(what: string): Promise<void> {
    if (!this.#isKept()) throw new Error(`${what}: the disk has changed under the person`);
  }

  /** What was here before is in the history of one of its subscriptions, disk by disk where it was ever saved. */
  async expectInHistory(what: string): Promise<void> {
    const before = this.#was;
    for (const subscription of this.subscriptions) {
      const rows = await this.of.person.client.call('snapshots', { params: { subscription }, query: { which: 'all' } });
      for (const { number } of rows) {
        const names = (await lab.manifest(subscription, number)).disks.map(({ name }) => name);
        const isSame = await Promise.all(
          before.map(async (content, at) => {
            const name = NAMES[at] ?? DISK;
            return names.includes(name) && (await lab.snapshotBytes(subscription, number, name)).equals(content);
          }),
        );
        if (isSame.every(Boolean)) return;
      }
    }
    throw new Error(`${what}: what was here before is in no snapshot`);
  }

  /** 'done', or how it was broken off. */
  async guarded(what: string, work: () => Promise<unknown>, allowed: readonly string[] = []): Promise<string> {
    let left = this.#random(3) === 0 ? this.#random(10) : Infinity;
    this.of.onStep = (step) => {
      left -= 1;
      if (left < 0) throw new Killed(step);
    };
    try {
      await work();
      this.#say(`${what}: done`);
      return 'done';
    } catch (error) {
      if (error instanceof Killed) {
        await this.of.restart();
        this.#say(`${what}: killed at ${error.step}`);
        return 'killed';
      }
      if (!(error instanceof CollectiveError)) throw error;
      if (['repository-unreachable', 'block-missing'].includes(error.code) || allowed.includes(error.code)) {
        this.#say(`${what}: ${error.code} ${error.message}`);
        return error.code;
      }
      throw error;
    } finally {
      this.of.onStep = () => undefined;
    }
  }

  async step(): Promise<void> {
    const { of } = this;
    const die = this.#random(100);
    if (die < 25) return this.#write();
    if (die < 35) {
      if (!this.isSuspended) await this.guarded('seal', async () => of.backup.seal('request'));
    } else if (die < 55) {
      await this.guarded(
        'steps',
        async () => {
          for (let arrows = this.#random(8); arrows >= 0; arrows -= 1)
            if ((await of.backup.step(signal)) !== 'more') break;
        },
        this.isSuspended ? ['suspended'] : ['wrong-offset'],
      );
      // An undo that was pending is done by it.
    } else if (die < 60) {
      this.isAway = !this.isAway && this.#random(2) === 0;
      this.log.push(`${of.name} away ${String(this.isAway)}`);
      return;
    } else if (die < 72) await this.#start();
    else if (die < 80 || (this.isSuspended && die > 90)) {
      this.isSuspended = of.isRunning && !this.isSuspended;
      this.log.push(`${of.name} suspended ${String(this.isSuspended)}`);
      return;
    } else if (die < 86) {
      if (!this.isSuspended) {
        of.isRunning = false;
        await this.guarded('stop', async () => of.backup.seal('stop'));
      }
    } else if (die < 94) await this.#undo();
    else if (die < 97) await this.#choose();
    else {
      await of.restart();
      if (of.backup.leases.lease !== null && of.backup.state.pending === null)
        await this.guarded('release', async () => of.backup.leases.release());
    }
    await this.#look();
  }

  /** A pending undo, or the other device's state, may be taken over by any step. */
  #expectsOther = false;
  async #look(): Promise<void> {
    await this.#attach();
    const { pending } = this.of.backup.state;
    if (!this.#isKept()) {
      if (!this.#expectsOther) throw new Error('the disk has changed under the person');
      await this.expectInHistory('changed');
    }
    this.#expectsOther = pending !== null && pending.kind !== 'sealed' && pending.isAnew;
    this.note();
  }

  #write(): void {
    if (this.isSuspended || !this.of.isRunning) return;
    const names = this.version.disks;
    const disk = names[this.#random(names.length)] ?? DISK;
    this.of.disks.write(disk, this.#random(40) * BLOCK_BYTES, blockOf(50_000 + this.#random(4_000)));
    this.note();
  }

  async #start(): Promise<void> {
    const { of } = this;
    if (of.isRunning) return;
    const version = versions[this.#random(versions.length)] ?? this.version;
    const isOnline = this.#random(2) > 0;
    this.#expectsOther = true;
    const how = await this.guarded(
      `start ${String(version.writer.version)} ${isOnline ? 'online' : 'offline'}`,
      async () => this.#prepare(version, isOnline, this.#random(4) === 0),
      ['lease-held', 'apart', 'wrong-offset'],
    );
    if (how !== 'done') return;
    of.isRunning = true;
    this.version = version;
    await this.#look();
    this.#expectsOther = false;
  }

  /** As PersonData does it. */
  async #prepare(version: LabVersion, isOnline: boolean, isTakenOver: boolean): Promise<void> {
    const { of } = this;
    const { backup } = of;
    const { writer, disks } = version;
    const apart = (): CollectiveError => new CollectiveError('apart', 'choose');
    let isEnded = false;
    const before = async (): Promise<boolean> => {
      if (isEnded || !isVersionChange(backup, writer)) return false;
      await prepareStart(backup);
      await endVersion(backup);
      return (isEnded = true);
    };
    if (isOnline && backup.state.isRegistered) {
      try {
        if ((await catchUp(backup, of.restoreParts)) === 'apart') throw apart();
        if (backup.leases.lease !== null) await backup.leases.beat();
        if (backup.leases.lease === null && backup.state.apart === null)
          await backup.leases.take(isTakenOver ? 'steal' : 'free');
        if (isTakenOver && (await catchUp(backup, of.restoreParts)) === 'apart') throw apart();
        if ((await before()) && (await drain(backup, signal)) === 'apart') throw apart();
      } catch (error) {
        if (!hasCode(error, 'repository-unreachable')) throw error;
      }
    }
    if (backup.state.apart !== null) throw apart();
    await prepareStart(backup);
    await before();
    const brought: DiskBeginning[] = [];
    for (const name of disks)
      if (!backup.state.disks.some((disk) => disk.name === name)) {
        of.addDisk(name);
        this.isUsed = true;
        brought.push(await of.diskOf(name, writer.version));
      }
    const attached = new Map(disks.map((name) => [name, 'virtio'] as const));
    await beginVersion(backup, { writer, disks: brought, attached });
  }

  async #undo(): Promise<void> {
    const { of } = this;
    const number = (of.backup.state.head?.number ?? 0) - 1 - this.#random(3);
    this.isDeaf = this.#random(2) === 0;
    if (of.isRunning || this.isSuspended || number < 1) return;
    const { subscription } = of.backup.state;
    lab.clock.seconds += 7;
    this.#expectsOther = true;
    const how = await this.guarded(`undo ${String(number)}`, async () => undo(of.backup, of.restoreParts, number), [
      'conflict',
      'wrong-offset',
    ]);
    this.isDeaf = false;
    if (how !== 'done') return;
    for (const { name } of (await lab.manifest(subscription, number)).disks) {
      const is = this.of.disks.content(name).equals(await lab.snapshotBytes(subscription, number, name));
      if (!is) throw new Error(`undo to ${String(number)} did not bring ${name} back`);
    }
  }

  async #choose(): Promise<void> {
    const { backup, isRunning } = this.of;
    if (backup.state.apart === null) return;
    const isBoth = this.#random(3) === 0 && !isRunning;
    await this.guarded(isBoth ? 'both' : 'here', async () =>
      isBoth ? keepBoth(backup) : continueHere(backup, this.of.restoreParts),
    );
    await this.#attach();
  }

  /** Everything is there: what is here must come to the repository, whatever has happened. */
  async end(): Promise<void> {
    const { of } = this;
    [this.isAway, this.isDeaf, this.isSuspended, of.isRunning] = [false, false, false, false];
    await of.restart();
    this.log.push(`${of.name} ends`);
    this.note();
    await of.backup.seal('stop');
    this.#expectsOther = true;
    for (let tries = 0; tries < 4; tries += 1) {
      const did = await this.#drained();
      this.#say(`end ${did}`);
      if (did === 'idle') break;
      await continueHere(of.backup, of.restoreParts);
      await this.#attach();
    }
    await this.#look();
    const { pending, apart, next, toPin, mustCommit, head, subscription } = of.backup.state;
    expect({ pending, apart, next, toPin, mustCommit }).toEqual({
      ...{ pending: null, apart: null, next: [], toPin: [], mustCommit: false },
    });
    const manifest = await lab.manifest(subscription, head?.number ?? 0);
    for (const { name } of manifest.disks)
      expect(
        (await lab.snapshotBytes(subscription, head?.number ?? 0, name)).equals(this.of.disks.content(name)),
        name,
      ).toBe(true);
    for (const name of this.version.disks) expect(manifest.disks.map((disk) => disk.name)).toContain(name);
    expect(await of.disks.sealedLayers(DISK)).toEqual([]);
    await of.backup.leases.release();
  }

  async #drained(): Promise<'idle' | 'apart'> {
    let forgotten = 0;
    for (let steps = 0; steps < 200; steps += 1) {
      const did = await this.of.backup.step(signal).catch((error: unknown) => {
        if ((hasCode(error, 'wrong-offset') || hasCode(error, 'block-missing')) && (forgotten += 1) < 9)
          return 'more' as const;
        throw error;
      });
      if (did !== 'more') return did;
    }
    throw new Error('it does not come to an end');
  }
}

test.each(SEEDS)(
  'with seed %d holds',
  async (seed) => {
    const random = randomOf(seed);
    const log: string[] = [];
    try {
      const [a, b] = devices.map((of) => new Home(lab.emptyHome(of), random, log));
      if (a === undefined || b === undefined) throw new Error('two');
      await a.of.create();
      a.of.write(1, 40_001);
      await a.of.save();
      await b.of.restore(a.of.backup.state.subscription);
      await a.of.backup.leases.release();
      for (const home of [a, b]) home.note();
      for (let step = 0; step < STEPS; step += 1) await (random(2) === 0 ? a : b).step();
      for (const home of [a, b]) await home.end();
    } catch (error) {
      if (error instanceof Error) error.message += `\n${log.slice(-40).join('\n')}`;
      throw error;
    }
  },
  600_000,
);
