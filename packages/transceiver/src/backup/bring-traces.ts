/**
 * The boot traces that a snapshot brings (docs/formats/trace.md, "Private trace"): fetched from its objects, opened with the person's keys, and kept
 * where the next start replays them. They only help: without one, or with a wrong one, everything goes on.
 */
import { decodeTraceChunk, type BootTrace, type SnapshotManifest } from '@collective/shared';
import type { BackupPerson } from './backup-person.js';
import type { SnapshotObjects } from './snapshot-objects.js';
import { planTrace } from './trace-plan.js';

/** For longer nobody waits. */
const WAIT_MS = 3_000;

/** Boot traces of one machine's user disks, at rest on this transceiver. */
export interface PrivateTraces {
  /** What the last boot here touched, or the last one elsewhere; undefined: nothing that can be read. Never fails. */
  read(disk: string): Promise<BootTrace | undefined>;
  /** In the place of what is there, sealed. Errors: `wrong-key`, `disk-full`, `local-io`. */
  write(disk: string, trace: BootTrace): Promise<void>;
  /** One could not be brought; nothing else happens. */
  onFailed(error: unknown): void;
}

/** `manifest` has been verified. Fails only when `signal` aborts. */
export async function bringTraces(
  { disks, objects: numbers }: Pick<SnapshotManifest, 'disks' | 'objects'>,
  objects: Pick<SnapshotObjects, 'chunks'>,
  parts: {
    readonly person: Pick<BackupPerson, 'packKeys' | 'epochKeys'>;
    readonly traces?: PrivateTraces;
    readonly signal?: AbortSignal;
  },
): Promise<void> {
  const { person, traces, signal } = parts;
  if (traces === undefined) return;
  try {
    const wanted = new Map<string, (typeof disks)[number]>();
    for (const disk of disks) {
      const { name, trace: committed } = disk;
      if (committed === undefined) continue;
      const known = { committed, local: await traces.read(name) };
      const { nameKeys } = person.packKeys;
      const isHere =
        known.local !== undefined &&
        planTrace(known, { nameKeys, mustResend: false, isEmpty: false }).send === undefined;
      if (!isHere) wanted.set(committed, disk);
    }
    const inTime = AbortSignal.any([AbortSignal.timeout(WAIT_MS), ...(signal === undefined ? [] : [signal])]);
    const digests = [...wanted.values()].flatMap(({ trace }) => (trace === undefined ? [] : [trace]));
    for await (const [digest, chunk] of objects.chunks(digests, numbers, inTime)) {
      const disk = wanted.get(digest);
      if (disk === undefined) continue;
      // Each by itself: one that is damaged keeps no other away.
      try {
        const trace = decodeTraceChunk(chunk, { digest, keysOf: (epoch) => person.epochKeys(epoch) });
        await traces.write(disk.name, trace);
      } catch (error) {
        traces.onFailed(error);
      }
    }
  } catch (error) {
    signal?.throwIfAborted();
    traces.onFailed(error);
  }
}
