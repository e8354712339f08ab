/**
 * The seam to everything that changes: accounts, access, devices, tokens, upload sessions, and an index of what the
 * manifests name. One method is one transaction. What a method acknowledges is durable, but for what a caller can do
 * again: reservations, live-chunk rows, nonces. Times are whole seconds since 1970. Secrets (tokens, nonces,
 * invitations, login secrets) reach the catalogue only as SHA-256.
 *
 * Versions and live chunks are an index of the blob store: the manifest files are the truth, and `healCatalogue`
 * makes the rows agree with them at start.
 */
import { type Access, CollectiveError, type Digest, type Role } from '@collective/shared';
import { type Subscriptions } from './subscriptions.js';

export type ApplianceAccess = { readonly name: string; readonly access: Access };

export type Invitation = {
  readonly tokenHash: Digest;
  readonly account: string;
  readonly role: Role;
  readonly appliances: readonly ApplianceAccess[];
  readonly createdAt: number;
  readonly expiresAt: number;
};

export type Account = {
  readonly name: string;
  readonly role: Role;
  readonly createdAt: number;
  readonly revokedAt: number | undefined;
  /** JSON text as the client gave it, checked when it came. */
  readonly passwordParameters: string;
  readonly loginSecretHash: Digest;
  readonly publishingKey: string | undefined;
};

export type PasswordChange = Pick<Account, 'passwordParameters' | 'loginSecretHash'>;

export type Device = {
  /** SHA-256 of the device's public key. */
  readonly id: Digest;
  readonly account: string;
  readonly publicKey: string;
  readonly name: string;
  readonly createdAt: number;
  readonly lastSeenAt: number | undefined;
  readonly revokedAt: number | undefined;
  /** The envelope file. */
  readonly certificate: Buffer;
};

export type TokenScope = 'enrol' | 'session';
export type Token = {
  readonly hash: Digest;
  readonly account: string;
  readonly device: Digest | undefined;
  readonly scope: TokenScope;
  readonly expiresAt: number;
};
/** A token with what decides whether it still counts. */
export type TokenHolder = Token & { readonly role: Role; readonly revoked: boolean };

export interface People {
  addInvitation(invitation: Invitation): Promise<void>;
  /** An invitation that has been neither used nor replaced; the caller looks at `expiresAt`. */
  invitation(tokenHash: Digest): Promise<Invitation | undefined>;
  /** Uses the invitation up and makes its account, with its access. False when one is gone or the other is there. */
  acceptInvitation(tokenHash: Digest, account: Account): Promise<boolean>;
  account(name: string): Promise<Account | undefined>;
  accounts(): Promise<Account[]>;
  /** From now on none of the account's tokens and devices counts. False when there is no such account. */
  revokeAccount(name: string, now: number): Promise<boolean>;
  setPublishingKey(account: string, key: string): Promise<void>;
  /** Ends the account's `enrol` tokens: they were got with the old password. */
  changePassword(account: string, password: PasswordChange): Promise<void>;
  /** Uses the invitation up and changes the password of its account, which is there. False when the invitation is gone. */
  acceptReset(tokenHash: Digest, password: PasswordChange): Promise<boolean>;
  accessOf(account: string): Promise<ApplianceAccess[]>;
  setAccess(account: string, appliance: ApplianceAccess): Promise<void>;
  removeAccess(account: string, appliance: string): Promise<boolean>;

  /** False when a device with this key is there already. */
  addDevice(device: Device): Promise<boolean>;
  device(id: Digest): Promise<Device | undefined>;
  devicesOf(account: string): Promise<Device[]>;
  /** The device has logged in. */
  deviceSeen(id: Digest, now: number): Promise<void>;
  revokeDevice(id: Digest, now: number): Promise<void>;

  addToken(token: Token): Promise<void>;
  tokenHolder(hash: Digest): Promise<TokenHolder | undefined>;
  removeToken(hash: Digest): Promise<void>;
  /** Keeps the newest `perDeviceMax` nonces of the device. */
  addNonce(
    nonce: { readonly hash: Digest; readonly device: Digest; readonly expiresAt: number },
    perDeviceMax: number,
  ): Promise<void>;
  /** True once for a nonce that was given to this device and has not expired. */
  takeNonce(hash: Digest, device: Digest, now: number): Promise<boolean>;
  /** Drops tokens and invitations that expired before `before`, and nonces likewise. */
  removeExpired(before: number): Promise<void>;
}

/**
 * For named people; in use by all; withdrawn or deleted with its blocks kept for the grace time; forgotten: its blocks may
 * be collected. A state only grows.
 */
export const VERSION_STATES = ['candidate', 'live', 'withdrawn', 'deleted', 'forgotten'] as const;
export type VersionState = (typeof VERSION_STATES)[number];

export type VersionRecord = {
  readonly appliance: string;
  readonly version: number;
  readonly manifest: Digest;
  readonly createdAt: number;
  readonly title: string;
  /** What its chunks and pages take in the blob store, shared ones included. */
  readonly chunkBytes: number;
  readonly state: VersionState;
  readonly stateSince: number;
  /** Its chunks are in the live-chunk index. */
  readonly indexed: boolean;
};

/** A stored chunk: how long it is in the blob store and how long the block or page in it. */
export type SizedChunk = { readonly digest: Digest; readonly chunkBytes: number; readonly plainBytes: number };

export interface Versions {
  /** Names of the appliances that have a version, sorted. */
  appliances(): Promise<string[]>;
  /** Ascending. */
  versions(appliance: string): Promise<VersionRecord[]>;
  version(appliance: string, version: number): Promise<VersionRecord | undefined>;
  /** The version for all: the highest that is live. */
  head(appliance: string): Promise<VersionRecord | undefined>;
  /** The highest number that was taken, whatever has become of its version. */
  lastNumber(appliance: string): Promise<number | undefined>;
  /** All that are in the state `candidate`, by appliance and number. */
  candidates(): Promise<VersionRecord[]>;
  /** Adds or replaces the row. */
  recordVersion(record: VersionRecord): Promise<void>;
  removeVersion(appliance: string, version: number): Promise<void>;
  setVersionState(appliance: string, version: number, state: VersionState, since: number): Promise<void>;
  setIndexed(appliance: string, version: number, indexed: boolean): Promise<void>;
  addLiveChunks(appliance: string, chunks: Iterable<SizedChunk>): Promise<void>;
  /** Removes the appliance's other ones. */
  retainLiveChunks(appliance: string, digests: ReadonlySet<Digest>): Promise<void>;
  /** Which of these some version names, of any appliance or of the named ones. */
  liveChunks(digests: Iterable<Digest>, appliances?: readonly string[]): Promise<Map<Digest, SizedChunk>>;
  /** The highest number of heads that may have been shown. */
  headsNumber(): Promise<number>;
  /** Takes the next number above that and above `after`; it is never given again. */
  takeHeadsNumber(after: number): Promise<number>;
  /** Grows whenever the collector is about to delete: what was checked under a lower number must be checked again. */
  collectionNumber(): Promise<number>;
  beginCollection(): Promise<void>;
}

export type Upload = {
  readonly id: string;
  readonly appliance: string;
  readonly account: string;
  /** The head at its opening; undefined for a new appliance. */
  readonly parent: number | undefined;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** Set by the commit. */
  readonly committed: { readonly version: number; readonly manifest: Digest } | undefined;
};
export type UploadDisk = {
  readonly disk: string;
  readonly root: Digest;
  readonly diskBytes: number;
  readonly blockBytes: number;
};

/** Errors: `not-found` for whatever is added to a session that has ended meanwhile. */
export interface Uploads {
  addUpload(upload: Upload): Promise<void>;
  upload(id: string): Promise<Upload | undefined>;
  openUploads(): Promise<Upload[]>;
  /** Forgets the session and its chunks. */
  removeUpload(id: string): Promise<void>;
  /** Forgets the sessions that have expired, committed or not. */
  removeEnded(now: number): Promise<void>;
  /** Keeps the session for asking again, drops its chunks and disks. */
  markCommitted(id: string, committed: { readonly version: number; readonly manifest: Digest }): Promise<void>;
  /** The collector must not touch these from now on. Call it under the lock. */
  reserveChunks(upload: string, digests: readonly Digest[]): Promise<void>;
  /** These are durable in the blob store: the session owns them. Prolongs the session. */
  keepChunks(upload: string, chunks: readonly SizedChunk[], expiresAt: number): Promise<void>;
  /** Which of these the session owns. */
  ownedChunks(upload: string, digests: Iterable<Digest>): Promise<Map<Digest, SizedChunk>>;
  uploadTotals(upload: string): Promise<{ readonly chunks: number; readonly chunkBytes: number }>;
  /** Which of these any session has reserved or owns. */
  reservedChunks(digests: Iterable<Digest>): Promise<Set<Digest>>;
  setUploadDisk(upload: string, disk: UploadDisk): Promise<void>;
  uploadDisks(upload: string): Promise<UploadDisk[]>;
}

/** Also for somebody else's session: nobody learns that it is there. */
export const endedUpload = (cause?: unknown): CollectiveError =>
  new CollectiveError('not-found', 'There is no such upload; it may have expired', { cause });

export interface Catalogue {
  readonly people: People;
  readonly versions: Versions;
  readonly uploads: Uploads;
  readonly subscriptions: Subscriptions;
  /**
   * Runs `step` while no other process or caller is in such a step: commits, the collector's deletions, signing of
   * heads and trust files. Never call it inside itself. Errors: `in-use` when another holder does not let go.
   */
  exclusively<T>(step: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}
