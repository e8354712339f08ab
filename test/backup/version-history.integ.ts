/**
 * Long random histories of versions over one person's disks: three versions, one of which has a disk more, take turns while the repository
 * comes and goes and the agent is killed at any step, also in a start. After every commit: each disk of the snapshot is what was sealed, bit
 * for bit, or what it was in the snapshot before, and the snapshot says which version wrote it; what a version left is pinned. Always: the
 * local disks are what was written to them. The seed is in the name.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { BLOCK_BYTES, blockOf } from '@collective/repository-server';
import { BackupLab, DISK, Killed, type Transceiver } from './backup-lab.js';
import { unreachable } from './injected-client.js';
import { EXTRA, VersionLab, type LabVersion } from './version-lab.js';

const STEPS = 250;
const SEEDS = [21, 22, 23, 24];
const { signal } = new AbortController();

let lab: BackupLab;
let device: Transceiver;
let versionLab: VersionLab;
let versions: readonly LabVersion[];

beforeAll(async () => {
  lab = await BackupLab.open();
  device = await lab.transceiver();
  versionLab = new VersionLab(lab);
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

type Contents = ReadonlyMap<string, Buffer>;

class History {
  readonly #random: (below: number) => number;
  readonly #home: Transceiver;
  #running = versionLab.first;
  /** What was written to the disks. */
  readonly #model = new Map<string, Buffer>();
  /** By layer: the disk when it was sealed, and who had written. */
  readonly #sealed = new Map<string, { readonly content: Buffer; readonly version: number }>();
  /** By number: what each snapshot must restore to. */
  readonly #snapshots = new Map<number, Contents>();
  #isAway = false;
  readonly counts = { saved: 0, kills: 0, away: 0, starts: 0 };

  constructor(seed: number) {
    this.#random = randomOf(seed);
    this.#home = lab.emptyHome(device);
  }

  async begin(): Promise<void> {
    const { disks, client } = this.#home;
    const seal = disks.seal.bind(disks);
    disks.seal = async (disk) => {
      const sealed = await seal(disk);
      this.#sealed.set(sealed.layer, { content: disks.content(disk), version: this.#running.writer.version });
      return sealed;
    };
    client.beforeCall = () => {
      if (this.#isAway) throw unreachable();
    };
    await this.#home.create();
    this.#model.set(DISK, this.#home.content);
  }

  async step(): Promise<void> {
    const die = this.#random(100);
    if (die < 40) this.#write();
    else if (die < 55) await this.#guarded(async () => this.#home.backup.seal('request'));
    else if (die < 80) await this.#advance();
    else if (die < 86) this.#isAway = !this.#isAway;
    else if (die < 96) await this.#start();
    else await this.#home.restart();
    for (const [disk, content] of this.#model) expect(this.#home.disks.content(disk).equals(content), disk).toBe(true);
  }

  async end(): Promise<void> {
    this.#isAway = false;
    await this.#home.backup.seal('stop');
    while ((await this.#home.backup.step(signal)) === 'more') await this.#check();
    await this.#check();
    const { head, toPin, next } = this.#home.backup.state;
    expect([toPin, next]).toEqual([[], []]);
    for (const [disk, content] of this.#model)
      expect(
        this.#snapshots
          .get(head?.number ?? 0)
          ?.get(disk)
          ?.equals(content),
        disk,
      ).toBe(true);
    await this.#checkPins();
  }

  #write(): void {
    const disk = this.#running.disks[this.#random(this.#running.disks.length)] ?? DISK;
    const kind = this.#random(4);
    const block = this.#random(40);
    const bytes = blockOf(kind === 0 ? 0 : 50_000 + this.#random(40));
    this.#home.disks.write(disk, block * BLOCK_BYTES, bytes);
    this.#model.set(disk, this.#home.disks.content(disk));
  }

  /** The agent may be killed in it, or the repository be away. */
  async #guarded(work: () => Promise<unknown>): Promise<boolean> {
    let left = this.#random(3) === 0 ? this.#random(8) : Infinity;
    this.#home.onStep = (step) => {
      left -= 1;
      if (left < 0) throw new Killed(step);
    };
    try {
      await work();
      return true;
    } catch (error) {
      if (error instanceof Killed) this.counts.kills += 1;
      else if (error instanceof CollectiveError && error.code === 'repository-unreachable') this.counts.away += 1;
      else throw error;
      await this.#home.restart();
      return false;
    } finally {
      this.#home.onStep = () => undefined;
    }
  }

  async #advance(): Promise<void> {
    await this.#guarded(async () => {
      for (let arrows = this.#random(6); arrows >= 0; arrows -= 1) {
        this.#expectOfPending();
        if ((await this.#home.backup.step(signal)) !== 'more') break;
        await this.#check();
      }
    });
    await this.#check();
  }

  async #start(): Promise<void> {
    const version = versions[this.#random(versions.length)] ?? versionLab.first;
    const isOnline = this.#random(2) === 0 && !this.#isAway;
    const isStarted = await this.#guarded(async () => versionLab.start(this.#home, version, { isOnline }));
    await this.#check();
    if (!isStarted) return;
    this.counts.starts += 1;
    this.#running = version;
    for (const disk of version.disks) if (!this.#model.has(disk)) this.#model.set(disk, this.#home.disks.content(disk));
  }

  /** What is packed now must become that. */
  #expectOfPending(): void {
    const { pending, head } = this.#home.backup.state;
    if (pending?.kind !== 'packed') return;
    const expected = new Map(this.#snapshots.get(head?.number ?? 0));
    for (const { disk, layer } of pending.layers)
      expected.set(disk, this.#sealed.get(layer)?.content ?? Buffer.alloc(0));
    this.#snapshots.set(pending.number, expected);
    const writer = this.#sealed.get(pending.layers.find(({ disk }) => disk === DISK)?.layer ?? '')?.version;
    expect(pending.writtenBy.version).toBe(writer);
  }

  #checked = 0;
  async #check(): Promise<void> {
    this.#expectOfPending();
    const { head, subscription } = this.#home.backup.state;
    const number = head?.number ?? 0;
    if (number <= this.#checked) return;
    this.#checked = number;
    this.counts.saved += 1;
    const manifest = await lab.manifest(subscription, number);
    const expected = this.#snapshots.get(number);
    // Saved in the middle of a start: its own steps are not seen one by one.
    if (expected === undefined) return this.#adopt(number);
    expect(new Set(manifest.disks.map(({ name }) => name))).toEqual(new Set(expected.keys()));
    for (const [disk, content] of expected) {
      const saved = await lab.snapshotBytes(subscription, number, disk);
      expect(saved.equals(content), `${disk} of ${String(number)}`).toBe(true);
    }
  }

  async #adopt(number: number): Promise<void> {
    const { subscription } = this.#home.backup.state;
    const adopted = new Map<string, Buffer>();
    for (const { name } of (await lab.manifest(subscription, number)).disks)
      adopted.set(name, await lab.snapshotBytes(subscription, number, name));
    this.#snapshots.set(number, adopted);
  }

  async #checkPins(): Promise<void> {
    const { subscription } = this.#home.backup.state;
    const rows = await device.person.client.call('snapshots', { params: { subscription }, query: { which: 'kept' } });
    const sorted = [...rows].sort((a, b) => a.number - b.number);
    for (const [at, { number, pinned }] of sorted.entries()) {
      const later = sorted[at + 1];
      if (later === undefined) continue;
      const writers = [number, later.number].map(async (each) => (await lab.manifest(subscription, each)).writtenBy);
      const [before, after] = await Promise.all(writers);
      if (before?.version !== after?.version) expect([number, pinned]).toEqual([number, true]);
    }
  }
}

test.each(SEEDS)('with seed %d holds', async (seed) => {
  const history = new History(seed);
  await history.begin();
  for (let step = 0; step < STEPS; step += 1) await history.step();
  await history.end();
  expect(history.counts.saved).toBeGreaterThan(5);
  expect(history.counts.starts).toBeGreaterThan(5);
});
