/** What the fetching thread and the scrub's thread say to each other. */
import type { PrivateSecrets } from '../private/private-secrets.js';
import type { SlotMemory } from './slot-arrays.js';

/** Where a pass is: the slots before `slot` of the files of smaller blocks, and of this one, are done. */
export type ScrubPosition = { readonly blockBytes: number; readonly slot: number };

export type ScrubWorkerData = {
  /** In the order of their block sizes. */
  readonly files: readonly { readonly memory: SlotMemory; readonly path: string }[];
  readonly from: ScrubPosition;
  readonly bytesPerSecond: number;
  /** Shared; not 0: end after the slot that is being checked. */
  readonly stop: Int32Array<SharedArrayBuffer>;
  /** Of the private cache. */
  readonly secrets?: PrivateSecrets | undefined;
};

export type FromScrub =
  | {
      readonly kind: 'bad';
      readonly blockBytes: number;
      readonly slot: number;
      readonly words: readonly number[];
      readonly isReadable: boolean;
    }
  /** Since the last one. */
  | { readonly kind: 'progress'; readonly at: ScrubPosition; readonly slots: number; readonly bytes: number }
  | { readonly kind: 'done' };
