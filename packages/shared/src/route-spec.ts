/**
 * What one HTTP route says of itself; the routes are in routes.ts.
 *
 * Auth: `none`; `enrol`: a bearer token of a password login (it may register a device); `session`: a bearer token of a
 * device login. A `session` token is good for `enrol` too. What the account may do beyond that (its role, its access to
 * the appliance) the handler checks; `role: 'admin'` is for accounts of that role only.
 *
 * `bytesMax` bounds the request body. `rateClass` names a limit: `login` is for what guesses at passwords, tokens and
 * names; `open` for what needs no token; `session` for the rest; `bulk` for what moves data.
 */
import type { TObject, TSchema } from '@collective/schema';

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

export const noBody = { bodyKind: 'none', bytesMax: 0 } as const;
export const jsonBody = { bodyKind: 'json', bytesMax: 16_384 } as const;
export const bytesOut = { responseKind: 'bytes' } as const;
