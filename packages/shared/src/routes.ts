/**
 * The HTTP routes, for the server (fastify schemas) and the client alike. All lie under /v1; a status of 400 or above
 * carries an ErrorBody with the status of the error table; bodies of bytes are application/octet-stream. What the
 * fields of a route mean is said in route-spec.ts.
 */
import type { Static, TSchema } from '@collective/schema';
import { ACCOUNT_ROUTES } from './account-routes.js';
import { ADMIN_ROUTES } from './admin-routes.js';
import { KEYS_ROUTES } from './keys-routes.js';
import { PUBLISHING_ROUTES } from './publishing-routes.js';
import { READING_ROUTES } from './reading-routes.js';
import { type RouteSpec } from './route-spec.js';
import { SUBSCRIPTION_ROUTES } from './subscription-routes.js';

export const ROUTES = {
  ...ACCOUNT_ROUTES,
  ...KEYS_ROUTES,
  ...READING_ROUTES,
  ...PUBLISHING_ROUTES,
  ...SUBSCRIPTION_ROUTES,
  ...ADMIN_ROUTES,
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
