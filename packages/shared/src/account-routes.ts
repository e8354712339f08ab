/**
 * Routes of the account: login, invitation, devices, keys; and what needs no account at all.
 */
import { Type } from '@collective/schema';
import { keysFileSchema } from './keys-file.js';
import { passwordParametersSchema } from './password-parameters.js';
import {
  accountField,
  accountParams,
  applianceAccessList,
  chunkParams,
  deviceParams,
  envelopeTextField,
  nothing,
  roleField,
  trustParams,
} from './route-schemas.js';
import {
  digestField,
  nullable,
  publicKeyField,
  secondsField,
  secretField,
  signatureField,
  strictObject,
  textField,
} from './schema-fields.js';
import { type RouteSpec, bytesOut, jsonBody, noBody } from './route-spec.js';

export const tokenBody = { token: secretField, expiresAt: secondsField };

/** Room for the base64 of an envelope. */
const CERTIFICATE_BYTES_MAX = 400_000;

export const ACCOUNT_ROUTES = {
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
      /** Null: without a recovery code. */
      recoverySecret: nullable(secretField),
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
    response: strictObject({
      account: accountField,
      role: roleField,
      appliances: applianceAccessList,
      identityKey: publicKeyField,
      /** Another salt than a device's own: the password was changed elsewhere. */
      passwordParameters: passwordParametersSchema,
      passwordChangedAt: secondsField,
    }),
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
  // Who reads a snapshot needs the certificate of the device that signed it, revoked since or not.
  myDeviceCertificates: {
    method: 'GET',
    path: '/v1/me/device-certificates',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    response: Type.Array(strictObject({ device: digestField, certificate: envelopeTextField })),
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
} as const satisfies Record<string, RouteSpec>;
