import { Writable } from 'node:stream';
import { randomBytes } from 'node:crypto';
import Database from 'better-sqlite3';
import { newSigningKeySeed, signingKeyFromSeed } from '@collective/shared';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { buildApp } from './app.js';
import { DEFAULT_LIMITS } from './limits.js';
import { addressKey, RateLimiter } from './rate-limiter.js';
import { BodyBudget } from './body-budget.js';
import { TestClock } from './testing/test-clock.js';
import { TestRepository } from './testing/test-repository.js';

let server: TestRepository;
beforeEach(async () => {
  server = await TestRepository.open({ limits: { openRequests: 5 } });
});
afterEach(() => server.close());

describe('the application', () => {
  test('answers what is no route, no JSON, no known type or a broken body with an error of the table', async () => {
    const post = async (payload: string, type = 'application/json'): Promise<unknown> => {
      const response = await server.app.inject({
        method: 'POST',
        url: '/v1/login/challenge',
        payload,
        headers: { 'content-type': type },
      });
      return [response.statusCode, response.json().code];
    };
    expect((await server.app.inject('/nowhere')).json()).toMatchObject({ code: 'not-found' });
    expect((await server.app.inject('/v1/%')).json()).toMatchObject({ code: 'bad-request' });
    expect(await post('{')).toEqual([400, 'malformed']);
    expect(await post('')).toEqual([400, 'bad-request']);
    expect(await post('{"device":"x","device":"y"}')).toEqual([400, 'malformed']);
    expect(await post('{"device":1}')).toEqual([400, 'bad-request']);
    expect(await post('{"__proto__":{}}')).toEqual([400, 'malformed']);
    expect(await post('<x/>', 'text/xml')).toEqual([400, 'bad-request']);
    expect(await post(`"${'x'.repeat(20_000)}"`)).toEqual([413, 'too-large']);
  });
  test('limits what one address asks without a token', async () => {
    const statuses: number[] = [];
    for (let count = 0; count < 7; count += 1) statuses.push((await server.request('health')).status);
    expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429]);
    expect((await server.request('health', { address: '192.0.2.77' })).status).toBe(200);
  });
  test('counts by the address that a proxy says, when it is the one that is believed, and nobody else', async () => {
    const ask = async (of: TestRepository, address: string, forwarded: string): Promise<number> =>
      (await of.request('health', { address, headers: { 'x-forwarded-for': forwarded } })).status;
    const behind = await TestRepository.open({ limits: { openRequests: 1 }, proxyAddress: '127.0.0.1' });
    expect(await ask(behind, '127.0.0.1', '192.0.2.1')).toBe(200);
    expect(await ask(behind, '127.0.0.1', '192.0.2.1')).toBe(429);
    expect(await ask(behind, '127.0.0.1', '192.0.2.2')).toBe(200);
    // What a caller has put there himself stands before what the proxy knows.
    expect(await ask(behind, '127.0.0.1', '192.0.2.9, 192.0.2.2')).toBe(429);
    expect(await ask(behind, '192.0.2.3', '192.0.2.4')).toBe(200);
    expect(await ask(behind, '192.0.2.3', '192.0.2.5')).toBe(429);
    await behind.close();
    for (let count = 0; count < 5; count += 1) await ask(server, '127.0.0.1', `192.0.2.${count}`);
    expect(await ask(server, '127.0.0.1', '192.0.2.99')).toBe(429);
  });
  test('tells strangers nothing about its own failures', async () => {
    server.repository.blobStore.read = () => Promise.reject(new Error('/secret/path is broken'));
    const reply = await server.request('trust', { params: { number: 1 } });
    expect([reply.status, reply.body.toString()]).toEqual([500, '{"code":"internal","message":"The server failed"}']);
  });
  test('says that its disk is full when it is the catalogue that finds it so', async () => {
    // It was 'internal', which transceivers take for a server that is away: nobody was told to make room.
    server.repository.blobStore.read = () =>
      Promise.reject(new Database.SqliteError('database or disk is full', 'SQLITE_FULL'));
    const reply = await server.request('trust', { params: { number: 1 } });
    expect([reply.status, reply.json()]).toMatchObject([507, { code: 'disk-full' }]);
  });
  test('logs route, status and account, and never a token, a secret or a body', async () => {
    const lines: string[] = [];
    const stream = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        lines.push(chunk.toString());
        done();
      },
    });
    const alice = await server.join('alice', 'user');
    const { app } = await buildApp({
      ...server.repository,
      limits: DEFAULT_LIMITS,
      logger: pino({ level: 'debug' }, stream),
    });
    await app.inject({ url: '/v1/me', headers: { authorization: `Bearer ${alice.token}` } });
    const payload = { account: 'alice', loginSecret: alice.loginSecret };
    const login = await app.inject({ method: 'POST', url: '/v1/login/password', payload });
    await app.inject({
      method: 'POST',
      url: '/v1/login/password',
      payload: { ...payload, loginSecret: randomBytes(32).toString('base64url') },
    });
    await app.close();
    const log = lines.join('');
    expect(log).toContain('"route":"/v1/me","status":200,"account":"alice"');
    expect(log).toContain('"route":"/v1/login/password","status":401');
    for (const secret of [alice.token, alice.loginSecret, login.json().token]) expect(log).not.toContain(secret);
  });
  test('does not start with a heads key that the trust file does not name', async () => {
    const heads = signingKeyFromSeed(newSigningKeySeed());
    const other = { ...server.repository, keys: { ...server.repository.keys, heads } };
    await expect(buildApp(other)).rejects.toMatchObject({ code: 'untrusted' });
  });
});

describe('the rate limiter', () => {
  test('lets a key through again when its minute is over, and keeps keys apart', () => {
    const clock = new TestClock();
    const limiter = new RateLimiter(clock);
    limiter.count('a', 1);
    expect(() => limiter.count('a', 1)).toThrow(/60 s/);
    limiter.count('b', 1);
    clock.advance(60);
    limiter.count('a', 1);
  });
  test('counts an IPv6 network as one address', () => {
    expect(addressKey('2001:db8:1:2:3:4:5:6')).toBe(addressKey('2001:db8:1:2::1'));
    expect(addressKey('2001:db8:1:2::1')).not.toBe(addressKey('2001:db8:1:3::1'));
    expect(addressKey('::1')).toBe('0:0:0:0');
    expect(addressKey('::ffff:192.0.2.1')).toBe('192.0.2.1');
    expect(addressKey('192.0.2.1')).toBe('192.0.2.1');
  });
});

describe('the body budget', () => {
  const ask = (budget: BodyBudget, headers: Record<string, string>): (() => void) => {
    let end = (): void => undefined;
    const response = { once: (_event: string, listener: () => void) => void (end = listener) };
    budget.admit({ headers } as never, response as never, 100);
    return () => end();
  };
  test('admits bodies until their sum is too large, and again when one has ended', () => {
    const budget = new BodyBudget(150);
    const end = ask(budget, { 'content-length': '100' });
    expect(() => ask(budget, { 'content-length': '60' })).toThrow(/busy/);
    expect(() => ask(budget, { 'transfer-encoding': 'chunked' })).toThrow(/busy/);
    ask(budget, { 'content-length': '0' });
    end();
    ask(budget, { 'transfer-encoding': 'chunked' });
  });
  test('refuses a body that is announced longer than the route allows', () => {
    expect(() => ask(new BodyBudget(1_000), { 'content-length': '101' })).toThrow(/at most 100/);
  });
});
