/**
 * What a machine needs of the block path, as a seam: blockd-keeper.ts is it in earnest, tests use a double. Disks are named by
 * machine and disk name.
 */
import type { EventEmitter } from 'node:events';
import type { QemuUser } from '../machine/qemu-user.js';
import type { ControlParams } from '../blockd/control/control-protocol.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';

export type DiskSource = ControlParams<'attach'>['source'];

export type DiskAttachment = {
  readonly machine: string;
  readonly disk: string;
  readonly source: DiskSource;
  readonly overlay?: { readonly path: string; readonly mode: 'temporary' | 'persistent'; readonly key?: string };
  /** Of a user disk: as in blockd's `attach`. */
  readonly trace?: NonNullable<ControlParams<'attach'>['trace']>;
  /** Of the person, for private blocks: as in blockd's `attach`. */
  readonly diskKey?: string;
  readonly blockKeys?: BlockKeys;
  /** How long a read waits for its block before it is answered with an error and the machine is paused. */
  readonly waitMs: number;
  /** How long the error is held back after `unavailable`, so that the guest can be stopped before it is there. */
  readonly graceMs: number;
  /** Where QEMU finds the disk. */
  readonly socketPath: string;
  readonly qemuUser: QemuUser | undefined;
};

/** Whether the disk may have private blocks, now or after a commit: it needs the person's keys of blocks. */
export const isDiskOfPerson = (
  disk: Pick<DiskAttachment, 'source'> & { readonly overlay?: { readonly mode: string } },
): boolean => disk.overlay?.mode === 'persistent' || disk.source.kind === 'snapshot';

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
  /** Ends QEMU's access and deletes a temporary overlay; `keepOverlay` makes it durable instead. A disk that is not attached is fine. */
  detach(machine: string, disk: string, options?: { readonly keepOverlay?: boolean }): Promise<void>;
  /** These keys of blocks take the place of what the machine's disks were attached with; told at once, and to each later block daemon. Never fails. */
  setBlockKeys(machine: string, blockKeys: BlockKeys): Promise<void>;
  /** How long reads of the machine's disks wait for their blocks from now on; as attached when undefined. Never fails. */
  setWait(machine: string, waitMs: number | undefined): Promise<void>;
  /** Resolves when the disk's first block is here. Errors: `block-unavailable` after a time, with the reason. */
  warm(machine: string, disk: string, options: { readonly signal?: AbortSignal }): Promise<void>;
  /** Empty: nothing is missing. Undefined: nobody can say just now. */
  missing(machine: string): Promise<readonly MissingBlocks[] | undefined>;
  /** The guest's first instruction is about to run: boot traces count from here. */
  traceStart(machine: string): Promise<void>;
  /** What its disks are read for from now on is no part of the way to its prompt. */
  traceIdle(machine: string): Promise<void>;
}
