/**
 * The HTTP routes, for the server (fastify schemas) and the client alike. All lie under /v1; a status of 400 or above
 * carries an ErrorBody with the status of the error table; bodies of bytes are application/octet-stream.
 *
 * Auth: `none`; `enrol`: a bearer token of a password login (it may register a device); `session`: a bearer token of a
 * device login. A `session` token is good for `enrol` too. What the account may do beyond that (`role`, access to the
 * appliance) the handler checks; `role: 'admin'` is for accounts of that role only.
 *
 * `bytesMax` bounds the request body. `rateClass` names a limit: `login` is for what guesses at passwords, tokens and
 * names; `open` for what needs no token; `session` for the rest; `bulk` for what moves data.
 */
import { type Static, type TObject, type TSchema, Type } from 'typebox';
import { CHUNK_BATCH_BYTES_MAX, CHUNK_BATCH_RECORDS_MAX } from './chunk-batch.js';
import { DIGEST_BYTES } from './digest.js';
import { ENVELOPE_BYTES_MAX } from './envelope.js';
import { keysFileSchema } from './keys-file.js';
import { passwordParametersSchema } from './password-parameters.js';
import {
  accessField,
  accountAccessParams,
  accountField,
  accountParams,
  applianceAccessList,
  applianceParams,
  chunkParams,
  deviceParams,
  diskParams,
  envelopeTextField,
  nothing,
  roleField,
  trustParams,
  uploadDiskParams,
  uploadField,
  uploadParams,
  uploadState,
  versionParams,
  versionSummary,
} from './route-schemas.js';
import {
  digestField,
  integerField,
  nameField,
  nullable,
  numberField,
  publicKeyField,
  secondsField,
  secretField,
  signatureField,
  strictObject,
  textField,
  wordField,
} from './schema-fields.js';

export type RouteAuth = 'none' | 'enrol' | 'session';
export type RouteRateClass = 'login' | 'open' | 'session' | 'bulk';

export type RouteSpec = {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  readonly path: string;
  readonly auth: RouteAuth;
  readonly role?: 'admin';
  readonly params?: TObject;
  readonly query?: TObject;
  readonly bodyKind: 'json' | 'bytes' | 'none';
  readonly body?: TSchema;
  readonly responseKind: 'json' | 'bytes';
  readonly response?: TSchema;
  /** Of the successful answer; 200 when absent. */
  readonly status?: 201;
  readonly bytesMax: number;
  readonly rateClass: RouteRateClass;
};

const JSON_BYTES_MAX = 16_384;
/** Room for the base64 of an envelope. */
const CERTIFICATE_BYTES_MAX = 400_000;
/** 1 TiB in 64 KiB blocks, all changed: 16.8 million pairs of 37 bytes. */
const CHANGED_PAIRS_BYTES_MAX = 640_000_000;

const noBody = { bodyKind: 'none', bytesMax: 0 } as const;
const jsonBody = { bodyKind: 'json', bytesMax: JSON_BYTES_MAX } as const;
const bytesOut = { responseKind: 'bytes' } as const;

const tokenBody = { token: secretField, expiresAt: secondsField };

// prettier-ignore: a route is read as one block.
export const ROUTES = {
  // none
  health: {
    method: 'GET',
    path: '/v1/health',
    auth: 'none',
    rateClass: 'open',
    ...noBody,
    responseKind: 'json',
    response: strictObject({ ok: Type.Boolean() }),
  },
  identity: {
    method: 'GET',
    path: '/v1/identity',
    auth: 'none',
    rateClass: 'open',
    ...noBody,
    responseKind: 'json',
    response: strictObject({ identity: digestField, software: textField({ max: 100 }), protocol: Type.Literal(1) }),
  },
  trust: {
    method: 'GET',
    path: '/v1/trust/:number',
    auth: 'none',
    rateClass: 'open',
    ...noBody,
    params: trustParams,
    ...bytesOut,
  },
  chunk: {
    method: 'GET',
    path: '/v1/chunks/:digest',
    auth: 'none',
    rateClass: 'bulk',
    ...noBody,
    params: chunkParams,
    ...bytesOut,
  },
  passwordParameters: {
    method: 'GET',
    path: '/v1/accounts/:account/password-parameters',
    auth: 'none',
    rateClass: 'login',
    ...noBody,
    params: accountParams,
    responseKind: 'json',
    response: passwordParametersSchema,
  },
  loginPassword: {
    method: 'POST',
    path: '/v1/login/password',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({ account: accountField, loginSecret: secretField }),
    responseKind: 'json',
    response: strictObject({ ...tokenBody, keys: keysFileSchema }),
  },
  loginChallenge: {
    method: 'POST',
    path: '/v1/login/challenge',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({ device: digestField }),
    responseKind: 'json',
    response: strictObject({ nonce: secretField }),
  },
  loginDevice: {
    method: 'POST',
    path: '/v1/login/device',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({ device: digestField, nonce: secretField, signature: signatureField }),
    responseKind: 'json',
    response: strictObject({ ...tokenBody, account: accountField, role: roleField }),
  },
  acceptInvitation: {
    method: 'POST',
    path: '/v1/invitations/accept',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({
      token: secretField,
      account: accountField,
      passwordParameters: passwordParametersSchema,
      loginSecret: secretField,
      keys: keysFileSchema,
    }),
    responseKind: 'json',
    response: strictObject({ account: accountField, role: roleField }),
  },

  // enrol
  registerDevice: {
    method: 'POST',
    path: '/v1/devices',
    auth: 'enrol',
    rateClass: 'session',
    bodyKind: 'json',
    bytesMax: CERTIFICATE_BYTES_MAX,
    body: strictObject({ certificate: envelopeTextField }),
    responseKind: 'json',
    response: strictObject({ device: digestField }),
  },

  // session: the account
  logout: {
    method: 'POST',
    path: '/v1/logout',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: nothing,
  },
  me: {
    method: 'GET',
    path: '/v1/me',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: strictObject({ account: accountField, role: roleField, appliances: applianceAccessList }),
  },
  myDevices: {
    method: 'GET',
    path: '/v1/me/devices',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: Type.Array(
      strictObject({
        device: digestField,
        name: textField({ max: 100 }),
        createdAt: secondsField,
        lastSeenAt: nullable(secondsField),
        revoked: Type.Boolean(),
      }),
    ),
  },
  revokeDevice: {
    method: 'DELETE',
    path: '/v1/me/devices/:device',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: deviceParams,
    responseKind: 'json',
    response: nothing,
  },
  setPublishingKey: {
    method: 'PUT',
    path: '/v1/me/publishing-key',
    auth: 'session',
    rateClass: 'session',
    ...jsonBody,
    body: strictObject({ key: publicKeyField, proof: signatureField }),
    responseKind: 'json',
    response: nothing,
  },

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
    response: uploadState,
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

  // session of an admin
  createInvitation: {
    method: 'POST',
    path: '/v1/invitations',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...jsonBody,
    body: strictObject({ account: accountField, role: roleField, appliances: applianceAccessList }),
    responseKind: 'json',
    response: strictObject(tokenBody),
  },
  accounts: {
    method: 'GET',
    path: '/v1/accounts',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: Type.Array(
      strictObject({
        account: accountField,
        role: roleField,
        createdAt: secondsField,
        revoked: Type.Boolean(),
        appliances: applianceAccessList,
      }),
    ),
  },
  revokeAccount: {
    method: 'DELETE',
    path: '/v1/accounts/:account',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...noBody,
    params: accountParams,
    responseKind: 'json',
    response: nothing,
  },
  setAccess: {
    method: 'PUT',
    path: '/v1/accounts/:account/access/:appliance',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...jsonBody,
    params: accountAccessParams,
    body: strictObject({ access: accessField }),
    responseKind: 'json',
    response: nothing,
  },
  removeAccess: {
    method: 'DELETE',
    path: '/v1/accounts/:account/access/:appliance',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...noBody,
    params: accountAccessParams,
    responseKind: 'json',
    response: nothing,
  },
} as const satisfies Record<string, RouteSpec>;

export type RouteName = keyof typeof ROUTES;
type Route<N extends RouteName> = (typeof ROUTES)[N];
type StaticAt<R, K extends string> = R extends Readonly<Record<K, infer S extends TSchema>> ? Static<S> : undefined;

export type RouteParams<N extends RouteName> = StaticAt<Route<N>, 'params'>;
export type RouteQuery<N extends RouteName> = StaticAt<Route<N>, 'query'>;
export type RouteBody<N extends RouteName> =
  Route<N> extends { readonly bodyKind: 'bytes' } ? Uint8Array : StaticAt<Route<N>, 'body'>;
export type RouteResponse<N extends RouteName> =
  Route<N> extends { readonly responseKind: 'bytes' } ? Buffer : StaticAt<Route<N>, 'response'>;

/**
 * The path of a route with its parameters filled in and encoded, and its query. A missing or unknown parameter is a
 * wrong program: TypeError.
 */
export const routePath = (
  name: RouteName,
  params: Readonly<Record<string, string | number>> = {},
  query: Readonly<Record<string, string | number | undefined>> = {},
): string => {
  const unused = new Set(Object.keys(params));
  const path = ROUTES[name].path.replace(/:([a-z]+)/g, (_whole, key: string) => {
    const value = params[key];
    if (value === undefined || value === '') throw new TypeError(`route ${name} wants the parameter ${key}`);
    unused.delete(key);
    return encodeURIComponent(value);
  });
  if (unused.size > 0) throw new TypeError(`route ${name} has no parameter ${[...unused].join(', ')}`);
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value !== undefined) search.append(key, String(value));
  return search.size === 0 ? path : `${path}?${search.toString()}`;
};
