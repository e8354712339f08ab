import { RETENTION_DEFAULT, type RetentionSettings } from './repository/retention.js';

/**
 * Every limit of the server in one place: what a queue, body, session or name list may grow to, and how long things
 * live. Raising a number costs what its comment says.
 */
export type Limits = {
  /** Blocks of one disk (2^21: 128 GiB in 64 KiB blocks); about 300 bytes of memory each while it is committed. */
  readonly diskBlocksMax: number;
  /** Memory for maps that are kept loaded between requests. */
  readonly mapCacheBytesMax: number;
  /** Memory for chunks that were read last. */
  readonly chunkMemoryBytesMax: number;
  /** Request bodies in memory at the same time, all callers together. */
  readonly bodyBytesInFlightMax: number;
  /** Chunks, in bytes, that one upload session may store. */
  readonly uploadBytesMax: number;
  readonly openUploadsPerAccountMax: number;
  /** Chunks and pages of one snapshot object (2^21: 32 GiB in 16 KiB blocks); 48 bytes of memory each at its commit. */
  readonly snapshotRecordsMax: number;
  /** Memory for the indexes of snapshot objects that were used last, all persons together. */
  readonly snapshotIndexBytesMax: number;
  /** A lease that nothing was heard of for so long has expired. Clients beat three times in it. */
  readonly leaseSeconds: number;
  /** Which snapshots stay. */
  readonly retention: RetentionSettings;
  /** Heads name each; 1,000 fit into one envelope whatever their names are. */
  readonly appliancesMax: number;
  readonly devicesPerAccountMax: number;
  readonly noncesPerDeviceMax: number;
  /** An upload session ends so long after its last chunk, and so long after its beginning in any case. */
  readonly uploadIdleSeconds: number;
  readonly uploadAgeSecondsMax: number;
  readonly enrolTokenSeconds: number;
  readonly sessionTokenSeconds: number;
  readonly nonceSeconds: number;
  readonly invitationSeconds: number;
  readonly headsSeconds: number;
  /** Attempts a minute: of one address at one account, of all at one account, of one address at all. */
  readonly loginsPerAddressAndAccount: number;
  readonly loginsPerAccount: number;
  readonly loginsPerAddress: number;
  /** Other requests a minute, by address without a token, by account with one; bulk data is not counted. */
  readonly openRequests: number;
  readonly sessionRequests: number;
  /** The whole request must have arrived in this time: a batch of 4 MiB at 0.1 Mbit/s takes 340 s. */
  readonly requestMsMax: number;
  readonly connectionsMax: number;
};

const MIB = 1_048_576;
const DAY_SECONDS = 86_400;

export const DEFAULT_LIMITS: Limits = {
  diskBlocksMax: 2 ** 21,
  mapCacheBytesMax: 128 * MIB,
  chunkMemoryBytesMax: 256 * MIB,
  bodyBytesInFlightMax: 512 * MIB,
  uploadBytesMax: 2 ** 40,
  openUploadsPerAccountMax: 16,
  snapshotRecordsMax: 2 ** 21,
  snapshotIndexBytesMax: 128 * MIB,
  leaseSeconds: 120,
  retention: RETENTION_DEFAULT,
  appliancesMax: 1_000,
  devicesPerAccountMax: 100,
  noncesPerDeviceMax: 8,
  uploadIdleSeconds: DAY_SECONDS,
  uploadAgeSecondsMax: 14 * DAY_SECONDS,
  enrolTokenSeconds: 600,
  sessionTokenSeconds: 3_600,
  nonceSeconds: 60,
  invitationSeconds: 7 * DAY_SECONDS,
  headsSeconds: 7 * DAY_SECONDS,
  loginsPerAddressAndAccount: 20,
  loginsPerAccount: 100,
  loginsPerAddress: 200,
  openRequests: 1_200,
  sessionRequests: 6_000,
  requestMsMax: 400_000,
  connectionsMax: 4_096,
};

/** How long the collector leaves what is withdrawn or deleted alone: versions, snapshots, subscriptions. */
export const GRACE_SECONDS_DEFAULT = 30 * DAY_SECONDS;
