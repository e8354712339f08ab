import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { CollectiveError } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RepositoryClient } from './repository-client.js';

let server: Server;
let client: RepositoryClient;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
const json = (response: ServerResponse, status: number, value: unknown): void => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
};

beforeEach(async () => {
  server = createServer((request, response) => answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  client = new RepositoryClient({ origin: `http://127.0.0.1:${String((server.address() as AddressInfo).port)}` });
});
afterEach(async () => {
  await client.close();
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

describe('parts of snapshot objects', () => {
  const of = { subscription: '5'.repeat(32), number: 7 };
  const part = (response: ServerResponse, range: string): void => {
    response.writeHead(206, { 'content-range': range, etag: '"tag"' }).end(Buffer.from('part'));
  };

  beforeEach(() => client.useTokens({ token: async (refused) => (refused === undefined ? 'old' : 'new') }));

  it('come with their place and tag, and ask with the tag that is known', async () => {
    let asked: IncomingMessage | undefined;
    answer = (request, response) => {
      asked = request;
      part(response, 'bytes 10-13/100');
    };
    expect(await client.objectRange({ ...of, range: '10-99', ifMatch: '"tag"' })).toEqual({
      ...{ bytes: Buffer.from('part'), byteOffset: 10, objectBytes: 100, etag: '"tag"' },
    });
    expect(asked?.url).toBe(`/v1/me/subscriptions/${of.subscription}/snapshots/7/data`);
    expect(asked?.headers).toMatchObject({ range: 'bytes=10-99', 'if-match': '"tag"', authorization: 'Bearer old' });
  });

  it('of a whole object that fits into one answer', async () => {
    answer = (_request, response) => response.writeHead(200, { etag: '"tag"' }).end(Buffer.from('part'));
    expect(await client.objectRange({ ...of, range: '-65536' })).toMatchObject({ byteOffset: 0, objectBytes: 4 });
  });

  it('a token that has expired is renewed once', async () => {
    answer = (request, response) =>
      request.headers.authorization === 'Bearer new'
        ? part(response, 'bytes 0-3/4')
        : json(response, 401, { code: 'token-expired', message: 'expired' });
    expect((await client.objectRange({ ...of, range: '0-3' })).bytes.toString()).toBe('part');
  });

  it.each(['bytes 10-14/100', 'bytes */100', ''])(
    'whose headers (%s) do not go with the body: refused',
    async (range) => {
      answer = (_request, response) => part(response, range);
      await expect(client.objectRange({ ...of, range: '10-99' })).rejects.toMatchObject({ code: 'malformed' });
    },
  );

  it('of an object that was rewritten: conflict', async () => {
    answer = (_request, response) => json(response, 409, { code: 'conflict', message: 'rewritten' });
    await expect(client.objectRange({ ...of, range: '0-3', ifMatch: '"old"' })).rejects.toMatchObject({
      code: 'conflict',
    });
  });
});

describe('RepositoryClient', () => {
  it('gives the bytes of a route of bytes, and counts them', async () => {
    answer = (_request, response) => response.end(Buffer.from('trust'));
    expect((await client.call('trust', { params: { number: 1 } })).toString()).toBe('trust');
    expect(client.transferred.receivedBytes).toBe(5);
  });

  it("gives the server's error by its code, with its data", async () => {
    answer = (_request, response) =>
      json(response, 404, { code: 'not-found', message: 'no file 9', data: { number: 9 } });
    await expect(client.call('trust', { params: { number: 9 } })).rejects.toMatchObject({
      code: 'not-found',
      message: 'no file 9',
      data: { number: 9 },
    });
  });

  it("says of the server's disk that it is the server's: its own words would be taken for this machine's disk", async () => {
    // `status` said "The local disk is full" while the repository's was: the person would have cleared the wrong one.
    for (const [code, words] of [
      ['disk-full', 'The disk of the repository is full.'],
      ['local-io', 'The disk of the repository has failed.'],
    ]) {
      // Nor may it say so by the words that only this machine uses.
      const data = { local: true, errno: 'ENOSPC', missingBytes: 1, number: 9 };
      answer = (_request, response) => json(response, 507, { code, message: 'The disk is full', data });
      const error: unknown = await client.call('trust', { params: { number: 9 } }).catch((said: unknown) => said);
      expect(error).toMatchObject({ code, message: words });
      expect((error as CollectiveError).data).toEqual({ number: 9 });
    }
  });

  it('takes an answer that is not ours for an unreachable repository or a bad request', async () => {
    answer = (_request, response) => response.writeHead(502).end('<html>');
    await expect(client.call('identity', {})).rejects.toMatchObject({ code: 'repository-unreachable' });
    answer = (_request, response) => response.writeHead(418).end('teapot');
    await expect(client.call('identity', {})).rejects.toMatchObject({ code: 'bad-request' });
  });

  it('refuses an answer that the route does not document', async () => {
    answer = (_request, response) => json(response, 200, { identity: 'short', software: '', protocol: 1 });
    await expect(client.call('identity', {})).rejects.toMatchObject({ code: 'malformed' });
    answer = (_request, response) => response.end('no json');
    await expect(client.call('identity', {})).rejects.toMatchObject({ code: 'malformed' });
  });

  it('reads no more than it was told to', async () => {
    answer = (_request, response) => response.end(Buffer.alloc(10_000));
    await expect(client.call('trust', { params: { number: 1 }, responseBytesMax: 9_999 })).rejects.toMatchObject({
      code: 'too-large',
    });
  });

  it('says that a server that is away cannot be reached', async () => {
    const away = new RepositoryClient({ origin: 'http://127.0.0.1:1' });
    await expect(away.call('health', {})).rejects.toMatchObject({ code: 'repository-unreachable' });
    await away.close();
  });

  it('tells when it is back, once, whoever asked, and not of calls that were given up', async () => {
    let backs = 0;
    client.onBack(() => (backs += 1));
    answer = (request) => request.socket.destroy();
    await expect(client.call('health', {})).rejects.toMatchObject({ code: 'repository-unreachable' });
    await expect(client.call('health', {})).rejects.toMatchObject({ code: 'repository-unreachable' });
    answer = (_request, response) => json(response, 503, { code: 'shutting-down', message: 'soon' });
    expect(backs).toBe(0);
    await expect(client.call('health', {})).rejects.toMatchObject({ code: 'shutting-down' });
    expect(backs).toBe(1);
    const controller = new AbortController();
    answer = () => controller.abort(new Error('enough'));
    await expect(client.call('health', { signal: controller.signal })).rejects.toThrow('enough');
    answer = (_request, response) => json(response, 503, { code: 'shutting-down', message: 'soon' });
    await expect(client.call('health', {})).rejects.toMatchObject({ code: 'shutting-down' });
    expect(backs).toBe(1);
  });

  it('rejects with the reason of the signal', async () => {
    const controller = new AbortController();
    answer = () => controller.abort(new Error('enough'));
    await expect(client.call('health', { signal: controller.signal })).rejects.toThrow('enough');
  });

  it('repeats a call once with a fresh token when the one that it has was refused', async () => {
    const used: (string | undefined)[] = [];
    answer = (request, response) => {
      used.push(request.headers.authorization);
      if (request.headers.authorization === 'Bearer fresh') response.end(Buffer.from('heads'));
      else json(response, 401, { code: 'token-expired', message: 'old' });
    };
    client.useTokens({ token: async (refused) => (refused === undefined ? 'stale' : 'fresh') });
    expect((await client.call('heads', {})).toString()).toBe('heads');
    expect(used).toEqual(['Bearer stale', 'Bearer fresh']);
  });

  it('gives up when the fresh token is refused, too', async () => {
    let calls = 0;
    answer = (_request, response) => {
      calls += 1;
      json(response, 401, { code: 'token-expired', message: 'old' });
    };
    client.useTokens({ token: async () => 'any' });
    await expect(client.call('heads', {})).rejects.toMatchObject({ code: 'token-expired' });
    expect(calls).toBe(2);
  });

  it('asks for a login before it asks the server, when it has no token', async () => {
    answer = () => expect.fail('nothing may be sent');
    await expect(client.call('heads', {})).rejects.toMatchObject({ code: 'not-logged-in' });
  });
});
