/**
 * Names of the files in a repository (docs/formats/repository.md), made from checked parts. A name is a relative path
 * with forward slashes; the brand says that nothing in it came from a caller unchecked.
 */
import { type Brand, CollectiveError, type Digest, isApplianceName, isDiskName } from '@collective/shared';

export type BlobName = Brand<string, 'BlobName'>;

/** An account's name follows the rule of appliance names. */
export const isAccountName = isApplianceName;

/** Whose subscription: an id means nothing without its account. */
export type SubscriptionName = { readonly account: string; readonly subscription: string };

export const HEADS = 'heads' as BlobName;
/** Which versions an administrator has made mandatory. */
export const MANDATORY = 'mandatory.json' as BlobName;
export const TRUST_FOLDER = 'trust' as BlobName;
export const APPLIANCES_FOLDER = 'appliances' as BlobName;
export const USERS_FOLDER = 'users' as BlobName;

export const trustName = (trustNumber: number): BlobName => `trust/${whole(trustNumber)}` as BlobName;
export const applianceFolder = (appliance: string): BlobName => `appliances/${checkedAppliance(appliance)}` as BlobName;
export const latestName = (appliance: string): BlobName => `${applianceFolder(appliance)}/latest` as BlobName;
export const manifestName = (appliance: string, version: number): BlobName =>
  `${applianceFolder(appliance)}/${whole(version)}/manifest` as BlobName;
/** Withdrawn, deleted or forgotten, and since when; absent while the version is in use. */
export const versionStateName = (appliance: string, version: number): BlobName =>
  `${applianceFolder(appliance)}/${whole(version)}/state` as BlobName;
/** For all, from now on: the letter that makes a candidate the version for all. */
export const promotionName = (appliance: string, version: number): BlobName =>
  `${applianceFolder(appliance)}/${whole(version)}/promotion` as BlobName;
/** Letters for those who get a candidate, by account. */
export const lettersFolder = (appliance: string, version: number): BlobName =>
  `${applianceFolder(appliance)}/${whole(version)}/letters` as BlobName;
export const letterName = (appliance: string, version: number, account: string): BlobName =>
  `${lettersFolder(appliance, version)}/${checkedAccount(account)}` as BlobName;
/** Boot traces, by disk and vote. */
export const tracesFolder = (appliance: string, version: number): BlobName =>
  `${applianceFolder(appliance)}/${whole(version)}/traces` as BlobName;
export const traceVotesFolder = (appliance: string, version: number, disk: string): BlobName =>
  `${tracesFolder(appliance, version)}/${checkedDisk(disk)}` as BlobName;
export const traceVoteName = (appliance: string, version: number, disk: string, vote: string): BlobName =>
  `${traceVotesFolder(appliance, version, disk)}/${checkedId(vote)}` as BlobName;
/** The trace whose blocks have been packed, beside the votes. */
export const packedTraceName = (appliance: string, version: number, disk: string): BlobName =>
  `${traceVotesFolder(appliance, version, disk)}/packed` as BlobName;
/** What its publisher told of a version: the boot before it was published, or what it inherits. */
export const PUBLISHERS_TRACES = ['publication', 'inherited'] as const;
export type PublishersTrace = (typeof PUBLISHERS_TRACES)[number];
export const publishersTraceName = (
  appliance: string,
  version: number,
  of: { readonly disk: string; readonly kind: PublishersTrace },
): BlobName => `${traceVotesFolder(appliance, version, of.disk)}/${of.kind}` as BlobName;
/** What sessions touched, beside the votes of boots: a folder of records, and what is made of them. */
export const useRecordsFolder = (appliance: string, version: number, disk: string): BlobName =>
  `${traceVotesFolder(appliance, version, disk)}/use` as BlobName;
export const useRecordName = (
  appliance: string,
  version: number,
  of: { readonly disk: string; readonly record: string },
): BlobName => `${useRecordsFolder(appliance, version, of.disk)}/${checkedId(of.record)}` as BlobName;
export const mergedUseName = (appliance: string, version: number, disk: string): BlobName =>
  `${useRecordsFolder(appliance, version, disk)}/merged` as BlobName;
export const userFolder = (account: string): BlobName => `users/${checkedAccount(account)}` as BlobName;
/** Snapshot objects that are being uploaded, and those that the collector writes anew. */
export const UPLOADS_FOLDER = 'uploads' as BlobName;
export const uploadName = (upload: string): BlobName => `uploads/${checkedId(upload)}` as BlobName;

export const subscriptionFolder = ({ account, subscription }: SubscriptionName): BlobName =>
  `${userFolder(account)}/${checkedId(subscription)}` as BlobName;
/** Which appliance, and since when; written once. */
export const subscriptionFileName = (of: SubscriptionName): BlobName =>
  `${subscriptionFolder(of)}/subscription` as BlobName;
/** Deleted or forgotten, and since when; absent while it is in use. */
export const subscriptionStateName = (of: SubscriptionName): BlobName => `${subscriptionFolder(of)}/state` as BlobName;
export const snapshotManifestName = (of: SubscriptionName, snapshot: number): BlobName =>
  `${subscriptionFolder(of)}/${whole(snapshot)}/manifest` as BlobName;
export const snapshotDataName = (of: SubscriptionName, snapshot: number): BlobName =>
  `${subscriptionFolder(of)}/${whole(snapshot)}/data` as BlobName;
/** When it was committed, whether it is pinned, and since when it is deleted or forgotten. */
export const snapshotStateName = (of: SubscriptionName, snapshot: number): BlobName =>
  `${subscriptionFolder(of)}/${whole(snapshot)}/state` as BlobName;
export const keysName = (account: string): BlobName => `${userFolder(account)}/keys.json` as BlobName;
/** The keys that count once the catalogue has their login secret (repository/keys-record.ts). */
export const keysRecordName = (account: string): BlobName => `${userFolder(account)}/keys-record.json` as BlobName;
export const profileName = (account: string): BlobName => `${userFolder(account)}/profile` as BlobName;
/** Which invitation is a reset. */
export const resetName = (account: string): BlobName => `${userFolder(account)}/reset.json` as BlobName;
/** Keys and profiles of before a reset, by the SHA-256 of their identity key. */
export const lockedFolder = (account: string): BlobName => `${userFolder(account)}/locked` as BlobName;
export const lockedKeysName = (account: string, id: Digest): BlobName =>
  `${lockedFolder(account)}/${id}/keys.json` as BlobName;
export const lockedProfileName = (account: string, id: Digest): BlobName =>
  `${lockedFolder(account)}/${id}/profile` as BlobName;
/** What lies in a person's folder and names no chunks. */
export const KEYS_NAMES: readonly string[] = ['keys.json', 'keys-record.json', 'profile', 'reset.json', 'locked'];

const ID = /^[0-9a-f]{32}$/;
/** Subscriptions and uploads are named by 128 bits as hex. */
export const isId = (name: string): boolean => ID.test(name);

const checkedId = (id: string): string => {
  if (!isId(id)) throw new CollectiveError('bad-request', `${JSON.stringify(id)} is not 32 hex digits`);
  return id;
};

const whole = (value: number): number => {
  if (!Number.isSafeInteger(value) || value < 1)
    throw new CollectiveError('bad-request', `${value} is not a number from 1`);
  return value;
};

const checkedAppliance = (name: string): string => {
  if (!isApplianceName(name))
    throw new CollectiveError('bad-request', `${JSON.stringify(name)} is not an appliance name`);
  return name;
};

const checkedDisk = (name: string): string => {
  if (!isDiskName(name)) throw new CollectiveError('bad-request', `${JSON.stringify(name)} is not a disk name`);
  return name;
};

const checkedAccount = (name: string): string => {
  if (!isAccountName(name)) throw new CollectiveError('bad-request', `${JSON.stringify(name)} is not an account name`);
  return name;
};
