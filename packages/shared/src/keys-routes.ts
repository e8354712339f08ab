/**
 * Routes of a person's keys: the sealed profile, what opens the person's secret, recovery, and what a reset has locked.
 */
import { Type } from '@collective/schema';
import { keyChangeSchema } from './key-change.js';
import { WRAPPED_SECRET_BYTES } from './keys-file.js';
import { PROFILE_BYTES_MAX, PROFILE_FORMER_IDENTITIES_MAX } from './profile.js';
import { accountField } from './route-schemas.js';
import {
  NUMBER_MAX,
  base64urlField,
  digestField,
  integerField,
  nullable,
  numberField,
  publicKeyField,
  secondsField,
  secretField,
  signatureField,
  strictObject,
} from './schema-fields.js';
import { type RouteSpec, bytesOut, jsonBody, noBody } from './route-spec.js';

const provenChange = strictObject({ change: keyChangeSchema, nonce: secretField, signature: signatureField });
const changed = strictObject({ changedAt: secondsField });

export const KEYS_ROUTES = {
  // none
  invitationKind: {
    method: 'POST',
    path: '/v1/invitations/kind',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({ token: secretField }),
    responseKind: 'json',
    /** `isReset`: the account is there; accepting gives it a new secret. */
    response: strictObject({ account: accountField, isReset: Type.Boolean() }),
  },
  recoveryChallenge: {
    method: 'POST',
    path: '/v1/login/recovery/challenge',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: strictObject({ account: accountField, recoverySecret: secretField }),
    responseKind: 'json',
    response: strictObject({ nonce: secretField, byRecoveryCode: base64urlField(WRAPPED_SECRET_BYTES) }),
  },
  loginRecovery: {
    method: 'POST',
    path: '/v1/login/recovery',
    auth: 'none',
    rateClass: 'login',
    ...jsonBody,
    body: provenChange,
    responseKind: 'json',
    response: changed,
  },

  // session
  profile: {
    method: 'GET',
    path: '/v1/me/profile',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    ...bytesOut,
  },
  setProfile: {
    method: 'PUT',
    path: '/v1/me/profile',
    auth: 'session',
    rateClass: 'session',
    bodyKind: 'bytes',
    bytesMax: PROFILE_BYTES_MAX,
    /** The number that it follows; 0: there was none. */
    query: strictObject({ after: integerField({ min: 0, max: NUMBER_MAX }) }),
    responseKind: 'json',
    response: strictObject({ number: numberField }),
  },
  changeKeys: {
    method: 'PUT',
    path: '/v1/me/keys',
    auth: 'session',
    rateClass: 'session',
    ...jsonBody,
    body: provenChange,
    responseKind: 'json',
    response: changed,
  },
  lockedKeys: {
    method: 'GET',
    path: '/v1/me/locked',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    responseKind: 'json',
    /** `id`: SHA-256 of the identity key. */
    response: Type.Array(
      strictObject({
        id: digestField,
        identityKey: publicKeyField,
        byRecoveryCode: nullable(base64urlField(WRAPPED_SECRET_BYTES)),
        hasProfile: Type.Boolean(),
      }),
      { maxItems: PROFILE_FORMER_IDENTITIES_MAX },
    ),
  },
  lockedProfile: {
    method: 'GET',
    path: '/v1/me/locked/:id/profile',
    auth: 'session',
    rateClass: 'session',
    ...noBody,
    params: strictObject({ id: digestField }),
    ...bytesOut,
  },
} as const satisfies Record<string, RouteSpec>;
