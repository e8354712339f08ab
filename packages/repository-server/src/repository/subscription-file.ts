/**
 * The files of a subscription in the blob store: `subscription` says which appliance it is of and since when, `state`
 * whether it is in use. And which subscriptions there are.
 */
import { CollectiveError, documentCodec, nameField, secondsField, strictObject } from '@collective/shared';
import { Type } from '@collective/schema';
import { SUBSCRIPTION_STATES, type SubscriptionPhase } from '../catalogue/subscriptions.js';
import {
  isAccountName,
  isId,
  subscriptionFileName,
  type SubscriptionName,
  subscriptionStateName,
  userFolder,
  USERS_FOLDER,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';

const SUBSCRIPTION_BYTES_MAX = 1_024;

const codec = documentCodec(strictObject({ format: Type.Literal(1), appliance: nameField, createdAt: secondsField }), {
  what: 'subscription',
  bytesMax: SUBSCRIPTION_BYTES_MAX,
});
export type SubscriptionFile = { readonly appliance: string; readonly createdAt: number };
export type SubscriptionStateFile = { readonly state: SubscriptionPhase; readonly since: number };

/** Undefined when there is none. Errors: those of a damaged file. */
export const readSubscriptionFile = async (
  blobStore: BlobStore,
  of: SubscriptionName,
): Promise<SubscriptionFile | undefined> => {
  const bytes = await blobStore.read(subscriptionFileName(of));
  return bytes === undefined ? undefined : codec.decode(bytes);
};

/** Writes it once. Errors: `exists` when there is one that says something else. */
export const createSubscriptionFile = async (
  blobStore: BlobStore,
  of: SubscriptionName,
  file: SubscriptionFile,
): Promise<SubscriptionFile> => {
  const { appliance, createdAt } = file;
  if (await blobStore.create(subscriptionFileName(of), codec.encode({ format: 1, appliance, createdAt }))) return file;
  // A crash came between the file and its row.
  const found = await readSubscriptionFile(blobStore, of);
  if (found?.appliance !== appliance)
    throw new CollectiveError('exists', `The subscription ${of.subscription} is of another appliance`);
  await blobStore.settle(subscriptionFileName(of));
  return found;
};

/** `live` since 0 when there is no state file. An unreadable one keeps everything. */
export const readSubscriptionState = async (
  blobStore: BlobStore,
  of: SubscriptionName,
): Promise<SubscriptionStateFile> => {
  const bytes = await blobStore.read(subscriptionStateName(of));
  const [word, since, ...rest] = bytes?.toString('utf8').trim().split(' ') ?? [];
  const state = SUBSCRIPTION_STATES.find((known) => known === word);
  if (state === undefined || rest.length > 0 || !/^[0-9]{1,15}$/.test(since ?? '')) return { state: 'live', since: 0 };
  return { state, since: Number(since) };
};

/** One line: `deleted 1700000000`. */
export const writeSubscriptionState = async (
  blobStore: BlobStore,
  of: SubscriptionName,
  { state, since }: SubscriptionStateFile,
): Promise<void> => {
  await blobStore.replace(subscriptionStateName(of), Buffer.from(`${state} ${since}\n`, 'utf8'));
};

/** Every subscription that has a folder. */
export const storedSubscriptions = async (blobStore: BlobStore): Promise<SubscriptionName[]> => {
  const found: SubscriptionName[] = [];
  for (const account of (await blobStore.list(USERS_FOLDER)).filter(isAccountName)) {
    for (const subscription of (await blobStore.list(userFolder(account))).filter(isId))
      found.push({ account, subscription });
  }
  return found;
};
