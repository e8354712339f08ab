/**
 * The disks of one machine in the block path: attached before QEMU starts, made anew when the guest reboots, let go at the end. What a
 * bus can bear (how long its guest waits for a read) is decided here.
 *
 * Every step ends at the signal that it is given; nothing here knows in which state the machine is.
 */
import { rm, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { sessionPaths } from '../machine/machine-session.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import type { QemuUser } from '../machine/qemu-user.js';
import type { MachineKeys } from './disk-keys.js';
import { isDiskOfPerson, type DiskAttachment, type DiskService } from './disk-service.js';
import type { MachineDisk, MachineSpec } from './machine-spec.js';

/** libata gives a SATA or IDE request up after 30 s, firmware much earlier; a virtio guest waits for ever. */
const WAIT_MS = { virtio: 5_000, sata: 2_000, ide: 2_000 } as const;
/**
 * On IDE the guest has to be stopped before its read is answered with an error (disk-pauses.ts): the error is held back so long for
 * that. With the wait it stays below the 3 s after which edk2 gives up.
 */
const IDE_GRACE_MS = 800;
const WARM_RETRY_MS = 1_000;
const ADOPT_RETRY_MS = 3_000;
/** A machine that was paused by a full disk goes on by itself from so much free space. */
const SPACE_TO_GO_ON_BYTES = 8 << 20;

export type MachineDisksOptions = {
  readonly spec: MachineSpec;
  readonly disks: DiskService;
  /** The machine's own: the disks' sockets lie there. */
  readonly folder: string;
  readonly user: QemuUser | undefined;
  /** Their overlays are encrypted with the one, the blocks of their snapshots with the others. */
  readonly machineKeys: MachineKeys;
  readonly log: (text: string) => void;
};

export class MachineDisks {
  readonly #options: MachineDisksOptions;
  #blockKeys: BlockKeys | undefined;

  constructor(options: MachineDisksOptions) {
    this.#options = options;
    this.#blockKeys = options.machineKeys.blockKeys;
  }

  get blockKeys(): BlockKeys | undefined {
    return this.#blockKeys;
  }

  /** Of a new epoch: what is attached, now or later, has these. */
  async setBlockKeys(blockKeys: BlockKeys): Promise<void> {
    this.#blockKeys = blockKeys;
    await this.#options.disks.setBlockKeys(this.#options.spec.machine, blockKeys);
  }

  /** `fresh`: what every start begins with is removed first; false for a machine that is resumed. */
  async attach({ fresh, signal }: { readonly fresh: boolean; readonly signal: AbortSignal }): Promise<void> {
    // At once: what their new overlays want on the medium goes there together. All of them have ended when this fails.
    const ends = await Promise.allSettled(
      this.#options.spec.disks.map((disk) => this.#attach(disk, fresh && disk.overlay?.mode === 'temporary', signal)),
    );
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Of a machine of an earlier supervisor. `onFailed`: go on with the others. */
  async adopt(onFailed?: (error: unknown) => void): Promise<void> {
    const { spec, disks } = this.#options;
    for (const disk of spec.disks) {
      const adopted = disks.adopt(this.#attachment(disk));
      await (onFailed === undefined ? adopted : adopted.catch(onFailed));
    }
  }

  /**
   * Of a guest that lives: what fails (the file system is full, say) is tried again, it is no reason to end a guest. Resolves too when
   * QEMU has ended, or at the signal.
   */
  async adoptOfGuest({ hasEnded, signal }: { readonly hasEnded: () => boolean; readonly signal: AbortSignal }) {
    while (!hasEnded() && !signal.aborted) {
      try {
        return await this.adopt();
      } catch (error) {
        this.#options.log(`${this.#options.spec.machine}: its disks: ${String(error)}`);
        await delay(ADOPT_RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /** After a reboot of the guest: a fresh overlay for what every start begins with. */
  async renew(signal: AbortSignal): Promise<void> {
    const { spec, disks } = this.#options;
    if (spec.keepSystemOverlay === true) return;
    for (const disk of spec.disks) {
      if (disk.overlay?.mode !== 'temporary') continue;
      await disks.detach(spec.machine, disk.name);
      await this.#attach(disk, true, signal);
    }
  }

  /**
   * QEMU reads the first sector of each drive before QMP is up, where a long wait would be a hang: it is fetched before. `onWait`: what it
   * waits for, undefined when it is there.
   */
  async warm(signal: AbortSignal, onWait: (why: string | undefined) => void): Promise<void> {
    const { spec, disks } = this.#options;
    await Promise.all(
      spec.disks.map(async ({ name }) => {
        for (;;) {
          signal.throwIfAborted();
          try {
            return await disks.warm(spec.machine, name, { signal });
          } catch (error) {
            signal.throwIfAborted();
            const missing = await disks.missing(spec.machine);
            const why =
              missing?.find(({ disk }) => disk === name)?.why ??
              (error instanceof Error ? error.message : String(error));
            onWait(`the first block of disk ${name} has not come: ${why}`);
            await delay(WARM_RETRY_MS, undefined, { signal });
          }
        }
      }),
    );
    onWait(undefined);
  }

  /** Whether their file systems have room for a good many writes. */
  async hasSpace(): Promise<boolean> {
    for (const { overlay } of this.#options.spec.disks) {
      if (overlay === undefined) continue;
      // The overlay is written by this supervisor's own user: root may use what is reserved for it.
      const { bsize, bavail, bfree } = await statfs(dirname(overlay.path));
      if ((process.getuid?.() === 0 ? bfree : bavail) * bsize < SPACE_TO_GO_ON_BYTES) return false;
    }
    return true;
  }

  /** Ends QEMU's access to all of them. `keepOverlay`: temporary overlays stay, and all are made durable. Never fails: it is logged. */
  async letGo({ keepOverlay }: { readonly keepOverlay: boolean }): Promise<void> {
    const { spec, disks, log } = this.#options;
    for (const { name } of spec.disks) {
      await disks.detach(spec.machine, name, { keepOverlay }).catch((error: unknown) => {
        log(`${spec.machine}: cleaning up ${name}: ${String(error)}`);
      });
    }
  }

  async removeTemporaryOverlays(): Promise<void> {
    for (const { overlay } of this.#options.spec.disks)
      if (overlay?.mode === 'temporary')
        await rm(overlay.path, { recursive: true, force: true }).catch(() => undefined);
  }

  async #attach(disk: MachineDisk, fresh: boolean, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    await this.#options.disks.attach(this.#attachment(disk), { fresh, signal });
  }

  #attachment(disk: MachineDisk): DiskAttachment {
    const { spec, folder, user, machineKeys } = this.#options;
    const { diskKey } = machineKeys;
    const blockKeys = isDiskOfPerson(disk) ? this.#blockKeys : undefined;
    return {
      machine: spec.machine,
      disk: disk.name,
      source: disk.source,
      ...(disk.overlay === undefined
        ? {}
        : { overlay: { ...disk.overlay, ...(diskKey === undefined ? {} : { key: diskKey }) } }),
      // Sealed with the disk key: without one there is none.
      ...(disk.trace === undefined || diskKey === undefined ? {} : { trace: disk.trace }),
      ...(blockKeys === undefined ? {} : { blockKeys, ...(diskKey === undefined ? {} : { diskKey }) }),
      waitMs: WAIT_MS[disk.bus],
      graceMs: disk.bus === 'ide' ? IDE_GRACE_MS : 0,
      socketPath: sessionPaths(folder).diskSocket(disk.name),
      qemuUser: user,
    };
  }
}
