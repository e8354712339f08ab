/** What `check` asks of a version that was made as a candidate: its letters and its promotion are signed and are its own. */
import { CollectiveError, publisherKeys, requireLetter, type TrustFile } from '@collective/shared';
import { letterName, lettersFolder, promotionName, type BlobName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { type VersionFile } from './version-file.js';

/** Whether the version is for all. `report` gets a file's name and what is wrong with it. */
export const checkLetters = async (
  blobStore: BlobStore,
  { manifest, digest }: VersionFile,
  trusts: readonly TrustFile[],
  report: (name: string, message: string) => void,
): Promise<boolean> => {
  const { appliance, version } = manifest;
  const keys = trusts.flatMap((trust) => publisherKeys(trust, appliance));
  const check = (name: BlobName, bytes: Buffer, account: string | null): void => {
    try {
      requireLetter(bytes, keys, { appliance, version, manifest: digest, account });
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      report(name, error.message);
    }
  };
  const promotion = await blobStore.read(promotionName(appliance, version));
  if (promotion !== undefined) check(promotionName(appliance, version), promotion, null);
  for (const account of await blobStore.list(lettersFolder(appliance, version))) {
    const bytes = await blobStore.read(letterName(appliance, version, account));
    if (bytes !== undefined) check(letterName(appliance, version, account), bytes, account);
  }
  return manifest.candidate !== true || promotion !== undefined;
};
