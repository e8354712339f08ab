/** The local API about a person's data: snapshots, undo, what becomes of a subscription. Data only; agent-schemas.ts checks the requests. */
import type { SnapshotReason } from '@collective/shared';

/** Where the data of one appliance is; part of the status of its machine. */
export type DataStatus = {
  /** By the server's clock; null: nothing was ever saved. */
  readonly savedAt: number | null;
  /** The device that saved it; null: nothing was ever saved. */
  readonly savedBy: string | null;
  /** Written here and not on the server. */
  readonly unsavedBytes: number;
  /** `waiting`: for the repository. `apart`: another device has gone on from an older state. */
  readonly activity: 'idle' | 'saving' | 'waiting' | 'apart';
  /** Why it waits, or who went on. */
  readonly why?: string;
};

/** A subscription of the person's, by the name that it has on all their devices. */
export type SubscriptionRow = {
  readonly name: string;
  readonly appliance: string;
  /** By the server's clock; null: the profile knows of no snapshot. */
  readonly savedAt: number | null;
  readonly savedBy: string | null;
  /** The name under which it is on this machine; null: it is not. */
  readonly here: string | null;
};
/** One that can be brought back. */
export type DeletedRow = {
  readonly name: string;
  readonly appliance: string;
  readonly savedAt: number | null;
  readonly deletedAt: number;
};

export type SnapshotRow = {
  readonly number: number;
  /** By the clock of the device that made it. */
  readonly createdAt: number;
  readonly committedAt: number;
  readonly reason: SnapshotReason;
  /** What it added to the repository, in bytes. */
  readonly addedBytes: number;
  readonly pinned: boolean;
  /** Since when it has been deleted; it can be brought back for 30 days, or as long as the repository keeps it. */
  readonly deletedAt: number | null;
  readonly isHead: boolean;
};
export type SnapshotsReply = { readonly name: string; readonly snapshots: readonly SnapshotRow[] };

/** Makes a snapshot now; `wait`: until it is on the server. */
export type TakeSnapshotRequest = { readonly name: string; readonly wait: boolean };
export type TakeSnapshotReply = { readonly name: string; readonly number: number | null; readonly sentBytes: number };

export type UndoRequest = { readonly name: string; readonly snapshot: number };
/** `number`: the new head, which holds what `snapshot` held; `before`: the head until now. */
export type UndoReply = {
  readonly name: string;
  readonly number: number;
  readonly snapshot: number;
  readonly before: number;
  /** The version that wrote it; it can be started by name. */
  readonly writtenBy: number;
  /** The undo is done; this is not, and why. Absent: nothing is left to be done. */
  readonly unfinished?: string;
};

/** Serves a disk of an old snapshot, read-only, on a unix socket until the client goes away. */
export type OpenSnapshotRequest = {
  readonly name: string;
  readonly snapshot: number;
  readonly disk?: string;
  readonly socket: string;
};
/** Shows a disk of an old snapshot to the running guest, read-only; `close` takes it away. */
export type ShowSnapshotRequest = {
  readonly name: string;
  readonly snapshot: number;
  readonly disk?: string;
  readonly close?: boolean;
};
export type RestoreSnapshotRequest = { readonly name: string; readonly snapshot: number };

/** How often a machine that runs is saved by itself, when something was written. */
export type EveryRequest = { readonly name: string; readonly seconds: number };

export type ResetRequest = { readonly name: string };
/** `name` twice: the confirmation. */
export type DeleteRequest = { readonly name: string; readonly confirmation: string };
/** A deleted one is brought back, by the name that it had. */
export type RestoreRequest = { readonly name: string };
/** `name`: another one when that has been given to another since. */
export type RestoreReply = { readonly name: string };
/** `here`: this machine's state goes on, the other's stays as a pinned snapshot. `both`: this machine's becomes a subscription of its own. */
export type ContinueRequest = {
  readonly name: string;
  readonly which: 'here' | 'both';
  /** With `here`: what neither the repository nor this machine can give any more is zeroes from now on. */
  readonly discard?: boolean;
};
export type ContinueReply = { readonly name: string; readonly addedName?: string };
