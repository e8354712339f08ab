import { describe, expect, it } from 'vitest';
import { Compile } from '@collective/schema';
import { type RouteSpec } from './route-spec.js';
import { routePath } from './routes.js';
import { SNAPSHOT_PART_BYTES_MAX, SUBSCRIPTION_ROUTES, subscriptionState } from './subscription-routes.js';

const routes = Object.entries<RouteSpec>(SUBSCRIPTION_ROUTES);
const subscription = '0123456789abcdef0123456789abcdef';

describe('routes of a person', () => {
  it.each(routes)('%s is for sessions, below the own subscriptions, and names no account', (_name, route) => {
    expect(route.auth).toBe('session');
    expect(route.path).toMatch(/^\/v1\/me\/subscriptions/);
    expect(Object.keys(route.params?.properties ?? {})).not.toContain('account');
  });

  it('move data uncounted, and everything else counted', () => {
    expect(routes.filter(([, { rateClass }]) => rateClass === 'bulk').map(([name]) => name)).toEqual([
      'snapshotData',
      'uploadSnapshotPart',
    ]);
    expect(SUBSCRIPTION_ROUTES.uploadSnapshotPart.bytesMax).toBe(SNAPSHOT_PART_BYTES_MAX);
  });

  it('have the paths of the document', () => {
    const params = { subscription, upload: subscription };
    expect(routePath('uploadSnapshotPart', params, { offset: 7 })).toBe(
      `/v1/me/subscriptions/${subscription}/uploads/${subscription}/data?offset=7`,
    );
    expect(routePath('snapshots', { subscription }, { below: 5, which: 'deleted' })).toBe(
      `/v1/me/subscriptions/${subscription}/snapshots?below=5&which=deleted`,
    );
  });

  it('take an id of 32 lower-case hex digits and nothing else', () => {
    const { params } = SUBSCRIPTION_ROUTES.createSubscription;
    const validator = Compile(params);
    expect(validator.Check({ subscription })).toBe(true);
    for (const wrong of [subscription.toUpperCase(), subscription.slice(1), `${subscription}0`, '../etc', ''])
      expect(validator.Check({ subscription: wrong })).toBe(false);
  });

  it('take lease numbers from 0 where something is made disconnected, and from 1 elsewhere', () => {
    const open = Compile(SUBSCRIPTION_ROUTES.openSnapshotUpload.body);
    for (const [lease, isRight] of [
      [0, true],
      [-1, false],
      [1.5, false],
    ] as const)
      expect(open.Check({ number: 1, parent: null, lease })).toBe(isRight);
    expect(Compile(SUBSCRIPTION_ROUTES.heartbeat.params).Check({ subscription, lease: 0 })).toBe(false);
  });

  it('show a subscription without snapshot and lease', () => {
    const state = { subscription, appliance: 'debian', createdAt: 1, deletedAt: null, head: null, lease: null };
    expect(Compile(subscriptionState).Check(state)).toBe(true);
  });
});
