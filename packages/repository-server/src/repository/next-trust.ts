/** Signs trust/n + 1 with the root keys, and the heads that name it. */
import {
  CollectiveError,
  encodeTrustFile,
  keyId,
  PAYLOAD_TYPES,
  signEnvelope,
  type TrustFile,
} from '@collective/shared';
import { trustName } from '../storage/blob-names.js';
import { type Repository } from './repository.js';
import { readRootKeys } from './root-keys.js';

/**
 * Adds the next trust file. `change` gets the newest one and gives the fields that differ. Errors: `not-allowed` when
 * the folder lacks root keys, `conflict` when another process was faster, and what `change` throws.
 */
export const signNextTrust = async (
  repository: Repository,
  rootKeysFolder: string,
  change: (trust: TrustFile) => Partial<TrustFile>,
): Promise<TrustFile> => {
  const { catalogue, blobStore, trust, clock, heads } = repository;
  return catalogue.exclusively(async () => {
    const old = await trust.current();
    const next: TrustFile = { ...old, ...change(old), number: old.number + 1, createdAt: clock.nowSeconds() };
    const signers = await readRootKeys(rootKeysFolder, old);
    const bytes = signEnvelope({ payloadType: PAYLOAD_TYPES.trust, payload: encodeTrustFile(next), signers });
    if (!(await blobStore.create(trustName(next.number), bytes))) {
      throw new CollectiveError('conflict', `trust/${next.number} exists already`);
    }
    const current = await trust.current();
    await heads.signIfNeeded();
    return current;
  });
};

/** The publisher's key may sign versions of these appliances from now on; what it may sign already stays. */
export const allowPublisher = (
  trust: TrustFile,
  publisher: { readonly name: string; readonly key: string; readonly appliances: readonly string[] },
): Partial<TrustFile> => {
  const old = trust.publishers.find(({ key }) => key === publisher.key);
  const all = [...new Set([...(old?.appliances ?? []), ...publisher.appliances])].sort();
  const appliances = all.includes('*') ? ['*'] : all;
  const others = trust.publishers.filter(({ key }) => key !== publisher.key);
  return { publishers: [...others, { name: publisher.name, key: publisher.key, appliances }] };
};

/** `key`: the public key or its keyid. Errors: `not-found`. */
export const revokePublisher = (trust: TrustFile, key: string): Partial<TrustFile> => {
  const publishers = trust.publishers.filter((publisher) => publisher.key !== key && keyId(publisher.key) !== key);
  if (publishers.length === trust.publishers.length) {
    throw new CollectiveError('not-found', `trust/${trust.number} names no publishing key ${key}`);
  }
  return { publishers };
};
