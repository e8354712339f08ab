/**
 * Verifies everything in a repository and says precisely what is wrong: trust chain, heads, manifests with their
 * signatures and parents, every map page and chunk by payload digest and digest, whether anything that is named is
 * missing, what persons have (check-snapshots.ts), and whether the catalogue agrees. Changes nothing and may run beside the server.
 */
import {
  checkStoredChunk,
  CollectiveError,
  countValidSignatures,
  decodeChunk,
  decodeKeysFile,
  type Digest,
  followTrust,
  type Heads,
  openEnvelope,
  openFirstTrust,
  openHeads,
  PAYLOAD_TYPES,
  publisherKeys,
  sha256,
  type TrustFile,
} from '@collective/shared';
import { type Catalogue, type SizedChunk } from '../catalogue/catalogue.js';
import { HEADS, keysName, manifestName, trustName, TRUST_FOLDER } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { checkLetters } from './check-letters.js';
import { checkSnapshots } from './check-snapshots.js';
import { readKeys } from './keys-record.js';
import { type MapStore } from './map-store.js';
import { readProfile } from './profile-store.js';
import { readLocked } from './reset-account.js';
import { packedChunks } from './boot-traces.js';
import { type NamedChunk, namedChunks } from './version-chunks.js';
import {
  readStateFile,
  readVersionFile,
  storedAppliances,
  storedVersionNumbers,
  type VersionFile,
} from './version-file.js';

export type CheckParts = { readonly blobStore: BlobStore; readonly catalogue: Catalogue; readonly maps: MapStore };

export type ProblemKind =
  | 'trust'
  | 'heads'
  | 'manifest'
  | 'map'
  | 'chunk'
  | 'missing'
  | 'catalogue'
  | 'account'
  | 'subscription'
  | 'snapshot'
  | 'object'
  | 'stray';
export type Problem = {
  readonly kind: ProblemKind;
  /** Which file, version or chunk. */
  readonly name: string;
  readonly message: string;
};

export type CheckResult = {
  readonly problems: readonly Problem[];
  readonly appliances: number;
  readonly versions: number;
  readonly subscriptions: number;
  readonly snapshots: number;
  readonly chunks: number;
  readonly chunkBytes: number;
  /** Whole chunks that no version, no snapshot and no open upload names: the collector's. */
  readonly orphans: readonly Digest[];
};

export const checkRepository = async (parts: CheckParts): Promise<CheckResult> => {
  const problems: Problem[] = [];
  const report: Report = (kind, name, message) => void problems.push({ kind, name, message });
  const trusts = await checkTrust(parts.blobStore, report);
  const heads = new Map<string, VersionFile>();
  const named = new Map<Digest, NamedChunk>();
  /** Named by boot traces: hints, of which none need be there. */
  const packed = new Set<Digest>();
  let versions = 0;
  const appliances = await storedAppliances(parts.blobStore);
  for (const appliance of appliances) {
    const files = await checkAppliance(parts, appliance, { trusts, named, report });
    versions += files.length;
    for (const { file } of files)
      for (const digest of await packedChunks(parts.blobStore, file.manifest)) packed.add(digest);
    const newest = files.filter(({ isForAll }) => isForAll).at(-1)?.file;
    if (newest !== undefined) heads.set(appliance, newest);
  }
  await checkHeads(parts.blobStore, trusts, heads, report);
  await checkCatalogueRows(parts, appliances, report);
  await checkAccounts(parts, report);
  const persons = await checkSnapshots(parts, { named, report });
  const chunks = await checkChunks(parts, { named, packed, report });
  for (const name of await parts.blobStore.listStrayChunkFiles()) report('stray', name, 'is not a chunk');
  return { problems, appliances: appliances.length, versions, ...persons, ...chunks };
};

type Report = (kind: ProblemKind, name: string, message: string) => void;

const messageOf = (error: unknown): string => {
  if (error instanceof CollectiveError) return error.message;
  throw error;
};

const checkTrust = async (blobStore: BlobStore, report: Report): Promise<TrustFile[]> => {
  const trusts: TrustFile[] = [];
  try {
    const first = await blobStore.read(trustName(1));
    if (first === undefined) throw new CollectiveError('not-found', 'is missing');
    trusts.push(openFirstTrust(first, sha256(first)));
    for (;;) {
      const held = trusts.at(-1);
      const next = held === undefined ? undefined : await blobStore.read(trustName(held.number + 1));
      if (held === undefined || next === undefined) break;
      trusts.push(followTrust(held, next));
    }
  } catch (error) {
    report('trust', `trust/${trusts.length + 1}`, messageOf(error));
  }
  const expected = new Set(trusts.map(({ number }) => String(number)));
  for (const name of await blobStore.list(TRUST_FOLDER)) {
    if (!expected.has(name) && name !== String(trusts.length + 1))
      report('trust', `trust/${name}`, 'does not follow from the files before it');
  }
  return trusts;
};

const checkAppliance = async (
  parts: CheckParts,
  appliance: string,
  found: { readonly trusts: readonly TrustFile[]; readonly named: Map<Digest, NamedChunk>; readonly report: Report },
): Promise<CheckedVersion[]> => {
  const { blobStore, maps } = parts;
  const files = new Map<number, CheckedVersion>();
  for (const version of await storedVersionNumbers(blobStore, appliance)) {
    const name = `appliances/${appliance}/${version}`;
    try {
      const file = await readVersionFile(blobStore, appliance, version);
      if (file === undefined) continue;
      if (file.manifest.appliance !== appliance || file.manifest.version !== version) {
        throw new CollectiveError('malformed', `says that it is ${file.manifest.appliance}@${file.manifest.version}`);
      }
      checkSignature(file, found.trusts, name, found.report);
      const isForAll = await checkLetters(blobStore, file, found.trusts, (letter, message) =>
        found.report('manifest', letter, message),
      );
      files.set(version, { file, isForAll });
      checkParent({ file, isForAll }, files, name, found.report);
    } catch (error) {
      found.report('manifest', `${name}/manifest`, messageOf(error));
      continue;
    }
    await checkNamed(parts, appliance, version, { file: files.get(version)?.file, maps, ...found });
  }
  return [...files.values()];
};

const checkSignature = (file: VersionFile, trusts: readonly TrustFile[], name: string, report: Report): void => {
  const envelope = openEnvelope(file.bytes, { payloadType: PAYLOAD_TYPES.version });
  const keys = trusts.flatMap((trust) => publisherKeys(trust, file.manifest.appliance));
  if (countValidSignatures(envelope, keys).length === 0) {
    report('manifest', `${name}/manifest`, 'is signed by no key that a trust file has ever allowed for this appliance');
  }
};

type CheckedVersion = { readonly file: VersionFile; readonly isForAll: boolean };

/**
 * The files before it are in the map: versions come in ascending order. A version for all follows the one for all before it;
 * a candidate that is left behind follows an earlier one.
 */
const checkParent = (
  { file, isForAll }: CheckedVersion,
  before: ReadonlyMap<number, CheckedVersion>,
  name: string,
  report: Report,
): void => {
  const { parent, version } = file.manifest;
  const older = [...before].filter(([number, other]) => number < version && other.isForAll).at(-1)?.[0];
  if (parent === null) {
    if (isForAll && older !== undefined)
      report('manifest', `${name}/manifest`, `names no parent, but there is version ${older}`);
    return;
  }
  const found = before.get(parent.version)?.file;
  if (found === undefined)
    report('manifest', `${name}/manifest`, `its parent, version ${parent.version}, is missing or damaged`);
  else if (found.digest !== parent.manifest) {
    report(
      'manifest',
      `${name}/manifest`,
      `names the parent ${parent.manifest}, but version ${parent.version} is ${found.digest}`,
    );
  } else if (isForAll && older !== parent.version)
    report('manifest', `${name}/manifest`, `follows version ${parent.version}, but there is version ${older}`);
};

const checkNamed = async (
  { blobStore, catalogue }: CheckParts,
  appliance: string,
  version: number,
  found: {
    readonly file: VersionFile | undefined;
    readonly maps: MapStore;
    readonly named: Map<Digest, NamedChunk>;
    readonly report: Report;
  },
): Promise<void> => {
  const { state } = await readStateFile(blobStore, appliance, version);
  if (found.file === undefined || state === 'forgotten') return;
  try {
    const named = await namedChunks(found.file.manifest, found.maps);
    for (const [digest, chunk] of named) found.named.set(digest, chunk);
    const live = await catalogue.versions.liveChunks(named.keys(), [appliance]);
    const unknown = named.size - live.size;
    if (unknown > 0)
      found.report(
        'catalogue',
        `${appliance}@${version}`,
        `${unknown} of its ${named.size} chunks are not in the catalogue`,
      );
  } catch (error) {
    found.report('map', `${appliance}@${version}`, messageOf(error));
  }
};

const checkHeads = async (
  blobStore: BlobStore,
  trusts: readonly TrustFile[],
  newest: ReadonlyMap<string, VersionFile>,
  report: Report,
): Promise<void> => {
  const trust = trusts.at(-1);
  const bytes = await blobStore.read(HEADS);
  if (bytes === undefined) return report('heads', 'heads', 'is missing');
  if (trust === undefined) return;
  let heads: Heads;
  try {
    heads = openHeads(bytes, trust);
  } catch (error) {
    return report('heads', 'heads', messageOf(error));
  }
  if (heads.trust !== trust.number)
    report('heads', 'heads', `names trust/${heads.trust}, the newest is trust/${trust.number}`);
  const announced = new Map(heads.heads.map((head) => [head.appliance, head]));
  for (const [appliance, file] of newest) {
    const head = announced.get(appliance);
    if (head?.version !== file.manifest.version || head.manifest !== file.digest) {
      report(
        'heads',
        'heads',
        `names ${appliance}@${head?.version ?? 'nothing'}, the newest for all is ${file.manifest.version} (${file.digest})`,
      );
    }
  }
  for (const appliance of announced.keys()) {
    if (!newest.has(appliance)) report('heads', 'heads', `names ${appliance}, which has no readable version`);
  }
};

const checkCatalogueRows = async (
  { blobStore, catalogue }: CheckParts,
  stored: readonly string[],
  report: Report,
): Promise<void> => {
  for (const appliance of new Set([...stored, ...(await catalogue.versions.appliances())])) {
    const rows = new Map((await catalogue.versions.versions(appliance)).map((record) => [record.version, record]));
    for (const version of await storedVersionNumbers(blobStore, appliance)) {
      const bytes = await blobStore.read(manifestName(appliance, version));
      const row = rows.get(version);
      rows.delete(version);
      if (bytes === undefined) {
        if (row !== undefined) report('manifest', `appliances/${appliance}/${version}/manifest`, 'is missing');
      } else if (row === undefined) {
        report('catalogue', `${appliance}@${version}`, 'is not in the catalogue (a start of the server puts it there)');
      } else if (row.manifest !== sha256(bytes)) {
        report(
          'manifest',
          `appliances/${appliance}/${version}/manifest`,
          `has the digest ${sha256(bytes)}, the catalogue says ${row.manifest}`,
        );
      }
    }
    for (const version of rows.keys()) report('manifest', `appliances/${appliance}/${version}/manifest`, 'is missing');
  }
};

const checkAccounts = async ({ blobStore, catalogue }: CheckParts, report: Report): Promise<void> => {
  for (const account of await catalogue.people.accounts()) {
    const { name } = account;
    try {
      const bytes = await blobStore.read(keysName(name));
      if (bytes === undefined) throw new CollectiveError('not-found', 'is missing');
      decodeKeysFile(bytes);
    } catch (error) {
      report('account', `users/${name}/keys.json`, messageOf(error));
      continue;
    }
    for (const [file, read] of [
      ['keys-record.json', readKeys],
      ['profile', readProfile],
      ['locked', readLocked],
    ] as const) {
      await read(blobStore, account).catch((error: unknown) =>
        report('account', `users/${name}/${file}`, messageOf(error)),
      );
    }
  }
};

type ChunkTotals = { readonly chunks: number; readonly chunkBytes: number; readonly orphans: readonly Digest[] };

const checkChunks = async (
  { blobStore, catalogue }: CheckParts,
  {
    named,
    packed,
    report,
  }: {
    readonly named: ReadonlyMap<Digest, NamedChunk>;
    readonly packed: ReadonlySet<Digest>;
    readonly report: Report;
  },
): Promise<ChunkTotals> => {
  const missing = new Set(named.keys());
  const unnamed: Digest[] = [];
  let chunks = 0;
  let chunkBytes = 0;
  for await (const { digest, chunkBytes: fileBytes } of blobStore.listChunks()) {
    chunks += 1;
    chunkBytes += fileBytes;
    missing.delete(digest);
    const owner = named.get(digest);
    try {
      const chunk = await blobStore.readChunk(digest);
      if (chunk === undefined) continue;
      checkChunk(chunk, digest, owner);
      if (owner === undefined && !packed.has(digest)) unnamed.push(digest);
    } catch (error) {
      report(
        'chunk',
        digest,
        `${messageOf(error)} (${owner === undefined ? 'named by nothing' : `disk ${owner.disk}`})`,
      );
    }
  }
  for (const digest of missing) {
    const owner = named.get(digest);
    report('missing', digest, `is named by disk ${owner?.disk ?? '?'}, but there is no such chunk`);
  }
  const reserved = await catalogue.uploads.reservedChunks(unnamed);
  return { chunks, chunkBytes, orphans: unnamed.filter((digest) => !reserved.has(digest)) };
};

const checkChunk = (chunk: Buffer, digest: Digest, owner: NamedChunk | undefined): void => {
  const { plainBytes }: Pick<SizedChunk, 'plainBytes'> = checkStoredChunk(chunk);
  decodeChunk(chunk, { digest, plainBytesMax: plainBytes });
  if (owner?.blockBytes !== undefined && owner.blockBytes !== plainBytes) {
    throw new CollectiveError(
      'malformed',
      `has a block of ${plainBytes} bytes, its disk has blocks of ${owner.blockBytes}`,
    );
  }
};
