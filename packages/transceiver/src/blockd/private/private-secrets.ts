/** What a thread is told that works on the private cache; never in an answer or a log. */
import type { BlockKeys } from './block-key-ring.js';

export type PrivateSecrets = {
  /** 64 bytes, base64url. */
  readonly diskKey: string;
  readonly blockKeys: BlockKeys;
};

/** Where a disk's private blocks are: the objects of some snapshots of one subscription. */
export type SnapshotSource = {
  readonly subscription: string;
  /** Ascending. */
  readonly objects: readonly number[];
};
