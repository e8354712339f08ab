/** Hostile callers on real sockets: what they get, and that everybody else is served meanwhile. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  DEFAULT_LIMITS,
  initRepository,
  openRepository,
  startServer,
  systemClock,
  type Limits,
  type RunningServer,
} from '@collective/repository-server';
import { encodeChunk, sha256 } from '@collective/shared';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { request } from 'undici';

const LIMITS: Limits = { ...DEFAULT_LIMITS, requestMsMax: 1_000, connectionsMax: 20, bodyBytesInFlightMax: 6_000_000 };
const UPLOAD = `/v1/uploads/${'a'.repeat(32)}/chunks`;

let home: string;
let server: RunningServer;
let port: number;
const sockets = new Set<Socket>();

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'server-hostile-'));
  const folder = join(home, 'repository');
  const settings = { format: 1, origin: 'http://127.0.0.1:1', isOriginGiven: false, pin: null } as const;
  await initRepository(folder, { settings, admin: 'admin', limits: LIMITS, clock: systemClock });
  server = await startServer({
    folder,
    host: '127.0.0.1',
    port: 0,
    insecureHttp: false,
    limits: LIMITS,
    clock: systemClock,
  });
  port = Number(new URL(server.origin).port);
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await server.close();
  await rm(home, { recursive: true, force: true });
});

/** Sends the parts and resolves with everything that came back when the server ends the connection. */
const talk = (parts: readonly (string | Buffer)[], untilText?: string): Promise<string> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    sockets.add(socket);
    let text = '';
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (untilText !== undefined && text.includes(untilText)) resolve(text);
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(text));
    for (const part of parts) socket.write(part);
  });

const expectServing = async (): Promise<void> => {
  const reply = await request(`${server.origin}/v1/health`, { reset: true });
  expect([reply.statusCode, await reply.body.json()]).toEqual([200, { ok: true }]);
};

test('a request whose headers or body never end is cut off after its time, others are served meanwhile', async () => {
  const waiting = [
    talk(['GET /v1/health HTTP/1.1\r\nHost: x\r\n']),
    talk([
      `POST ${UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\nContent-Type: application/octet-stream\r\n\r\nabc`,
    ]),
    talk([
      'POST /v1/login/challenge HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{',
    ]),
  ];
  await expectServing();
  const [headers, unauthorised, body] = await Promise.all(waiting);
  expect(headers).toMatch(/^HTTP\/1\.1 408 /);
  expect(unauthorised).toMatch(/^HTTP\/1\.1 401 /);
  expect(body).toMatch(/^HTTP\/1\.1 408 /);
  await expectServing();
});

test('headers without end, two lengths, a length and chunks, or no HTTP at all are refused', async () => {
  expect(await talk([`GET /v1/health HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(40_000)}\r\n\r\n`])).toMatch(
    /^HTTP\/1\.1 431 /,
  );
  const start = 'POST /v1/login/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
  expect(await talk([`${start}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`])).toMatch(/^HTTP\/1\.1 400 /);
  expect(await talk([`${start}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`])).toMatch(
    /^HTTP\/1\.1 400 /,
  );
  expect(await talk([randomBytes(2_000)])).toMatch(/^(HTTP\/1\.1 400 |$)/);
  await expectServing();
});

test('a body that is announced too long, or grows too long in chunks, is refused and the connection closed', async () => {
  const start = 'POST /v1/login/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
  expect(await talk([`${start}Content-Length: 99999999\r\n\r\n{`])).toMatch(/^HTTP\/1\.1 413 [\s\S]*"too-large"/);
  const chunk = `4000\r\n${'x'.repeat(0x4000)}\r\n`;
  expect(await talk([`${start}Transfer-Encoding: chunked\r\n\r\n`, chunk, chunk, chunk])).toMatch(/^HTTP\/1\.1 413 /);
  await expectServing();
});

test('somebody without a token is refused before a body is buffered', async () => {
  const head = `POST ${UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nContent-Type: application/octet-stream\r\n\r\n`;
  const replies = await Promise.all(Array.from({ length: 10 }, () => talk([head], '"not-logged-in"')));
  for (const reply of replies) expect(reply).toMatch(/^HTTP\/1\.1 401 /);
  await expectServing();
});

test('more connections than allowed are dropped, and there is room again when they end', async () => {
  const idle = await Promise.all(
    Array.from({ length: LIMITS.connectionsMax }, () => {
      const socket = connect(port, '127.0.0.1');
      sockets.add(socket);
      socket.on('error', () => undefined);
      return new Promise<Socket>((resolve) => socket.once('connect', () => resolve(socket)));
    }),
  );
  expect(await talk(['GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n'])).toBe('');
  await Promise.all(idle.map((socket) => new Promise((resolve) => socket.once('close', resolve).destroy())));
  await expect
    .poll(() => talk(['GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n']))
    .toMatch(/^HTTP\/1\.1 200 /);
});

test('a client that asks for chunks and does not read them does not make the server hold its answers', async () => {
  const block = randomBytes(1_000_000);
  const digest = sha256(block);
  const beside = await openRepository(join(home, 'repository'));
  await beside.blobStore.storeChunks([{ digest, chunk: encodeChunk(block) }]);
  await beside.close();
  const socket = connect(port, '127.0.0.1');
  sockets.add(socket);
  socket.pause();
  const before = process.memoryUsage().rss;
  for (let count = 0; count < 2_000; count += 1) socket.write(`GET /v1/chunks/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
  for (let count = 0; count < 20; count += 1) await expectServing();
  expect(process.memoryUsage().rss - before).toBeLessThan(300_000_000);
});
