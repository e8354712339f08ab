/**
 * The disks that a running guest is shown beside its own (old snapshots, read-only), by name. They are in the machine's record, so that
 * the next supervisor finds them; they are gone with their QEMU, and a machine that has one is not suspended.
 */
import { CollectiveError } from '@collective/shared';
import { plugDisk, unplugDisk } from '../machine/hot-disk.js';
import { sessionPaths } from '../machine/machine-session.js';
import type { QemuProcess } from '../machine/qemu-process.js';
import type { QemuUser } from '../machine/qemu-user.js';
import type { MachineKeys } from './disk-keys.js';
import type { DiskAttachment, DiskService } from './disk-service.js';
import type { MachineSpec, ShownDisk } from './machine-spec.js';

const SHOWN_MAX = 4;
/** As on virtio: nobody's guest gives up a USB stick earlier than it is paused. */
const WAIT_MS = 5_000;

export type ShownDisksOptions = {
  readonly spec: MachineSpec;
  readonly disks: DiskService;
  readonly folder: string;
  readonly user: QemuUser | undefined;
  /** Of the machine now: the cache of private blocks is encrypted with the one, their chunks with the others. */
  readonly machineKeys: () => MachineKeys;
  /** Writes the machine's record with `list`. */
  readonly record: () => Promise<void>;
  readonly log: (text: string) => void;
};

export class ShownDisks {
  readonly #options: ShownDisksOptions;
  #shown: readonly ShownDisk[];
  #changes = 0;
  /** One change after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ShownDisksOptions, found: readonly ShownDisk[] = []) {
    this.#options = options;
    this.#shown = found;
  }

  get list(): readonly ShownDisk[] {
    return this.#shown;
  }

  /** One is being plugged in or taken away: a memory image of now might have another hardware than its list says. */
  get isChanging(): boolean {
    return this.#changes > 0;
  }

  /** Errors: `exists`, `bad-request` for too many, `block-unavailable`, `local-io`; nothing is shown then. */
  async show(qemu: QemuProcess, disk: ShownDisk): Promise<void> {
    const { spec, disks } = this.#options;
    await this.#inTurn(async () => {
      if ([...spec.disks, ...this.#shown].some(({ name }) => name === disk.name))
        throw new CollectiveError('exists', `${spec.machine} has a disk ${disk.name} already`);
      if (this.#shown.length >= SHOWN_MAX)
        throw new CollectiveError(
          'bad-request',
          `${spec.machine} is shown ${SHOWN_MAX} disks already: close one first`,
        );
      const attachment = this.#attachment(disk);
      await disks.attach(attachment, { fresh: false });
      try {
        // QEMU looks at the first sector at once, and would hang until it comes.
        await disks.warm(spec.machine, disk.name, {});
        await this.#set([...this.#shown, disk]);
        await plugDisk(qemu, { name: disk.name, socketPath: attachment.socketPath }, spec);
      } catch (error) {
        await this.#forget(disk.name);
        throw error;
      }
    });
  }

  /** Errors: `not-found`, `in-use` when the guest does not let go of it, `local-io`. */
  async hide(qemu: QemuProcess, name: string): Promise<void> {
    await this.#inTurn(async () => {
      if (!this.#shown.some((disk) => disk.name === name))
        throw new CollectiveError('not-found', `${this.#options.spec.machine} is shown no disk ${name}`);
      await unplugDisk(qemu, name);
      await this.#forget(name);
    });
  }

  /** Of a machine of an earlier supervisor. Never fails: QEMU tries again until they are there. */
  async adopt(): Promise<void> {
    for (const disk of this.#shown)
      await this.#options.disks
        .adopt(this.#attachment(disk))
        .catch((error: unknown) => this.#options.log(String(error)));
  }

  /** QEMU is gone. Never fails. */
  async letGo(): Promise<void> {
    await this.#inTurn(async () => {
      for (const { name } of this.#shown) await this.#detach(name);
      this.#shown = [];
    });
  }

  async #forget(name: string): Promise<void> {
    await this.#detach(name);
    await this.#set(this.#shown.filter((disk) => disk.name !== name));
  }

  async #detach(name: string): Promise<void> {
    const { spec, disks, log } = this.#options;
    await disks.detach(spec.machine, name).catch((error: unknown) => log(`${spec.machine}: ${name}: ${String(error)}`));
  }

  async #set(shown: readonly ShownDisk[]): Promise<void> {
    this.#shown = shown;
    await this.#options.record();
  }

  #attachment({ name, source }: ShownDisk): DiskAttachment {
    const { spec, folder, user, machineKeys } = this.#options;
    const { diskKey, blockKeys } = machineKeys();
    return {
      ...(diskKey === undefined ? {} : { diskKey }),
      ...(blockKeys === undefined ? {} : { blockKeys }),
      machine: spec.machine,
      disk: name,
      source,
      waitMs: WAIT_MS,
      graceMs: 0,
      socketPath: sessionPaths(folder).diskSocket(name),
      qemuUser: user,
    };
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    this.#changes += 1;
    const turn = this.#turn.then(work).finally(() => (this.#changes -= 1));
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}
