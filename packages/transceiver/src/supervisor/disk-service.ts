/**
 * What a machine needs of the block path, as a seam: blockd-keeper.ts is it in earnest, tests use a double. Disks are named by
 * machine and disk name.
 */
import type { EventEmitter } from 'node:events';
import type { QemuUser } from '../machine/qemu-user.js';
import type { ControlParams } from '../blockd/control/control-protocol.js';

export type DiskSource = ControlParams<'attach'>['source'];

export type DiskAttachment = {
  readonly machine: string;
  readonly disk: string;
  readonly source: DiskSource;
  readonly overlay?: { readonly path: string; readonly mode: 'temporary' | 'persistent' };
  /** How long a read waits for its block before it is answered with an error and the machine is paused. */
  readonly waitMs: number;
  /** Where QEMU finds the disk. */
  readonly socketPath: string;
  readonly qemuUser: QemuUser | undefined;
};

/** Blocks that a disk's reads were given up for. */
export type MissingBlocks = {
  readonly disk: string;
  readonly blocks: readonly number[];
  readonly why: string | undefined;
};

export type DiskServiceEvents = {
  /** A read of the machine was answered with an error. */
  unavailable: [machine: string, disk: string, blockIndex: number, why: string];
  /** The last block that a disk of the machine lacked is there. */
  arrived: [machine: string];
  /** The block daemon died and serves every disk again. */
  restarted: [];
};

export interface DiskService extends EventEmitter<DiskServiceEvents> {
  /** Resolves when QEMU can connect. `fresh`: an overlay that is there is removed first. Survives the block daemon: it is attached again when that was restarted. */
  attach(
    attachment: DiskAttachment,
    options: { readonly fresh: boolean; readonly signal?: AbortSignal },
  ): Promise<void>;
  /** For a machine of an earlier supervisor: attached already, or attached now without touching its overlay. */
  adopt(attachment: DiskAttachment): Promise<void>;
  /** Ends QEMU's access and deletes a temporary overlay. `keepOverlay`: for attaching it again. A disk that is not attached is fine. */
  detach(machine: string, disk: string): Promise<void>;
  /** Resolves when the disk's first block is here. Errors: `block-unavailable` after a time, with the reason. */
  warm(machine: string, disk: string, options: { readonly signal?: AbortSignal }): Promise<void>;
  /** Empty: nothing is missing. Undefined: nobody can say just now. */
  missing(machine: string): Promise<readonly MissingBlocks[] | undefined>;
  /** The guest's first instruction is about to run: boot traces count from here. */
  traceStart(machine: string): Promise<void>;
}
