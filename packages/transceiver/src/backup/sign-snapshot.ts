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
  readonly roots: ReadonlyMap<string, Digest>;
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
  disks: parts.state.disks.map(({ name, bus, diskBytes, blockBytes, base }) => ({
    ...{ name, kind: 'user' as const, bus, diskBytes, blockBytes },
    root: parts.roots.get(name) ?? null,
    base: base?.root ?? null,
  })),
  objects: [...parts.objects],
  memory: null,
});

export const signManifest = (manifest: SnapshotManifest, device: SigningKey): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.snapshot, payload: encodeSnapshotManifest(manifest), signers: [device] });
