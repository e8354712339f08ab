/**
 * The commit of a version. Everything is checked first; then, under the lock, the head is compared and the manifest
 * created exclusively: from that moment the version exists, whatever crashes. Rows, live-chunk index and heads follow and
 * are made good at the next start if they did not.
 */
import {
  CollectiveError,
  countValidSignatures,
  decodeVersionManifest,
  type Digest,
  type Envelope,
  keyId,
  openEnvelope,
  PAYLOAD_TYPES,
  publisherKeys,
  type VersionManifest,
} from '@collective/shared';
import { type SizedChunk, type Upload, type VersionRecord } from '../catalogue/catalogue.js';
import { latestName, manifestName } from '../storage/blob-names.js';
import { requireRoomForCandidate } from './candidates.js';
import { healAppliance, indexVersion } from './heal-catalogue.js';
import { grantToMaker } from './maker.js';
import { type Repository } from './repository.js';
import { readVersionFile } from './version-file.js';
import { type NamedChunk, namedChunks } from './version-chunks.js';

export type CommittedVersion = { readonly version: number; readonly manifest: Digest };

/**
 * Makes the manifest in `bytes` the next version; the same bytes again give the same answer. Errors: those of the
 * formats, `bad-signature`, `untrusted`, `bad-request`, `block-missing`, `conflict` (data: version and manifest of the
 * head that was faster). When it throws, there is no new version, unless the error is `internal`, `local-io` or
 * `disk-full`: then asking again with the same bytes tells.
 */
export const commitVersion = async (
  repository: Repository,
  upload: Upload,
  readable: readonly string[] | undefined,
  bytes: Uint8Array,
): Promise<CommittedVersion> => {
  const { catalogue, blobStore, heads } = repository;
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
  const manifest = await verifiedManifest(repository, upload, envelope);
  const committed = { version: manifest.version, manifest: envelope.digest };
  if (upload.committed !== undefined && upload.committed.manifest !== envelope.digest) {
    throw new CollectiveError('conflict', `this upload has become version ${upload.committed.version}`, {
      data: { ...upload.committed },
    });
  }
  if (await isCommitted(repository, upload, committed)) {
    // What the first attempt may not have come to: whatever is acknowledged is in the heads.
    await heads.refresh();
    return committed;
  }

  const before = await catalogue.versions.collectionNumber();
  await checkDisks(repository, upload, manifest);
  let chunks = await presentChunks(repository, upload, readable, manifest);
  return catalogue.exclusively(async () => {
    // A manifest that is there and cannot be taken in, because it is damaged or a sync failed, may be this very one: then
    // this is not refused, only not known yet, and nothing may follow a history that is not known.
    await healAppliance(repository, upload.appliance, { mustKnowAll: true });
    if (await isCommitted(repository, upload, committed)) {
      await heads.signIfNeeded();
      return committed;
    }
    await checkHead(repository, manifest);
    await requireMaker(repository, upload);
    if (manifest.candidate === true) await requireRoomForCandidate(repository, upload.appliance);
    if ((await catalogue.versions.collectionNumber()) !== before) {
      chunks = await presentChunks(repository, upload, readable, manifest);
    }
    if (!(await blobStore.create(manifestName(upload.appliance, manifest.version), bytes))) {
      throw new CollectiveError('conflict', `there is a version ${manifest.version} of ${upload.appliance} already`, {
        data: { version: manifest.version },
      });
    }
    await afterManifest(repository, upload, { manifest, envelope, committed, chunks });
    return committed;
  });
};

/** All that can be made good after a crash. */
const afterManifest = async (
  repository: Repository,
  upload: Upload,
  version: {
    readonly manifest: VersionManifest;
    readonly envelope: Envelope;
    readonly committed: CommittedVersion;
    readonly chunks: readonly SizedChunk[];
  },
): Promise<void> => {
  const { catalogue, blobStore, heads } = repository;
  const { manifest, envelope, committed, chunks } = version;
  const record: VersionRecord = {
    appliance: upload.appliance,
    version: committed.version,
    manifest: committed.manifest,
    createdAt: manifest.createdAt,
    title: manifest.title,
    chunkBytes: 0,
    state: manifest.candidate === true ? 'candidate' : 'live',
    stateSince: 0,
    indexed: false,
  };
  await grantToMaker(catalogue, upload, envelope);
  await catalogue.versions.recordVersion(record);
  await indexVersion(catalogue, record, chunks);
  await catalogue.uploads.markCommitted(upload.id, committed);
  await heads.signIfNeeded();
  if (manifest.candidate === true) return;
  await blobStore.replace(latestName(upload.appliance), Buffer.from(`${committed.version}\n`, 'utf8'));
};

/** While a new appliance was being sent, somebody else may have made a candidate of that name. */
const requireMaker = async ({ catalogue }: Repository, upload: Upload): Promise<void> => {
  if (upload.parent !== undefined || (await catalogue.versions.lastNumber(upload.appliance)) === undefined) return;
  const account = await catalogue.people.account(upload.account);
  const access = (await catalogue.people.accessOf(upload.account)).find(({ name }) => name === upload.appliance);
  if (account?.role === 'admin' || access?.access === 'publish') return;
  throw new CollectiveError('conflict', `${upload.appliance} has been made by somebody else meanwhile`);
};

/** Was this very manifest committed before: the answer got lost, or a crash came after the manifest. */
const isCommitted = async (repository: Repository, upload: Upload, committed: CommittedVersion): Promise<boolean> => {
  const { versions, uploads } = repository.catalogue;
  const there = await versions.version(upload.appliance, committed.version);
  if (there?.manifest !== committed.manifest) return false;
  await uploads.markCommitted(upload.id, committed);
  return true;
};

const verifiedManifest = async (
  repository: Repository,
  upload: Upload,
  envelope: Envelope,
): Promise<VersionManifest> => {
  const trust = await repository.trust.current();
  const keys = publisherKeys(trust, upload.appliance);
  if (countValidSignatures(envelope, keys).length === 0) {
    const ids = new Set(keys.map(keyId));
    const isKnownKey = envelope.signatures.some(({ keyid }) => ids.has(keyid));
    throw isKnownKey
      ? new CollectiveError('bad-signature', `the manifest's signature does not match (trust/${trust.number})`)
      : new CollectiveError(
          'untrusted',
          `trust/${trust.number} does not let the signing key publish ${upload.appliance}`,
        );
  }
  const manifest = decodeVersionManifest(envelope.payload);
  if (manifest.appliance !== upload.appliance) {
    throw new CollectiveError(
      'bad-request',
      `the manifest is of ${manifest.appliance}, the upload of ${upload.appliance}`,
    );
  }
  return manifest;
};

const checkHead = async ({ catalogue }: Repository, manifest: VersionManifest): Promise<void> => {
  const head = await catalogue.versions.head(manifest.appliance);
  const last = await catalogue.versions.lastNumber(manifest.appliance);
  const isAfterHead =
    head === undefined
      ? manifest.parent === null
      : manifest.parent?.version === head.version && manifest.parent.manifest === head.manifest;
  if (isAfterHead && manifest.version > (last ?? 0)) return;
  const parent = manifest.parent === null ? 'no version' : `version ${manifest.parent.version}`;
  const found =
    head === undefined ? 'there is no version for all yet' : `the newest is version ${head.version} (${head.manifest})`;
  const taken = last === undefined || last === head?.version ? '' : `, and numbers up to ${last} are taken`;
  throw new CollectiveError(
    'conflict',
    `${manifest.appliance}: version ${manifest.version} follows ${parent}, but ${found}${taken}`,
    {
      data: head === undefined ? {} : { version: head.version, manifest: head.manifest },
    },
  );
};

/** Each root is one that this session rebuilt, or the parent's for a disk that did not change. */
const checkDisks = async (repository: Repository, upload: Upload, manifest: VersionManifest): Promise<void> => {
  const rebuilt = new Map((await repository.catalogue.uploads.uploadDisks(upload.id)).map((disk) => [disk.disk, disk]));
  const parent =
    manifest.parent === null
      ? undefined
      : await readVersionFile(repository.blobStore, upload.appliance, manifest.parent.version);
  for (const disk of manifest.disks) {
    if (disk.root === null) continue;
    repository.maps.checkShape(disk);
    const mine = rebuilt.get(disk.name);
    const known = [mine, ...(parent?.manifest.disks ?? [])];
    const isSame = known.some(
      (other) =>
        other?.root === disk.root && other.diskBytes === disk.diskBytes && other.blockBytes === disk.blockBytes,
    );
    if (isSame) continue;
    const found = mine === undefined ? 'was not uploaded' : `has the root ${mine.root} and ${mine.diskBytes} bytes`;
    throw new CollectiveError(
      'digest-mismatch',
      `disk ${disk.name}: signed is ${disk.root}, what the server rebuilt ${found}`,
    );
  }
};

/** Every chunk that the version names, with its size. Errors: `block-missing`, and `bad-request` for a wrong length. */
const presentChunks = async (
  { catalogue, maps }: Repository,
  upload: Upload,
  readable: readonly string[] | undefined,
  manifest: VersionManifest,
): Promise<SizedChunk[]> => {
  const named = await namedChunks(manifest, maps);
  const owned = await catalogue.uploads.ownedChunks(upload.id, named.keys());
  const live = await catalogue.versions.liveChunks(named.keys(), readable);
  const missing: NamedChunk[] = [];
  const present: SizedChunk[] = [];
  for (const chunk of named.values()) {
    const found = owned.get(chunk.digest) ?? live.get(chunk.digest);
    if (found === undefined) {
      missing.push(chunk);
      continue;
    }
    if (chunk.blockBytes !== undefined && found.plainBytes !== chunk.blockBytes) {
      throw new CollectiveError(
        'bad-request',
        `disk ${chunk.disk}: block ${chunk.digest} has ${found.plainBytes} bytes, not ${chunk.blockBytes}`,
      );
    }
    present.push(found);
  }
  const [first] = missing;
  if (first !== undefined) {
    throw new CollectiveError(
      'block-missing',
      `${missing.length} chunks are missing, the first is ${first.digest} (disk ${first.disk})`,
      {
        data: { digest: first.digest, missing: missing.length },
      },
    );
  }
  return present;
};
