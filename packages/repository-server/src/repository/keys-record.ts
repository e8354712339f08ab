/**
 * What opens a person's secret now. A password change touches two stores, the keys file and the login secret in the
 * catalogue, and must be one step whenever the power goes. So the new keys are written aside first, as a *record* that
 * names the login secret with which they count; the catalogue's row is the commit; `keys.json` follows. A record that
 * names another login secret than the catalogue has never happened. A change that leaves the password alone is
 * committed by the record itself.
 */
import { Type } from '@collective/schema';
import {
  CollectiveError,
  decodeKeysFile,
  type Digest,
  digestField,
  documentCodec,
  encodeKeysFile,
  type KeysFile,
  keysFileSchema,
  nullable,
  secondsField,
  strictObject,
} from '@collective/shared';
import { type Account } from '../catalogue/catalogue.js';
import { keysName, keysRecordName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';

const RECORD_BYTES_MAX = 8_192;

const codec = documentCodec(
  strictObject({
    format: Type.Literal(1),
    /** SHA-256 of the login secret with which these keys count. */
    loginSecretHash: digestField,
    /** When the password was changed last. */
    passwordChangedAt: secondsField,
    /** SHA-256 of what shows that the recovery code is at hand; null: there is no code, or one of before there were records. */
    recoverySecretHash: nullable(digestField),
    keys: keysFileSchema,
  }),
  { what: 'keys record', bytesMax: RECORD_BYTES_MAX },
);

export type PersonsKeys = {
  readonly keys: KeysFile;
  readonly passwordChangedAt: number;
  readonly recoverySecretHash: Digest | null;
};

export type NextKeys = PersonsKeys & { readonly loginSecretHash: Digest };

/** Errors: `internal` when there are none; those of the formats when they are damaged. */
export const readKeys = async (blobStore: BlobStore, account: Account): Promise<PersonsKeys> => {
  const bytes = await blobStore.read(keysRecordName(account.name));
  const record = bytes === undefined ? undefined : codec.decode(bytes);
  if (record?.loginSecretHash === account.loginSecretHash) return record;
  const keys = await blobStore.read(keysName(account.name));
  if (keys === undefined) throw new CollectiveError('internal', `the keys file of ${account.name} is missing`);
  return { keys: decodeKeysFile(keys), passwordChangedAt: account.createdAt, recoverySecretHash: null };
};

/**
 * Puts `next` in the place of the account's keys. `commit` sets the login secret that `next` names; it does nothing when
 * that stays. Call it under the catalogue's lock. When it throws, old or new keys count as a whole.
 */
export const writeKeys = async (
  blobStore: BlobStore,
  account: Account,
  next: NextKeys,
  commit: () => Promise<void>,
): Promise<void> => {
  // The record that counts now is about to be overwritten.
  const now = await readKeys(blobStore, account);
  await blobStore.replace(keysName(account.name), encodeKeysFile(now.keys));
  await writeRecord(blobStore, account.name, next);
  await commit();
  // For whoever reads or copies the folder. What counts is the record, so a failure here is none of the change.
  await blobStore.replace(keysName(account.name), encodeKeysFile(next.keys)).catch(() => undefined);
};

/** The keys of an account that the catalogue is about to get, under the lock. */
export const writeFirstKeys = async (blobStore: BlobStore, account: string, first: NextKeys): Promise<void> => {
  await blobStore.replace(keysName(account), encodeKeysFile(first.keys));
  await writeRecord(blobStore, account, first);
};

const writeRecord = async (blobStore: BlobStore, account: string, next: NextKeys): Promise<void> => {
  const { loginSecretHash, passwordChangedAt, recoverySecretHash, keys } = next;
  const record = codec.encode({ format: 1, loginSecretHash, passwordChangedAt, recoverySecretHash, keys });
  await blobStore.replace(keysRecordName(account), record);
};
