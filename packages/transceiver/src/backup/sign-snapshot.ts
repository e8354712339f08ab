/** The signed manifest of a snapshot that has been packed. The same snapshot and lease give the same bytes. */
import {
  PAYLOAD_TYPES,
  encodeSnapshotManifest,
  signEnvelope,
  type Digest,
  type SigningKey,
  type SnapshotManifest,
  type SnapshotReason,
} from '@collective/shared';
import type { BackupState } from './backup-file.js';
import type { SnapshotName } from './snapshot-trust.js';

/** `trace`: the chunk of its boot trace. */
type DiskState = { readonly root: Digest; readonly trace?: Digest | undefined };

export type SnapshotParts = {
  readonly state: Pick<BackupState, 'subscription' | 'disks'>;
  readonly number: number;
  readonly parent: SnapshotName | null;
  readonly createdAt: number;
  readonly reason: SnapshotReason;
  readonly lease: number;
  readonly device: Digest;
  readonly epoch: number;
  readonly writtenBy: SnapshotManifest['writtenBy'];
  /** Of the disks that this snapshot changes. */
  readonly states: ReadonlyMap<string, DiskState>;
  readonly objects: readonly number[];
};

export const manifestOf = (parts: SnapshotParts): SnapshotManifest => ({
  format: 1,
  subscription: parts.state.subscription,
  number: parts.number,
  parent: parts.parent === null ? null : { number: parts.parent.number, manifest: parts.parent.manifest },
  createdAt: parts.createdAt,
  reason: parts.reason,
  lease: parts.lease,
  device: parts.device,
  epoch: parts.epoch,
  writtenBy: parts.writtenBy,
  disks: snapshotDisks(parts.state.disks, parts.states),
  objects: [...parts.objects],
  memory: null,
});

/**
 * The disks of a snapshot: those with a new root, and those that stay as they are committed, though the version that runs has
 * them no more. One that came with a later version, and was never saved, is in none yet.
 */
export const snapshotDisks = (
  disks: BackupState['disks'],
  states: ReadonlyMap<string, DiskState> = new Map(),
): SnapshotManifest['disks'] =>
  disks.flatMap(({ name, bus, diskBytes, blockBytes, base, committed }) => {
    const state = states.get(name) ?? committed;
    if (state === null) return [];
    const { root, trace } = state;
    const traced = trace === undefined ? {} : { trace };
    return [
      { ...{ name, kind: 'user' as const, bus, diskBytes, blockBytes, root }, base: base?.root ?? null, ...traced },
    ];
  });

export const signManifest = (manifest: SnapshotManifest, device: SigningKey): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.snapshot, payload: encodeSnapshotManifest(manifest), signers: [device] });
