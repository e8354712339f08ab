import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import https from 'node:https';
import { connect, type AddressInfo, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { type Digest } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ChunkConnections } from './chunk-connections.js';
import { type BlobStore } from './storage/blob-store.js';
import { MemoryBlobStore } from './testing/memory-blob-store.js';
import { chunkOf } from './testing/test-publisher.js';
import { TestRepository } from './testing/test-repository.js';

const CHUNKS = [1, 2, 3].map((seed) => chunkOf(seed));
const [ONE, TWO] = CHUNKS.map(({ digest }) => digest);
const UNKNOWN = 'f'.repeat(64);
const PLAIN = 'host: x\r\nconnection: keep-alive\r\nauthorization: Bearer abc\r\n';

const get = (digest: string | undefined, headers = PLAIN): string =>
  `GET /v1/chunks/${digest} HTTP/1.1\r\n${headers}\r\n`;

/** A connection, and what came on it. */
class Talk {
  readonly socket: Socket;
  #parts: Buffer[] = [];
  #byteCount = 0;
  #wake: () => void = () => undefined;

  constructor(port: number, open = (): Socket => connect(port, '127.0.0.1')) {
    this.socket = open().setNoDelay(true);
    this.socket.on('data', (bytes: Buffer) => {
      this.#parts.push(bytes);
      this.#byteCount += bytes.length;
      this.#wake();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => this.#wake());
  }

  /** The next answer; undefined when the connection ended before it. */
  async answer(hasBody = true): Promise<{ status: number; head: string; body: Buffer } | undefined> {
    for (let wanted = 1; ;) {
      if (this.#byteCount >= wanted) {
        const bytes = Buffer.concat(this.#parts);
        const end = bytes.indexOf('\r\n\r\n');
        const head = bytes.toString('latin1', 0, Math.max(0, end));
        const bodyBytes = hasBody ? Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0) : 0;
        wanted = end < 0 ? bytes.length + 1 : end + 4 + bodyBytes;
        if (bytes.length >= wanted) {
          this.#parts = [bytes.subarray(wanted)];
          this.#byteCount -= wanted;
          return { status: Number(head.slice(9, 12)), head, body: bytes.subarray(end + 4, wanted) };
        }
      }
      if (this.socket.closed) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

describe('beside the whole application', () => {
  let server: TestRepository;
  let port: number;
  /** Requests that Node's server has seen. */
  let long: number;

  const open = async (blobStore = new MemoryBlobStore(() => 0)): Promise<void> => {
    server = await TestRepository.open({ blobStore });
    closing.push(() => server.close());
    await server.repository.blobStore.storeChunks(CHUNKS);
    await server.app.listen({ host: '127.0.0.1', port: 0 });
    ({ port } = server.app.server.address() as AddressInfo);
    long = 0;
    server.app.server.on('request', () => (long += 1));
  };
  const talk = (): Talk => {
    const opened = new Talk(port);
    closing.push(() => opened.socket.destroy());
    return opened;
  };
  const headersOf = (head = ''): string[] =>
    head
      .toLowerCase()
      .split('\r\n')
      .filter((line) => !line.startsWith('date:'))
      .sort();

  beforeEach(() => open());

  test('a plain request is answered as the route answers it, and never seen by it', async () => {
    const short = talk();
    const usual = talk();
    for (const { digest, chunk } of CHUNKS) {
      short.socket.write(get(digest));
      usual.socket.write(get(digest, `${PLAIN}x-not-plain: 1\r\n`));
      const [a, b] = [await short.answer(), await usual.answer()];
      expect([a?.status, a?.body.equals(chunk)]).toEqual([200, true]);
      expect([headersOf(a?.head), a?.body]).toEqual([headersOf(b?.head), b?.body]);
      expect(a?.head).toMatch(/^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/m);
    }
    expect(long).toBe(CHUNKS.length);
  });

  test.each(['bytes=0-1', 'bytes=3-3', 'bytes=1-9999999', 'bytes=9999998-9999999', 'bytes=5-3'])(
    'a request for %s is answered as the route answers it, and never seen by it',
    async (range) => {
      const short = talk();
      const usual = talk();
      short.socket.write(get(ONE, `${PLAIN}range: ${range}\r\n`));
      usual.socket.write(get(ONE, `${PLAIN}range: ${range}\r\nx-not-plain: 1\r\n`));
      const [a, b] = [await short.answer(), await usual.answer()];
      expect([a?.status, headersOf(a?.head), a?.body]).toEqual([b?.status, headersOf(b?.head), b?.body]);
      expect(long).toBe(1);
      // The next one on this connection asks for all of it.
      short.socket.write(get(ONE));
      expect((await short.answer())?.status).toBe(200);
    },
  );

  test.each([
    ['another method', get(ONE).replace('GET', 'HEAD'), 200],
    ['a method that is not allowed', get(ONE).replace('GET', 'PUT'), 404],
    ['an ETag', get(ONE, `${PLAIN}if-none-match: "${ONE}"\r\n`), 304],
    ['a range of another form', get(ONE, `${PLAIN}range: bytes=-1\r\n`), 200],
    ['two ranges', get(ONE, `${PLAIN}range: bytes=0-1,3-4\r\n`), 200],
    ['a range and another', get(ONE, `${PLAIN}range: bytes=0-1\r\nrange: bytes=0-1\r\n`), 200],
    ['HTTP/1.0', get(ONE).replace('HTTP/1.1', 'HTTP/1.0'), 200],
    ['the end of the connection', get(ONE, 'host: x\r\nconnection: close\r\n'), 200],
    ['a query', get(`${ONE}?x`), 200],
    ['no chunk that is there', get(UNKNOWN), 404],
    ['capitals', get(ONE?.toUpperCase()), 400],
    ['a short name', get(ONE?.slice(1)), 400],
    ['a path', get('../../catalogue.sqlite'), 404],
    ['no host', get(ONE, 'connection: keep-alive\r\n'), 400],
    ['two lengths', get(ONE, `${PLAIN}content-length: 1\r\ncontent-length: 2\r\n`), 400],
    ['length and encoding', get(ONE, `${PLAIN}content-length: 5\r\ntransfer-encoding: chunked\r\n`), 400],
    ['a folded header', get(ONE, `${PLAIN}accept: a\r\n b\r\n`), 400],
    ['a control character', get(ONE, `${PLAIN}accept: a\u0001\r\n`), 400],
    ['a bare line feed', get(ONE, 'host: x\naccept: b\r\n'), 400],
    ['headers without end', get(ONE, `${PLAIN}accept: ${'x'.repeat(17_000)}\r\n`), 431],
    ['no HTTP', 'hello\r\n\r\n', 400],
  ])('%s is left to Node', async (_what, words, status) => {
    const one = talk();
    // Also on a connection that was answered the short way before.
    one.socket.write(get(TWO));
    expect((await one.answer())?.status).toBe(200);
    one.socket.write(words);
    expect((await one.answer(!words.startsWith('HEAD')))?.status).toBe(status);
  });

  test('two requests at once, and one in two parts, are answered in order', async () => {
    const one = talk();
    one.socket.write(get(ONE));
    one.socket.write(get(TWO) + get(UNKNOWN) + get(ONE));
    const statuses = [];
    for (let count = 0; count < 4; count += 1) statuses.push((await one.answer())?.status);
    expect(statuses).toEqual([200, 200, 404, 200]);

    const accepted = once(server.app.server, 'connection') as Promise<[Socket]>;
    const other = talk();
    const [theirs] = await accepted;
    other.socket.write(get(ONE));
    expect((await other.answer())?.status).toBe(200);
    const read = once(theirs, 'data');
    other.socket.write(get(TWO).slice(0, 30));
    await read;
    other.socket.write(get(TWO).slice(30));
    expect((await other.answer())?.status).toBe(200);
  });

  test('a medium that is slow, has nothing or fails is waited for', async () => {
    const memory = new MemoryBlobStore(() => 0);
    const read = memory.readChunk.bind(memory);
    await open(memory);
    const slow: BlobStore = memory;
    const answers: (() => void)[] = [];
    slow.readChunk = (digest) =>
      new Promise((resolve, reject) => {
        answers.push(() => (digest === TWO ? reject(new Error('the medium')) : resolve(read(digest))));
      });
    const one = talk();
    for (const [digest, status] of [
      [ONE, 200],
      [UNKNOWN, 404],
      [TWO, 500],
    ] as const) {
      one.socket.write(get(digest));
      const answered = one.answer();
      // The one that is handed over is read once more.
      const giving = setInterval(() => answers.splice(0).forEach((give) => give()), 5);
      expect((await answered)?.status).toBe(status);
      clearInterval(giving);
    }
  });

  test('whoever does not read is not read from, and gets everything later', async () => {
    const accepted = once(server.app.server, 'connection') as Promise<[Socket]>;
    const chunk = Buffer.alloc(4_000_000, 7);
    server.repository.blobStore.readChunk = () => chunk;
    const one = talk();
    const [theirs] = await accepted;
    one.socket.pause();
    let asked = 0;
    while (!theirs.isPaused() && asked < 100) {
      one.socket.write(get(ONE));
      asked += 1;
      await once(theirs, 'data');
    }
    expect(asked).toBeLessThan(100);
    one.socket.write(get(TWO));
    one.socket.resume();
    for (let count = 0; count <= asked; count += 1) expect((await one.answer())?.body.length).toBe(chunk.length);
    expect(long).toBe(0);
  });

  test('the server closes while connections are kept alive, and after what is under way', async () => {
    const [idle, busy] = [talk(), talk()];
    idle.socket.write(get(ONE));
    expect((await idle.answer())?.status).toBe(200);
    const chunk = Buffer.alloc(20_000_000, 7);
    server.repository.blobStore.readChunk = () => chunk;
    const accepted = once(busy.socket, 'data');
    busy.socket.write(get(ONE));
    await accepted;
    const closed = server.app.close();
    expect((await busy.answer())?.body.length).toBe(chunk.length);
    await closed;
    expect(await idle.answer()).toBeUndefined();
  });
});

describe('on a server of its own', () => {
  type Times = { readonly firstBytesMs: number; readonly keepAliveMs: number };
  const NEVER: Times = { firstBytesMs: 1_000_000, keepAliveMs: 1_000_000 };
  const serve = async (server: Server, times: Times, blobStore: Pick<BlobStore, 'readChunk'>): Promise<number> => {
    const isTls = server instanceof https.Server;
    const chunks = new ChunkConnections({ server, isTls, blobStore, ...times });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => new Promise((resolve) => server.close(resolve)));
    closing.push(() => chunks.close());
    return (server.address() as AddressInfo).port;
  };
  const open = async (times: Times): Promise<Talk> => {
    const blobStore = new MemoryBlobStore(() => 0);
    await blobStore.storeChunks(CHUNKS);
    return new Talk(await serve(createServer(), times, blobStore));
  };
  const tlsServer = (): Server => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'chunks-'));
    closing.push(() => rmSync(folder, { recursive: true }));
    const [key, cert] = [path.join(folder, 'key'), path.join(folder, 'cert')];
    const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
    execFileSync('openssl', [...kind, '-subj', '/CN=x', '-keyout', key, '-out', cert], { stdio: 'ignore' });
    return https.createServer({ key: readFileSync(key), cert: readFileSync(cert) });
  };

  // Seen over a line of packets: an answer that was still to be encrypted, and too short for a 'drain' after it, left its connection unread.
  test.each([true, false])(
    'over TLS each request is answered, however long the chunk before it (at hand: %s)',
    async (isAtHand) => {
      const lengths = [100, 5_000, 16_000, 16_384, 20_000, 100_000, 1_000_000];
      const chunks = new Map(lengths.map((length, at) => [chunkOf(at).digest, Buffer.alloc(length, at)]));
      const readChunk = (digest: string): Buffer | undefined | Promise<Buffer | undefined> =>
        isAtHand ? chunks.get(digest as Digest) : Promise.resolve(chunks.get(digest as Digest));
      const port = await serve(tlsServer(), NEVER, { readChunk });
      const one = new Talk(port, () => tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }));
      closing.push(() => one.socket.destroy());
      for (const [digest, chunk] of [...chunks, ...chunks]) {
        one.socket.write(get(digest));
        expect((await one.answer())?.body.equals(chunk)).toBe(true);
      }
    },
  );

  test('one whose chunk is being read when all end is answered first', async () => {
    let arrive = (): void => undefined;
    const chunk = new Promise<Buffer>((resolve) => (arrive = (): void => resolve(Buffer.alloc(1_000, 7))));
    let read = (): void => undefined;
    const reading = new Promise<void>((resolve) => (read = resolve));
    const server = createServer();
    const chunks = new ChunkConnections({
      ...{ server, isTls: false, ...NEVER },
      blobStore: { readChunk: () => (read(), chunk) },
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => server.close());
    const one = new Talk((server.address() as AddressInfo).port);
    one.socket.write(get(ONE));
    await reading;
    chunks.close();
    arrive();
    expect((await one.answer())?.body.length).toBe(1_000);
    expect(await one.answer()).toBeUndefined();
  });
  test('a connection that says nothing ends after its time', async () => {
    const one = await open({ firstBytesMs: 20, keepAliveMs: 1_000_000 });
    await once(one.socket, 'close');
    expect(await one.answer()).toBeUndefined();
  });
  test('so does one that is kept alive and not used, later', async () => {
    const one = await open({ firstBytesMs: 1_000_000, keepAliveMs: 20 });
    one.socket.write(get(ONE));
    expect((await one.answer())?.status).toBe(200);
    expect(await one.answer()).toBeUndefined();
  });
  test('a client that ends its side gets its answer first', async () => {
    const one = await open({ firstBytesMs: 1_000_000, keepAliveMs: 1_000_000 });
    one.socket.end(get(ONE));
    expect((await one.answer())?.status).toBe(200);
    expect(await one.answer()).toBeUndefined();
  });
});
