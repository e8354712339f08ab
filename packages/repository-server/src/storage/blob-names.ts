/**
 * Names of the files in a repository (docs/formats/repository.md), made from checked parts. A name is a relative path
 * with forward slashes; the brand says that nothing in it came from a caller unchecked.
 */
import { type Brand, CollectiveError, isApplianceName } from '@collective/shared';

export type BlobName = Brand<string, 'BlobName'>;

/** An account's name follows the rule of appliance names. */
export const isAccountName = isApplianceName;

export const HEADS = 'heads' as BlobName;
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
export const userFolder = (account: string): BlobName => `users/${checkedAccount(account)}` as BlobName;
export const keysName = (account: string): BlobName => `${userFolder(account)}/keys.json` as BlobName;

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

const checkedAccount = (name: string): string => {
  if (!isAccountName(name)) throw new CollectiveError('bad-request', `${JSON.stringify(name)} is not an account name`);
  return name;
};
