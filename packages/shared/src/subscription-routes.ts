/**
 * Routes of a person's data: subscriptions, their leases, snapshots, and the upload and commit of a snapshot. A
 * subscription that is not the caller's own does not exist for them.
 *
 * Uploads: `openSnapshotUpload` gives an upload (again the one that is open for this number and device), then
 * `uploadSnapshotPart` from `receivedBytes` on, then `commitSnapshot` with the envelope. A snapshot that adds no chunk is
 * committed without a part.
 */
import { type Static, Type } from '@collective/schema';
import { ENVELOPE_BYTES_MAX } from './envelope.js';
import { nothing, uploadField } from './route-schemas.js';
import {
  byteCountField,
  digestField,
  integerField,
  nameField,
  nullable,
  numberField,
  secondsField,
  strictObject,
  textField,
  wordField,
} from './schema-fields.js';
import { type RouteSpec, bytesOut, jsonBody, noBody } from './route-spec.js';
import { SNAPSHOT_REASONS } from './snapshot-manifest.js';

/** A part of a snapshot object, up and down. */
export const SNAPSHOT_PART_BYTES_MAX = 4_194_304;
/** One answer lists at most so many snapshots, the newest first. */
export const SNAPSHOTS_LISTED_MAX = 1_000;
/** A person has at most so many subscriptions, deleted ones included. */
export const SUBSCRIPTIONS_MAX = 1_000;

/** 128 random bits as hex, chosen by the client. */
export const subscriptionField = Type.String({ pattern: '^[0-9a-f]{32}$' });
/** Fencing number of a lease; grows with each taking. */
export const leaseField = integerField({ min: 1, max: Number.MAX_SAFE_INTEGER });

const subscriptionParams = strictObject({ subscription: subscriptionField });
const leaseParams = strictObject({ subscription: subscriptionField, lease: leaseField });
const snapshotParams = strictObject({ subscription: subscriptionField, number: numberField });
const snapshotUploadParams = strictObject({ subscription: subscriptionField, upload: uploadField });

/** Which snapshot, and the SHA-256 of its manifest file. */
export const snapshotName = strictObject({ number: numberField, manifest: digestField });

/** The snapshot that the device's disks are based on, which stays for it however long it is away; null: on none yet. Only ever a later one. */
const basedOnField = nullable(numberField);

/** Who may write the subscription; the server's clock throughout. */
export const leaseState = strictObject({
  lease: leaseField,
  device: digestField,
  deviceName: textField({ max: 100 }),
  takenAt: secondsField,
  lastHeartbeatAt: secondsField,
  /** What that device had not uploaded at its last heartbeat. */
  unsavedBytes: byteCountField,
  isRunning: Type.Boolean(),
  isReleased: Type.Boolean(),
  isExpired: Type.Boolean(),
});
export type LeaseState = Static<typeof leaseState>;

export const subscriptionState = strictObject({
  subscription: subscriptionField,
  appliance: nameField,
  createdAt: secondsField,
  /** Since when it has been deleted; it can be brought back for 30 days, or as long as the repository keeps it. */
  deletedAt: nullable(secondsField),
  head: nullable(strictObject({ number: numberField, manifest: digestField, committedAt: secondsField })),
  lease: nullable(leaseState),
});
export type SubscriptionState = Static<typeof subscriptionState>;

export const snapshotSummary = strictObject({
  number: numberField,
  manifest: digestField,
  /** By the device's clock. */
  createdAt: secondsField,
  /** By the server's clock. */
  committedAt: secondsField,
  reason: wordField(...SNAPSHOT_REASONS),
  /** What its object had when it was committed. */
  addedBytes: byteCountField,
  pinned: Type.Boolean(),
  /** Since when it has been deleted; it can be brought back for 30 days, or as long as the repository keeps it. */
  deletedAt: nullable(secondsField),
});
export type SnapshotSummary = Static<typeof snapshotSummary>;

export const snapshotUploadState = strictObject({
  upload: uploadField,
  number: numberField,
  parent: nullable(snapshotName),
  /** Durable at the server: the next part begins here. */
  receivedBytes: byteCountField,
  expiresAt: secondsField,
});
export type SnapshotUploadState = Static<typeof snapshotUploadState>;

const ME = '/v1/me/subscriptions';
const ONE = `${ME}/:subscription` as const;
const SNAPSHOT = `${ONE}/snapshots/:number` as const;
const UPLOAD = `${ONE}/uploads/:upload` as const;
const common = { auth: 'session', rateClass: 'session' } as const;
const answersNothing = { responseKind: 'json', response: nothing } as const;

export const SUBSCRIPTION_ROUTES = {
  // session: subscriptions
  subscriptions: {
    method: 'GET',
    path: ME,
    ...common,
    ...noBody,
    responseKind: 'json',
    response: Type.Array(subscriptionState, { maxItems: SUBSCRIPTIONS_MAX }),
  },
  createSubscription: {
    method: 'PUT',
    path: ONE,
    ...common,
    ...jsonBody,
    params: subscriptionParams,
    body: strictObject({ appliance: nameField }),
    responseKind: 'json',
    response: subscriptionState,
  },
  deleteSubscription: {
    method: 'DELETE',
    path: ONE,
    ...common,
    ...noBody,
    params: subscriptionParams,
    ...answersNothing,
  },
  restoreSubscription: {
    method: 'POST',
    path: `${ONE}/restoration`,
    ...common,
    ...noBody,
    params: subscriptionParams,
    ...answersNothing,
  },

  // session: the lease
  takeLease: {
    method: 'POST',
    path: `${ONE}/leases`,
    ...common,
    ...jsonBody,
    params: subscriptionParams,
    body: strictObject({ mode: wordField('free', 'steal'), basedOn: basedOnField }),
    responseKind: 'json',
    response: strictObject({ lease: leaseField, expiresAt: secondsField }),
  },
  heartbeat: {
    method: 'PUT',
    path: `${ONE}/leases/:lease`,
    ...common,
    ...jsonBody,
    params: leaseParams,
    body: strictObject({ unsavedBytes: byteCountField, isRunning: Type.Boolean(), basedOn: basedOnField }),
    responseKind: 'json',
    response: strictObject({ expiresAt: secondsField }),
  },
  releaseLease: {
    method: 'DELETE',
    path: `${ONE}/leases/:lease`,
    ...common,
    ...noBody,
    params: leaseParams,
    ...answersNothing,
  },

  // session: snapshots
  snapshots: {
    method: 'GET',
    path: `${ONE}/snapshots`,
    ...common,
    ...noBody,
    params: subscriptionParams,
    // `below`: only lower numbers, for going on after a full answer.
    query: Type.Object(
      { below: Type.Optional(numberField), which: Type.Optional(wordField('kept', 'deleted', 'all')) },
      { additionalProperties: false },
    ),
    responseKind: 'json',
    response: Type.Array(snapshotSummary, { maxItems: SNAPSHOTS_LISTED_MAX }),
  },
  snapshotManifest: {
    method: 'GET',
    path: `${SNAPSHOT}/manifest`,
    ...common,
    ...noBody,
    params: snapshotParams,
    ...bytesOut,
  },
  // By `range: bytes=…`, at most 4 MiB an answer: see docs/formats/snapshot-object.md.
  snapshotData: {
    method: 'GET',
    path: `${SNAPSHOT}/data`,
    auth: 'session',
    rateClass: 'bulk',
    ...noBody,
    params: snapshotParams,
    ...bytesOut,
  },
  pinSnapshot: {
    method: 'PUT',
    path: `${SNAPSHOT}/pin`,
    ...common,
    ...noBody,
    params: snapshotParams,
    ...answersNothing,
  },
  unpinSnapshot: {
    method: 'DELETE',
    path: `${SNAPSHOT}/pin`,
    ...common,
    ...noBody,
    params: snapshotParams,
    ...answersNothing,
  },
  // It comes back pinned: else the next commit would thin it again.
  restoreSnapshot: {
    method: 'POST',
    path: `${SNAPSHOT}/restoration`,
    ...common,
    ...noBody,
    params: snapshotParams,
    ...answersNothing,
  },

  // session: upload and commit
  openSnapshotUpload: {
    method: 'POST',
    path: `${ONE}/uploads`,
    ...common,
    ...jsonBody,
    params: subscriptionParams,
    body: strictObject({
      number: numberField,
      parent: nullable(snapshotName),
      /** 0: made disconnected. */
      lease: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    }),
    responseKind: 'json',
    response: snapshotUploadState,
  },
  snapshotUpload: {
    method: 'GET',
    path: UPLOAD,
    ...common,
    ...noBody,
    params: snapshotUploadParams,
    responseKind: 'json',
    response: snapshotUploadState,
  },
  uploadSnapshotPart: {
    method: 'PUT',
    path: `${UPLOAD}/data`,
    auth: 'session',
    rateClass: 'bulk',
    bodyKind: 'bytes',
    bytesMax: SNAPSHOT_PART_BYTES_MAX,
    params: snapshotUploadParams,
    query: strictObject({ offset: byteCountField }),
    responseKind: 'json',
    response: strictObject({ receivedBytes: byteCountField }),
  },
  abandonSnapshotUpload: {
    method: 'DELETE',
    path: UPLOAD,
    ...common,
    ...noBody,
    params: snapshotUploadParams,
    ...answersNothing,
  },
  commitSnapshot: {
    method: 'POST',
    path: `${UPLOAD}/commit`,
    ...common,
    bodyKind: 'bytes',
    bytesMax: ENVELOPE_BYTES_MAX,
    params: snapshotUploadParams,
    status: 201,
    responseKind: 'json',
    response: strictObject({ number: numberField, manifest: digestField, committedAt: secondsField }),
  },
} as const satisfies Record<string, RouteSpec>;
