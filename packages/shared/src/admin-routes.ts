/**
 * Routes of administrators: invitations, accounts, access, mandatory versions.
 */
import { Type } from '@collective/schema';
import {
  accessField,
  accountAccessParams,
  accountField,
  accountParams,
  applianceAccessList,
  applianceParams,
  nothing,
  roleField,
} from './route-schemas.js';
import { mandatorySchema } from './heads.js';
import { secondsField, strictObject } from './schema-fields.js';
import { tokenBody } from './account-routes.js';
import { type RouteSpec, jsonBody, noBody } from './route-spec.js';

const { appliance: _named, ...mandatoryFields } = mandatorySchema.properties;

export const ADMIN_ROUTES = {
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
  setMandatory: {
    method: 'PUT',
    path: '/v1/appliances/:name/mandatory',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...jsonBody,
    params: applianceParams,
    body: strictObject({ ...mandatoryFields }),
    responseKind: 'json',
    response: nothing,
  },
  removeMandatory: {
    method: 'DELETE',
    path: '/v1/appliances/:name/mandatory',
    auth: 'session',
    role: 'admin',
    rateClass: 'session',
    ...noBody,
    params: applianceParams,
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
