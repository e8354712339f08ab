/** A version as it can be run or exported: its manifest verified, the maps of all its disks at hand and verified. */
import type { VersionManifest } from '@collective/shared';
import { loadDiskMap } from './disk-maps.js';
import type { PlannedDisk } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import type { Session } from './session.js';
import type { VerifiedVersion } from './trust-client.js';

export type RunnableVersion = { readonly verified: VerifiedVersion; readonly disks: readonly PlannedDisk[] };

/** The newest one unless a version is named; of what is here already when not online. Errors: those of TrustClient and loadDiskMap. */
export async function runnableVersion(
  wanted: {
    readonly name: string;
    readonly version?: number;
    readonly isOnline: boolean;
    /** The version is a candidate, and who wants it publishes the appliance. */
    readonly asPublisher?: true;
  },
  options: {
    readonly session: Session;
    readonly objects: ObjectCache;
    readonly signal: AbortSignal;
    /** Before the maps are asked for. */
    readonly onVerified?: (manifest: VersionManifest) => void;
  },
): Promise<RunnableVersion> {
  const { name, version, isOnline } = wanted;
  const { session, objects, signal } = options;
  const source = isOnline ? session.source(signal) : undefined;
  const verified =
    version === undefined
      ? await session.trust.newest(name, source)
      : wanted.asPublisher === true
        ? await session.trust.candidateAsPublisher(name, version, source)
        : await session.trust.version(name, version, source);
  const { manifest } = verified;
  options.onVerified?.(manifest);
  const client = isOnline ? session.client : undefined;
  const disks = await Promise.all(
    manifest.disks.map(async (description): Promise<PlannedDisk> => {
      const map = await loadDiskMap({ manifest, disk: description, objects, client, signal });
      return { description, map };
    }),
  );
  return { verified, disks };
}
