import { Compile } from '@collective/schema';
import { describe, expect, it } from 'vitest';
import { type RouteSpec } from './route-spec.js';
import { ROUTES, routePath } from './routes.js';

const routes = Object.entries<RouteSpec>(ROUTES);

describe('route table', () => {
  it('has no two routes with one method and path, and all below /v1', () => {
    const places = routes.map(([, { method, path }]) => `${method} ${path.replace(/:[a-z]+/g, ':')}`);
    expect(new Set(places).size).toBe(places.length);
    for (const [, { path }] of routes) expect(path).toMatch(/^\/v1(?:\/:?[a-z-]+)+$/);
  });

  it.each(routes)('%s has a schema for each parameter, for a JSON body and for a JSON answer', (_name, route) => {
    const inPath = [...route.path.matchAll(/:([a-z]+)/g)].map(([, name]) => name);
    expect(Object.keys(route.params?.properties ?? {}).sort()).toEqual(inPath.sort());
    expect(route.body !== undefined).toBe(route.bodyKind === 'json');
    expect(route.response !== undefined).toBe(route.responseKind === 'json');
    expect(route.bytesMax > 0).toBe(route.bodyKind !== 'none');
    expect(route.role === 'admin' ? route.auth : 'session').toBe('session');
    for (const schema of [route.params, route.query, route.body, route.response]) {
      if (schema !== undefined) expect(() => Compile(schema)).not.toThrow();
    }
  });

  it.each(routes)('%s takes no unknown field and only reads with GET', (_name, route) => {
    for (const schema of [route.params, route.query, route.body]) {
      if (schema !== undefined) expect(schema).toMatchObject({ additionalProperties: false });
    }
    if (route.method === 'GET') expect(route.bodyKind).toBe('none');
  });

  it('asks for no token only where the list below says so', () => {
    expect(
      routes
        .filter(([, { auth }]) => auth === 'none')
        .map(([name]) => name)
        .sort(),
    ).toEqual([
      'acceptInvitation',
      'chunk',
      'health',
      'identity',
      'invitationKind',
      'loginChallenge',
      'loginDevice',
      'loginPassword',
      'loginRecovery',
      'passwordParameters',
      'recoveryChallenge',
      'trust',
    ]);
    expect(routes.filter(([, { auth }]) => auth === 'enrol').map(([name]) => name)).toEqual(['registerDevice']);
  });
});

describe('route path', () => {
  it('encodes parameters and query', () => {
    expect(routePath('versionManifest', { name: 'a b/..', version: 3 })).toBe(
      '/v1/appliances/a%20b%2F../versions/3/manifest',
    );
    expect(routePath('diskMap', { name: 'a', version: 1, disk: 'system' }, { part: 'leaves', positions: '0,5' })).toBe(
      '/v1/appliances/a/versions/1/disks/system/map?part=leaves&positions=0%2C5',
    );
    expect(routePath('diskMap', { name: 'a', version: 1, disk: 's' }, { part: undefined })).not.toContain('?');
  });

  it('is not made of too few or too many parameters', () => {
    expect(() => routePath('chunk')).toThrow(TypeError);
    expect(() => routePath('chunk', { digest: '' })).toThrow(TypeError);
    expect(() => routePath('health', { digest: 'a' })).toThrow(TypeError);
  });
});
