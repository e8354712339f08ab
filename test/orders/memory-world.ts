/** Two devices of BackupLab for live-through.ts: the real backup over disks in memory and a server in this process. */
import { CollectiveError, hasCode } from '@collective/shared';
import { BLOCK_BYTES } from '@collective/repository-server';
import { catchUp, continueHere, keepBoth, prepareStart } from '@collective/transceiver';
import { DISK, INITIAL_BYTES, BackupLab, type Transceiver } from '../backup/backup-lab.js';
import { unreachable } from '../backup/injected-client.js';
import type { History, OrderDevice, OrderWorld, Settled } from './live-through.js';
import { WHO, type Who } from './moves.js';
import { OrderDisk, sectorOf, type Marks } from './order-disk.js';

/** `at-once`: the backup does after each move all that it can; `late`: only when it is waited for. */
export type Pace = 'at-once' | 'late';

export const DISK_OF_ORDERS = new OrderDisk(INITIAL_BYTES, BLOCK_BYTES);

class MemoryDevice implements OrderDevice {
  readonly of: Transceiver;
  readonly #pace: Pace;
  #isAway = false;
  #isSuspended = false;

  constructor(of: Transceiver, pace: Pace) {
    this.of = of;
    this.#pace = pace;
    of.client.beforeCall = () => {
      if (this.#isAway) throw unreachable();
    };
    for (const method of ['seal', 'view', 'changedBlocks', 'rebase', 'replace'] as const) {
      const { disks } = of;
      const real = (disks[method] as (...args: unknown[]) => Promise<never>).bind(disks);
      disks[method] = (async (...args: unknown[]): Promise<never> => {
        if (this.#isSuspended) throw new CollectiveError('suspended', 'as the agent says');
        return real(...args);
      }) as never;
    }
  }

  /** As prepare-data.ts does it, of a machine with one version. */
  async start({ isTakenOver }: { readonly isTakenOver: boolean }): Promise<boolean> {
    const { backup, restoreParts } = this.of;
    try {
      if ((await catchUp(backup, restoreParts)) === 'apart') throw new CollectiveError('apart', 'choose');
      if (backup.leases.lease === null) await backup.leases.take(isTakenOver ? 'steal' : 'free');
      if (isTakenOver && (await catchUp(backup, restoreParts)) === 'apart')
        throw new CollectiveError('apart', 'choose');
    } catch (error) {
      if (hasCode(error, 'lease-held')) return false;
      if (!hasCode(error, 'repository-unreachable')) throw error;
    }
    await prepareStart(backup);
    await this.of.attach();
    this.of.isRunning = true;
    return true;
  }

  async suspend(): Promise<void> {
    await this.of.backup.seal('suspend');
    this.#isSuspended = true;
    await this.#goOn();
  }

  async resume(): Promise<void> {
    this.#isSuspended = false;
    await this.#goOn();
  }

  async stop(): Promise<void> {
    this.of.isRunning = false;
    await this.of.backup.seal('stop');
  }

  async disconnect(): Promise<void> {
    this.#isAway = true;
  }

  async reconnect(): Promise<void> {
    this.#isAway = false;
    await this.#goOn();
  }

  async write(place: number, mark: string): Promise<void> {
    this.of.disks.write(DISK, place * BLOCK_BYTES, sectorOf(mark));
    if (this.#pace === 'late') return;
    await this.of.backup.seal('periodic');
    await this.#goOn();
  }

  async read(): Promise<Marks> {
    return DISK_OF_ORDERS.marksOf(this.of.content);
  }

  async settle(): Promise<Settled> {
    const { backup } = this.of;
    await backup.leases.beat();
    if (this.of.isRunning && !this.#isSuspended) await backup.seal('request');
    const did = await this.#drained();
    if (did === 'idle' && !this.of.isRunning && backup.leases.lease !== null) await backup.leases.release();
    return did === 'apart' ? 'apart' : 'saved';
  }

  async continue(which: 'here' | 'both'): Promise<void> {
    await (which === 'here' ? continueHere(this.of.backup, this.of.restoreParts) : keepBoth(this.of.backup));
  }

  async #goOn(): Promise<void> {
    if (this.#pace === 'late') return;
    await this.of.backup.leases.beat();
    await this.#drained();
  }

  /** As far as it goes: without the repository, and while its layers are its memory's, the rest waits. */
  async #drained(): Promise<'idle' | 'apart' | 'waits'> {
    try {
      return await this.of.drain();
    } catch (error) {
      const waits = this.#isAway ? 'repository-unreachable' : this.#isSuspended ? 'suspended' : 'wrong-offset';
      if (hasCode(error, waits)) return waits === 'wrong-offset' ? this.of.drain() : 'waits';
      throw error;
    }
  }
}

export class MemoryWorlds implements AsyncDisposable {
  readonly #lab: BackupLab;
  readonly #of: Readonly<Record<Who, Transceiver>>;

  private constructor(lab: BackupLab, of: Readonly<Record<Who, Transceiver>>) {
    this.#lab = lab;
    this.#of = of;
  }

  static async open(): Promise<MemoryWorlds> {
    const lab = await BackupLab.open();
    return new MemoryWorlds(lab, { a: await lab.transceiver(), b: await lab.transceiver() });
  }

  /** Both hold the same snapshot, and nobody has the lease. */
  async world(pace: Pace): Promise<OrderWorld> {
    return openWorld(this.#lab, this.#of, pace);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]();
  }
}

const openWorld = async (lab: BackupLab, of: Readonly<Record<Who, Transceiver>>, pace: Pace): Promise<OrderWorld> => {
  const homes = { a: lab.emptyHome(of.a), b: lab.emptyHome(of.b) };
  await homes.a.create();
  await homes.a.save('start');
  await homes.a.backup.leases.release();
  await homes.b.restore(homes.a.backup.state.subscription);
  return {
    devices: { a: new MemoryDevice(homes.a, pace), b: new MemoryDevice(homes.b, pace) },
    histories: async () => {
      const histories = new Map<string, History>();
      for (const who of WHO) {
        const { subscription } = homes[who].backup.state;
        const known = histories.get(subscription);
        const snapshots = known?.snapshots ?? (await snapshotsOf(lab, subscription));
        histories.set(subscription, { devices: [...(known?.devices ?? []), who], snapshots });
      }
      return [...histories.values()];
    },
  };
};

const snapshotsOf = async (lab: BackupLab, subscription: string): Promise<History['snapshots']> => {
  const head = await lab.head(subscription);
  const numbers = Array.from({ length: head?.number ?? 0 }, (_, index) => index + 1);
  return Promise.all(
    numbers.map(async (number) => ({
      number,
      isHead: number === head?.number,
      marks: DISK_OF_ORDERS.marksOf(await lab.snapshotBytes(subscription, number)),
    })),
  );
};
