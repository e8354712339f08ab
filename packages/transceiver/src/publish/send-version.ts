/**
 * The steps that every publish shares, whatever the new content comes from: send what the repository lacks, boot the result
 * once, sign, commit, and name people for a candidate.
 */
import {
  CollectiveError,
  DiskMap,
  PAYLOAD_TYPES,
  encodeChangedPairs,
  encodeVersionManifest,
  hasCode,
  signEnvelope,
  signLetter,
  type ChangedPairs,
  type Digest,
  type DiskDescription,
  type SigningKey,
  type VersionManifest,
} from '@collective/shared';
import type { JobContext } from '../agent/agent-server.js';
import { loadDiskMap } from '../agent/disk-maps.js';
import type { MachinePort, PlannedDisk } from '../agent/machine-port.js';
import type { ObjectCache } from '../agent/object-cache.js';
import type { Session } from '../agent/session.js';
import type { VerifiedVersion } from '../agent/trust-client.js';
import type { Home } from '../home.js';
import { commitManifest } from './commit-manifest.js';
import type { ByteSource } from './image-bytes.js';
import { uploadBlocks } from './upload.js';
import type { BlockList } from './upload-plan.js';
import type { VersionDraft } from './version-draft.js';
import type { WorkPool } from './work-pool.js';

export type PublishParts = {
  readonly session: Session;
  readonly home: Pick<Home, 'uploadsDirectory'>;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'bootTest'>;
  readonly job: JobContext;
};

const BOOT_TIMEOUT_MS = 300_000;
/** No more numbers than these are believed to have been used up by candidates: one that is given away cannot be got back. */
const NUMBERS_SKIPPED_MAX = 10_000;

/** A disk with new content: its map, what changed, and where its bytes are read. */
export type NewContent = {
  readonly description: DiskDescription;
  readonly source: ByteSource;
  readonly map: DiskMap;
  readonly pages: ReadonlyMap<Digest, Buffer>;
  readonly since: number | 'none';
  readonly changes: ChangedPairs;
  readonly blocks: BlockList;
};

export type NewVersion = {
  readonly name: string;
  readonly version: number;
  readonly draft: VersionDraft;
  /** The version for all, which it follows. */
  readonly parent: Pick<VerifiedVersion, 'manifest' | 'digest'> | undefined;
  /** Where the disks come from that have no new content. */
  readonly base: VerifiedVersion | undefined;
  readonly contents: readonly NewContent[];
  readonly isCandidate: boolean;
};

/** Boot traces (docs/formats/trace.md) by disk. */
export type Traces = ReadonlyMap<string, Buffer>;

export type BootOptions = { readonly bootText?: string; readonly bootTimeoutMs?: number };

/** What it touched of each system disk. Errors: `no-boot`. */
export async function bootOnce(version: NewVersion, request: BootOptions, parts: PublishParts): Promise<Traces> {
  const { draft, base, contents } = version;
  const { job, machines, session, objects } = parts;
  job.emit({ event: 'progress', step: 'boot', text: 'Booting it once, in overlays that are thrown away' });
  const disks: PlannedDisk[] = [];
  for (const { description } of draft.disks) {
    const content = contents.find((candidate) => candidate.description.name === description.name);
    if (content !== undefined) disks.push({ description: content.description, map: content.map });
    else if (base === undefined || description.root === null)
      disks.push({ description, map: DiskMap.empty(description) });
    else
      disks.push({
        description,
        map: await loadDiskMap({
          manifest: base.manifest,
          disk: description,
          objects,
          client: session.client,
          signal: job.signal,
        }),
      });
  }
  const traces = await machines.bootTest({
    name: version.name,
    version: version.version,
    machine: draft.machine,
    disks,
    blocks: session.client.address,
    ...(request.bootText === undefined ? {} : { text: request.bootText }),
    timeoutMs: request.bootTimeoutMs ?? BOOT_TIMEOUT_MS,
    signal: job.signal,
  });
  job.emit({ event: 'note', text: 'It boots.' });
  return traces;
}

export async function sendContents(
  upload: string,
  contents: readonly NewContent[],
  context: { readonly parts: PublishParts; readonly pool: WorkPool },
): Promise<void> {
  const { session, job } = context.parts;
  const total = sum(contents, ({ blocks }) => blocks.blockIndexes.length);
  let done = 0;
  for (const { description, source, blocks } of contents) {
    await uploadBlocks(
      upload,
      { source, blockBytes: description.blockBytes, blocks },
      {
        client: session.client,
        pool: context.pool,
        signal: job.signal,
        onProgress: (there) =>
          job.emit({
            event: 'progress',
            step: 'upload',
            text: 'Sending what the repository lacks',
            done: done + there,
            total,
          }),
      },
    );
    done += blocks.blockIndexes.length;
  }
  for (const { description, changes, since } of contents) {
    const { root } = await session.client.call('uploadDisk', {
      params: { upload, disk: description.name },
      query: { since: String(since) },
      body: encodeChangedPairs(changes),
      signal: job.signal,
    });
    if (root !== description.root) {
      throw new CollectiveError(
        'digest-mismatch',
        `The repository built the map ${root} for disk ${description.name}, this machine ${String(description.root)}.`,
      );
    }
  }
}

/** Errors: those of the commit, see commit-manifest.ts. */
export async function commitVersion(
  upload: string,
  version: NewVersion,
  by: { readonly key: SigningKey; readonly session: Session; readonly signal: AbortSignal },
): Promise<{ readonly version: number; readonly manifest: Digest }> {
  const { draft, parent, contents } = version;
  const manifest: VersionManifest = {
    format: 1,
    appliance: version.name,
    version: version.version,
    parent: parent === undefined ? null : { version: parent.manifest.version, manifest: parent.digest },
    createdAt: Math.floor(Date.now() / 1000),
    ...(version.isCandidate ? { candidate: true as const } : {}),
    title: draft.title,
    notes: draft.notes,
    machine: draft.machine,
    disks: draft.disks.map(
      ({ description }) =>
        contents.find((content) => content.description.name === description.name)?.description ?? description,
    ),
  };
  const envelope = signEnvelope({
    payloadType: PAYLOAD_TYPES.version,
    payload: encodeVersionManifest(manifest),
    signers: [by.key],
  });
  const { session, signal } = by;
  return commitManifest(
    upload,
    { name: manifest.appliance, version: manifest.version, envelope },
    { client: session.client, refresh: async (during) => session.refresh(during), trust: session.trust, signal },
  );
}

/** Lets each account take the candidate. Errors: `not-found` for one that may not use the appliance, `not-allowed`. */
export async function nameAccounts(
  candidate: { readonly appliance: string; readonly version: number; readonly manifest: Digest },
  accounts: readonly string[],
  by: { readonly key: SigningKey; readonly session: Session; readonly signal: AbortSignal },
): Promise<void> {
  const { appliance, version } = candidate;
  for (const account of accounts) {
    await by.session.client.call('putLetter', {
      params: { name: appliance, version, account },
      body: signLetter({ ...candidate, account }, by.key),
      signal: by.signal,
    });
  }
}

/** The number that the repository gives, when it is one to believe. Errors: `untrusted`. */
export function checkNextVersion(name: string, version: number, parent: number | undefined): number {
  const known = parent ?? 0;
  if (version > known && version <= known + NUMBERS_SKIPPED_MAX) return version;
  throw new CollectiveError(
    'untrusted',
    `The repository says that the next version of ${name} is ${String(version)}, after ${String(known)}: that cannot be.`,
  );
}

export const explainConflict =
  (name: string) =>
  (error: unknown): never => {
    if (!hasCode(error, 'conflict')) throw error;
    throw new CollectiveError(
      'conflict',
      `Another version of ${name} has been made in the meantime (${error.message}). Nothing of yours was published. Look at it (collective appliances), then publish again: what was sent already is not sent again.`,
      { cause: error },
    );
  };

export const sum = <T>(items: readonly T[], of: (item: T) => number): number =>
  items.reduce((total, item) => total + of(item), 0);
