/**
 * Routes of publishers: upload sessions, commit, candidates and their letters, promotion, withdrawal, deletion.
 */
import { Type } from '@collective/schema';
import { CHUNK_BATCH_BYTES_MAX, CHUNK_BATCH_RECORDS_MAX } from './chunk-batch.js';
import { DIGEST_BYTES } from './digest.js';
import { ENVELOPE_BYTES_MAX } from './envelope.js';
import { LETTER_BYTES_MAX } from './letter.js';
import {
  accountField,
  applianceParams,
  letterParams,
  nothing,
  uploadDiskParams,
  uploadField,
  uploadParams,
  uploadState,
  versionParams,
} from './route-schemas.js';
import {
  digestField,
  integerField,
  nameField,
  nullable,
  numberField,
  secondsField,
  strictObject,
} from './schema-fields.js';
import { type RouteSpec, bytesOut, jsonBody, noBody } from './route-spec.js';

/** 1 TiB in 64 KiB blocks, all changed: 16.8 million pairs of 37 bytes. */
const CHANGED_PAIRS_BYTES_MAX = 640_000_000;

export const PUBLISHING_ROUTES = {
  // session: publishing
  createUpload: {
    method: 'POST',
    path: '/v1/appliances/:name/uploads',
    auth: 'session',
    rateClass: 'session',
    ...jsonBody,
    params: applianceParams,
    body: strictObject({ parent: nullable(numberField) }),
    responseKind: 'json',
    response: strictObject({ ...uploadState.properties, nextVersion: numberField }),
  },
  upload: {
    method: 'GET',
    path: '/v1/uploads/:upload',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: uploadParams,
    responseKind: 'json',
    response: strictObject({
      upload: uploadField,
      appliance: nameField,
      parent: nullable(numberField),
      expiresAt: secondsField,
      /** The lowest number that its version may take. */
      nextVersion: numberField,
      /** Chunks that this session has stored. */
      chunks: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    }),
  },
  abandonUpload: {
    method: 'DELETE',
    path: '/v1/uploads/:upload',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: uploadParams,
    responseKind: 'json',
    response: nothing,
  },
  lackingChunks: {
    method: 'POST',
    path: '/v1/uploads/:upload/lacking',
    auth: 'session',
    rateClass: 'bulk',
    bodyKind: 'bytes',
    bytesMax: CHUNK_BATCH_RECORDS_MAX * DIGEST_BYTES,
    params: uploadParams,
    ...bytesOut,
  },
  uploadChunks: {
    method: 'POST',
    path: '/v1/uploads/:upload/chunks',
    auth: 'session',
    rateClass: 'bulk',
    bodyKind: 'bytes',
    bytesMax: CHUNK_BATCH_BYTES_MAX,
    params: uploadParams,
    responseKind: 'json',
    response: strictObject({
      stored: integerField({ min: 0, max: CHUNK_BATCH_RECORDS_MAX }),
      known: integerField({ min: 0, max: CHUNK_BATCH_RECORDS_MAX }),
    }),
  },
  uploadDisk: {
    method: 'PUT',
    path: '/v1/uploads/:upload/disks/:disk',
    auth: 'session',
    rateClass: 'bulk',
    bodyKind: 'bytes',
    bytesMax: CHANGED_PAIRS_BYTES_MAX,
    params: uploadDiskParams,
    query: strictObject({ since: Type.String({ pattern: '^(none|[1-9][0-9]{0,9})$' }) }),
    responseKind: 'json',
    response: strictObject({ root: digestField }),
  },
  commitUpload: {
    method: 'POST',
    path: '/v1/uploads/:upload/commit',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: ENVELOPE_BYTES_MAX,
    params: uploadParams,
    status: 201,
    responseKind: 'json',
    response: strictObject({ version: numberField, manifest: digestField }),
  },
  candidateLetters: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/letters',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: versionParams,
    responseKind: 'json',
    response: Type.Array(accountField),
  },
  putLetter: {
    method: 'PUT',
    path: '/v1/appliances/:name/versions/:version/letters/:account',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: LETTER_BYTES_MAX,
    params: letterParams,
    responseKind: 'json',
    response: nothing,
  },
  removeLetter: {
    method: 'DELETE',
    path: '/v1/appliances/:name/versions/:version/letters/:account',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: letterParams,
    responseKind: 'json',
    response: nothing,
  },
  promoteVersion: {
    method: 'POST',
    path: '/v1/appliances/:name/versions/:version/promotion',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: LETTER_BYTES_MAX,
    params: versionParams,
    responseKind: 'json',
    response: nothing,
  },
  withdrawVersion: {
    method: 'POST',
    path: '/v1/appliances/:name/versions/:version/withdrawal',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: versionParams,
    responseKind: 'json',
    response: nothing,
  },
  deleteVersion: {
    method: 'DELETE',
    path: '/v1/appliances/:name/versions/:version',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: versionParams,
    responseKind: 'json',
    response: nothing,
  },
} as const satisfies Record<string, RouteSpec>;
