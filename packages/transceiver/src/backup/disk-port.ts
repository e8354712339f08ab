/**
 * What the backup asks of the block path: the user disks of ONE machine, running or not. The real one speaks to blockd
 * (blockd-disks.ts), the double keeps disks in memory (testing/memory-disks.double.ts).
 */
import type { Digest } from '@collective/shared';
import type { NamedBase } from './base-file.js';

/** The disk as it was when a layer was sealed; good only while the call that gave it runs. */
export interface DiskView {
  readonly diskBytes: number;
  /** A Unix socket at which any process of this user reads it over NBD; undefined: there is none. */
  readonly socketPath?: string;
  /** Fills `target`. Calls may overlap. Errors: `block-unavailable`, `local-io`. */
  read(target: Buffer, byteOffset: number): Promise<void>;
}

export interface SnapshotDisks {
  /** Freezes what has been written so far; durable when it resolves. */
  seal(disk: string): Promise<{ readonly layer: string }>;
  /** `work` with the disk as it is up to and with that sealed layer. */
  view<T>(disk: string, layer: string, work: (view: DiskView) => Promise<T>): Promise<T>;
  /** Numbers of the blocks that the layers up to and with that one touch, ascending. */
  changedBlocks(disk: string, layer: string, blockBytes: number): Promise<Uint32Array>;
  /**
   * The committed state takes the place of the layers up to and with that one, durably, in one step. It must be what they
   * hold. Errors: `digest-mismatch` when it is not, `block-unavailable` when that cannot be told now; nothing was changed.
   */
  rebase(disk: string, layer: string, base: NamedBase): Promise<void>;
  /**
   * Of a machine that does not run: the disk is this committed state from now on, durably, and what its layers held is
   * given up. Again is the same.
   */
  replace(disk: string, base: NamedBase): Promise<void>;
  /**
   * Of a machine that does not run: its layers lie over this base from now on, durably, whatever they lay over. Who asks answers for what
   * reads differently then. Again is the same. Errors: `in-use`, `local-io`.
   */
  putOver(disk: string, base: NamedBase): Promise<void>;
  /** The base file that its overlay names; null: none, or there is no overlay. */
  liesOver(disk: string): Promise<Digest | null>;
  /** From the bottom. */
  sealedLayers(disk: string): Promise<readonly string[]>;
  /** What all layers hold, in bytes of the local disk, the open one included. */
  heldBytes(disk: string): Promise<number>;
  /** Whether any layer says anything of the disk: also one in which ranges were only trimmed, which holds no bytes. */
  isTouched(disk: string): Promise<boolean>;
  /** Lets go of what was attached for the backup only: before a start, and when there is nothing more to do. */
  release(): Promise<void>;
}
