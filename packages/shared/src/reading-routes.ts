/**
 * Routes that read appliances: heads, versions, candidates, manifests, maps, boot traces, use. (Trust files and chunks need no token.)
 */
import { Type } from '@collective/schema';
import { HEADS_MAX } from './heads.js';
import {
  accessField,
  applianceParams,
  diskParams,
  letterTextField,
  nothing,
  versionParams,
  versionSummary,
} from './route-schemas.js';
import { nameField, nullable, numberField, strictObject, textField, wordField } from './schema-fields.js';
import { type RouteSpec, bytesOut, noBody } from './route-spec.js';
import { TRACE_BYTES_MAX } from './trace.js';
import { USE_RECORD_BYTES_MAX } from './use-record.js';

export const READING_ROUTES = {
  // session: reading
  heads: {
    method: 'GET',
    path: '/v1/heads',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    ...bytesOut,
  },
  appliances: {
    method: 'GET',
    path: '/v1/appliances',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: Type.Array(
      strictObject({
        name: nameField,
        title: textField({ max: 200 }),
        latest: nullable(numberField),
        access: accessField,
      }),
    ),
  },
  versions: {
    method: 'GET',
    path: '/v1/appliances/:name/versions',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: applianceParams,
    responseKind: 'json',
    response: Type.Array(versionSummary),
  },
  /** The letters for this account, of the candidates that there are. */
  candidates: {
    method: 'GET',
    path: '/v1/candidates',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: Type.Array(strictObject({ appliance: nameField, version: numberField, letter: letterTextField }), {
      maxItems: HEADS_MAX,
    }),
  },
  promotion: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/promotion',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: versionParams,
    ...bytesOut,
  },
  versionManifest: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/manifest',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: versionParams,
    ...bytesOut,
  },
  diskMap: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/map',
    auth: 'session',
    rateClass: 'bulk',
    ...noBody,
    params: diskParams,
    // `positions`: decimal positions of leaves, with commas, for part=leaves only.
    query: Type.Object(
      {
        part: Type.Optional(wordField('all', 'upper', 'leaves')),
        positions: Type.Optional(Type.String({ pattern: '^[0-9]{1,8}(,[0-9]{1,8}){0,1023}$' })),
      },
      { additionalProperties: false },
    ),
    ...bytesOut,
  },
  diskChanges: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/changes',
    auth: 'session',
    rateClass: 'bulk',
    ...noBody,
    params: diskParams,
    query: strictObject({ since: numberField }),
    ...bytesOut,
  },
  /** What most boots of this disk touch, in order (docs/formats/trace.md). */
  bootTrace: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/trace',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: diskParams,
    ...bytesOut,
  },
  /**
   * Without `kind`: the trace of one boot, the account's vote. A publisher tells what the version begins with: `publication`, the boot that preceded it, or
   * `inherited`, what was guessed from the version before, which counts until there is a boot.
   */
  addBootTrace: {
    method: 'POST',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/trace',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: TRACE_BYTES_MAX,
    params: diskParams,
    query: Type.Object({ kind: Type.Optional(wordField('publication', 'inherited')) }, { additionalProperties: false }),
    responseKind: 'json',
    response: nothing,
  },
  /** What sessions of all users touch of this disk (docs/formats/use.md). */
  diskUse: {
    method: 'GET',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/use',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: diskParams,
    ...bytesOut,
  },
  /** What one session touched: the account's record of this day. */
  addUseRecord: {
    method: 'POST',
    path: '/v1/appliances/:name/versions/:version/disks/:disk/use',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: USE_RECORD_BYTES_MAX,
    params: diskParams,
    responseKind: 'json',
    response: nothing,
  },
} as const satisfies Record<string, RouteSpec>;
