/**
 * The user disks of the person's machines as the backup reaches them, by way of the block daemon: in the session of the machine that
 * runs, or in one of the backup's own.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import type { BackupState } from '../backup/backup-file.js';
import { BlockdDisks } from '../backup/blockd-disks.js';
import type { Home } from '../home.js';
import { LocalFileSystem } from '../storage/local-file-system.js';
import { chooseDiskKey } from './disk-key-ring.js';
import type { MachinePort } from './machine-port.js';
import type { MachinePresence } from './machine-presence.js';
import { published } from './machine-spec-plan.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';

/**
 * Nobody's guest waits for what the backup reads; but the worker that reads is that of all machines. What did not come in this time goes on
 * coming, and the next try finds it.
 */
const ATTACHED_WAIT_MS = 5_000;

export type PersonDisksOptions = {
  readonly home: Home;
  readonly session: Session;
  readonly machines: Pick<MachinePort, 'blockd'>;
  readonly presence: Pick<MachinePresence, 'isUp' | 'isSuspended'>;
  /** What is known of the machine's backup; undefined: none. */
  readonly stateOf: (name: string) => BackupState | undefined;
  readonly applianceOf: (name: string) => string;
};

export class PersonDisks {
  readonly #options: PersonDisksOptions;
  readonly #disks = new Map<string, BlockdDisks>();
  readonly #starting = new Set<string>();
  #isEnded = false;

  constructor(options: PersonDisksOptions) {
    this.#options = options;
  }

  overlayOf(name: string): (disk: string) => string {
    return (disk) => join(this.#options.home.machinesDirectory, name, 'overlays', disk);
  }

  of(name: string): BlockdDisks {
    const known = this.#disks.get(name);
    if (known !== undefined) return known;
    const { home, session, machines } = this.#options;
    const disks = new BlockdDisks({
      name,
      control: async () => {
        if (this.#isEnded) throw new CollectiveError('shutting-down', 'The session has ended.');
        return machines.blockd(async () => session.blocks());
      },
      session: (disk) => this.#sessionOf(name, disk),
      attachment: async (disk) => this.#attachment(name, disk),
      overlayOf: this.overlayOf(name),
      runDirectory: home.runDirectory,
      blockKeys: () => session.blockKeys,
      fileSystem: new LocalFileSystem(),
      isBlockdThere: () => existsSync(home.blockdSocket),
    });
    this.#disks.set(name, disks);
    return disks;
  }

  /** Nothing of ours has its disks from now on: they are the supervisor's. */
  async giveTo(name: string): Promise<void> {
    this.#starting.add(name);
    await this.of(name).release();
  }

  /** It runs, or could not be started. */
  started(name: string): void {
    this.#starting.delete(name);
  }

  isStarting(name: string): boolean {
    return this.#starting.has(name);
  }

  /** The machine has gone, or has another name. */
  async forget(name: string): Promise<void> {
    await this.#disks.get(name)?.release();
    this.#disks.delete(name);
  }

  async releaseAll(): Promise<void> {
    await Promise.allSettled([...this.#disks.values()].map(async (disks) => disks.release()));
  }

  /** What is still under way starts no block daemon again. */
  end(): void {
    this.#isEnded = true;
  }

  /** Who has the disk; undefined: nobody, or the version that runs does not have it. Errors: `suspended`, `in-use` while it is being started: it is tried again afterwards. */
  #sessionOf(name: string, disk: string): string | undefined {
    const { presence, stateOf } = this.#options;
    if (presence.isUp(name)) {
      const known = stateOf(name)?.disks.find((each) => each.name === disk);
      return known?.isAttached === false ? undefined : name;
    }
    if (presence.isSuspended(name)) throw new CollectiveError('suspended', `${name} is suspended.`);
    if (this.#starting.has(name)) throw new CollectiveError('in-use', `${name} is being started.`);
    return undefined;
  }

  /** How a disk of a machine that does not run is attached. */
  async #attachment(name: string, disk: string): Promise<object> {
    const { home, session, stateOf, applianceOf } = this.#options;
    const subscription = await Subscription.open(home.machinesDirectory, name);
    const base = stateOf(name)?.disks.find((each) => each.name === disk)?.committed?.base;
    const path = subscription.overlayPath(disk);
    const kept = subscription.kept(disk);
    const key = chooseDiskKey(session.diskKeys, await subscription.keyChecks(), `a disk of ${name}`);
    const source =
      base !== undefined
        ? { kind: 'snapshot', folder: path, base }
        : kept === undefined || kept.root === null
          ? { kind: 'zero', diskBytes: kept?.diskBytes ?? 0 }
          : published({ name: applianceOf(name), version: kept.version }, kept, subscription.mapPath(kept.root));
    const overlay = { path, mode: 'persistent', key };
    return { source, overlay, diskKey: key, blockKeys: session.blockKeys, waitMs: ATTACHED_WAIT_MS };
  }
}
