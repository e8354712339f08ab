/**
 * Candidates: who gets one (letters), and its promotion. Letters are files beside the manifest; the promotion is created
 * exclusively, and from that moment the version is for all, whatever crashes: row and heads follow.
 */
import { CollectiveError, publisherKeys, requireLetter } from '@collective/shared';
import { type Caller, readableAppliances } from '../caller.js';
import { latestName, letterName, lettersFolder, promotionName } from '../storage/blob-names.js';
import { type VersionRecord } from '../catalogue/catalogue.js';
import { healAppliance } from './heal-catalogue.js';
import { type Repository } from './repository.js';
import { readVersionFile } from './version-file.js';

/** Candidates of one appliance at the same time. */
const CANDIDATES_MAX = 16;
/** People who get one candidate; each is a small file. */
const LETTERS_MAX = 1_000;

export type VersionName = { readonly name: string; readonly version: number };
export type OwnCandidate = { readonly appliance: string; readonly version: number; readonly letter: string };

/** Errors: `not-found` when it is no candidate (any more). */
const candidateOf = async (repository: Repository, { name, version }: VersionName): Promise<VersionRecord> => {
  const record = await repository.catalogue.versions.version(name, version);
  if (record?.state !== 'candidate')
    throw new CollectiveError('not-found', `There is no candidate ${version} of ${name}`);
  return record;
};

/** Errors: `too-large` when there are too many; then one has to be promoted or withdrawn first. */
export const requireRoomForCandidate = async ({ catalogue, limits }: Repository, appliance: string): Promise<void> => {
  const all = await catalogue.versions.candidates();
  const own = all.filter((record) => record.appliance === appliance).length;
  if (own >= CANDIDATES_MAX)
    throw new CollectiveError('too-large', `${appliance} has ${own} candidates: promote or withdraw one first`);
  const named = all.length + (await catalogue.versions.appliances()).length;
  if (named >= limits.appliancesMax)
    throw new CollectiveError('too-large', `This repository has ${named} appliances and candidates, the most it takes`);
};

/**
 * Keeps the letter; the same one again is fine. Errors: `not-found` for no candidate, and for an account that may not use
 * the appliance, whether it exists or not; those of the letter; `too-large`.
 */
export const putLetter = async (
  repository: Repository,
  of: VersionName & { readonly account: string },
  bytes: Uint8Array,
): Promise<void> => {
  const { blobStore, catalogue, trust } = repository;
  const { name: appliance, version, account } = of;
  const keys = publisherKeys(await trust.current(), appliance);
  const { manifest } = await candidateOf(repository, of);
  requireLetter(bytes, keys, { appliance, version, manifest, account });
  const holder = await catalogue.people.account(account);
  const mayUse =
    holder?.role === 'admin' || (await catalogue.people.accessOf(account)).some(({ name }) => name === appliance);
  if (holder === undefined || !mayUse)
    throw new CollectiveError('not-found', `There is no account ${account} that may use ${appliance}`);
  await catalogue.exclusively(async () => {
    await candidateOf(repository, of);
    if ((await blobStore.list(lettersFolder(appliance, version))).length >= LETTERS_MAX)
      throw new CollectiveError('too-large', `${appliance}@${version} has ${LETTERS_MAX} letters, the most it takes`);
    await blobStore.replace(letterName(appliance, version, account), bytes);
  });
};

/** Errors: `not-found` when there is no such letter. */
export const removeLetter = async (
  repository: Repository,
  { name, version, account }: VersionName & { readonly account: string },
): Promise<void> => {
  await candidateOf(repository, { name, version });
  const file = letterName(name, version, account);
  if ((await repository.blobStore.read(file)) === undefined)
    throw new CollectiveError('not-found', `${account} was not named for ${name}@${version}`);
  await repository.blobStore.remove(file);
  await repository.blobStore.settle(file);
};

/** The accounts that have a letter, sorted. Errors: `not-found`. */
export const letterAccounts = async (repository: Repository, of: VersionName): Promise<string[]> => {
  await candidateOf(repository, of);
  return repository.blobStore.list(lettersFolder(of.name, of.version));
};

/** What the caller may take, of the appliances that they may use. */
export const ownCandidates = async (repository: Repository, caller: Caller): Promise<OwnCandidate[]> => {
  const readable = await readableAppliances(repository, caller);
  const found: OwnCandidate[] = [];
  for (const { appliance, version } of await repository.catalogue.versions.candidates()) {
    if (readable?.includes(appliance) === false) continue;
    const letter = await repository.blobStore.read(letterName(appliance, version, caller.account));
    if (letter !== undefined) found.push({ appliance, version, letter: letter.toString('base64') });
  }
  return found;
};

/** Does the caller have a letter for it? */
export const isNamed = async (
  { blobStore }: Repository,
  caller: Caller,
  { name, version }: VersionName,
): Promise<boolean> => (await blobStore.read(letterName(name, version, caller.account))) !== undefined;

/**
 * Makes it the version for all. Doing it twice is no error. Errors: `not-found`, those of the letter, `conflict` when its
 * parent is not the version for all any more.
 */
export const promoteVersion = async (repository: Repository, of: VersionName, bytes: Uint8Array): Promise<void> => {
  const { blobStore, catalogue, heads, trust } = repository;
  const { name: appliance, version } = of;
  const keys = publisherKeys(await trust.current(), appliance);
  const record = await catalogue.versions.version(appliance, version);
  const isLive = record?.state === 'live' && (await blobStore.read(promotionName(appliance, version))) !== undefined;
  if (isLive) return void (await heads.refresh());
  const { manifest } = await candidateOf(repository, of);
  requireLetter(bytes, keys, { appliance, version, manifest, account: null });
  await catalogue.exclusively(async () => {
    // A promotion whose row was not changed before a failure counts first.
    await healAppliance(repository, appliance, { mustKnowAll: true });
    if ((await catalogue.versions.version(appliance, version))?.state === 'live') {
      await heads.signIfNeeded();
      return;
    }
    await candidateOf(repository, of);
    await requireNext(repository, of);
    await blobStore.create(promotionName(appliance, version), bytes);
    await catalogue.versions.setVersionState(appliance, version, 'live', 0);
    await heads.signIfNeeded();
    await blobStore.replace(latestName(appliance), Buffer.from(`${version}\n`, 'utf8'));
  });
};

/** Made from the version for all: what it would undo is known. */
const requireNext = async (
  { blobStore, catalogue }: Repository,
  { name: appliance, version }: VersionName,
): Promise<void> => {
  const head = await catalogue.versions.head(appliance);
  const file = await readVersionFile(blobStore, appliance, version);
  if (file === undefined) throw new CollectiveError('local-io', `the manifest of ${appliance}@${version} is missing`);
  const { parent } = file.manifest;
  if (parent?.version === head?.version && parent?.manifest === head?.manifest) return;
  const made = parent === null ? 'when there was no version for all' : `from version ${parent.version}`;
  throw new CollectiveError(
    'conflict',
    `${appliance}@${version} was made ${made}, but now version ${head?.version ?? 0} is for all: it would undo what that changed`,
    { data: head === undefined ? {} : { version: head.version, manifest: head.manifest } },
  );
};
