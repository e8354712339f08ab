/**
 * The short way of the hot path: a plain request for a chunk is answered on the socket, without Node's HTTP server and fastify, which together take
 * three times as long as all the rest (docs/PERFORMANCE.md, "A storm"). Connections of clients that fetch chunks carry nothing else.
 *
 * What counts as plain is narrow: one read of the socket that is exactly one HTTP/1.1 request, GET, a digest, few headers, all of them known to say
 * nothing about the answer but a range of bytes. Anything else, and every chunk that is not there, hands the connection over, with the bytes that were read, to Node's server, which keeps it: so
 * whatever is odd, long, slow, partial, pipelined or hostile is judged by Node's parser and its time-outs, and whatever is an error is worded by fastify.
 *
 *   reading ─ plain ─► answered ─► reading …          reading ─ anything else ─► handed over, for good
 *
 * A connection on which nothing moves ends by itself: before its first request as Node ends one, later as one that is kept alive. One that does not
 * read its answers is not read from.
 */
import { type Server } from 'node:http';
import { type Socket } from 'node:net';
import { isDigest, type Digest, ROUTES } from '@collective/shared';
import { CHUNK_HEADERS, partOf } from './routes/chunk-route.js';
import { type BlobStore } from './storage/blob-store.js';

const DIGEST_CHARS = 64;
const BEGIN = `GET ${ROUTES.chunk.path.replace(':digest', '')}`;
const LINE_END = ' HTTP/1.1\r\n';
const LINE_CHARS = BEGIN.length + DIGEST_CHARS + LINE_END.length;
/** A bearer token and a few names; longer ones are Node's. */
const REQUEST_BYTES_MAX = 1_024;
/** Host first and once, as Node demands it; then what says nothing about the answer, and at most one range of bytes. */
const PLAIN_HEADER = String.raw`(?:connection: ?keep-alive|(?:authorization|user-agent|accept|accept-encoding|accept-language|x-forwarded-for): ?[\x20-\x7e]*)\r\n`;
const PLAIN_HEADERS = new RegExp(
  String.raw`^host: ?[0-9a-z.:[\]-]+\r\n(?:${PLAIN_HEADER})*(?:range: ?(bytes=[0-9]{1,7}-[0-9]{1,7})\r\n(?:${PLAIN_HEADER})*)?\r\n$`,
  'i',
);

export type ChunkConnectionsOptions = {
  readonly server: Server;
  readonly isTls: boolean;
  readonly blobStore: Pick<BlobStore, 'readChunk'>;
  /** Until a new connection has said something. */
  readonly firstBytesMs: number;
  /** Between two requests, and while an answer does not get on. */
  readonly keepAliveMs: number;
};

export class ChunkConnections {
  readonly #options: ChunkConnectionsOptions;
  readonly #handOver: (socket: Socket) => void;
  readonly #open = new Set<Socket>();
  /** Those of them whose chunk is on its way from the disk. */
  readonly #reading = new Set<Socket>();
  readonly #end: string;
  #isClosed = false;
  #date = '';
  #dateSecond = 0;

  /** Takes the server's connections from here on. */
  constructor(options: ChunkConnectionsOptions) {
    this.#options = options;
    this.#end = `Connection: keep-alive\r\nKeep-Alive: timeout=${options.keepAliveMs / 1_000}\r\n\r\n`;
    const { server } = options;
    // Node's server takes connections that are emitted to it; what listens to that is its own way in.
    const event = options.isTls ? 'secureConnection' : 'connection';
    const listeners = server.listeners(event);
    server.removeAllListeners(event);
    server.on(event, (socket: Socket) => this.#take(socket));
    this.#handOver = (socket) => {
      for (const listener of listeners) listener.call(server, socket);
    };
  }

  /** Ends the connections that were not handed over, each after its last answer. */
  close(): void {
    this.#isClosed = true;
    for (const socket of this.#open) if (!this.#reading.has(socket)) socket.destroySoon();
  }

  #take(socket: Socket): void {
    if (this.#isClosed) return this.#handOver(socket);
    const { firstBytesMs, keepAliveMs } = this.#options;
    /** The headers that were found plain last: a client sends the same ones with each request. */
    let plain = '';
    let range: string | undefined;
    const onData = (bytes: Buffer): void => {
      const text = bytes.length <= REQUEST_BYTES_MAX ? bytes.toString('latin1') : '';
      const digest = requestedDigest(text);
      const headers = text.slice(LINE_CHARS);
      if (digest === undefined) return leave(bytes);
      if (headers !== plain) {
        const match = PLAIN_HEADERS.exec(headers);
        if (match === null) return leave(bytes);
        if (plain === '') socket.setTimeout(keepAliveMs);
        [plain, range] = [headers, match[1]];
      }
      const found = this.#options.blobStore.readChunk(digest);
      if (Buffer.isBuffer(found)) return this.#answer(socket, { digest, range, chunk: found });
      if (found === undefined) return leave(bytes);
      socket.pause();
      this.#reading.add(socket);
      const asked = range;
      found
        .finally(() => this.#reading.delete(socket))
        .then(
          (chunk) => {
            if (chunk === undefined) return leave(bytes);
            this.#answer(socket, { digest, range: asked, chunk });
            if (this.#isClosed) socket.destroySoon();
            else if (!isFull(socket)) socket.resume();
          },
          () => leave(bytes),
        );
    };
    const onDrain = (): void => void socket.resume();
    const onEnd = (): void => void socket.end();
    const onClose = (): void => void this.#open.delete(socket);
    const onBroken = (): void => void socket.destroy();
    const leave = (bytes: Buffer): void => {
      this.#open.delete(socket);
      if (socket.destroyed) return;
      socket.off('data', onData).off('drain', onDrain).off('end', onEnd).off('close', onClose);
      socket.off('error', onBroken).off('timeout', onBroken);
      socket.setTimeout(0);
      socket.pause();
      socket.unshift(bytes);
      this.#handOver(socket);
      process.nextTick(() => socket.resume());
    };
    this.#open.add(socket);
    socket.setTimeout(firstBytesMs);
    socket.on('data', onData).on('drain', onDrain).on('end', onEnd).on('close', onClose);
    socket.on('error', onBroken).on('timeout', onBroken);
  }

  #answer(
    socket: Socket,
    { digest, range, chunk }: { readonly digest: Digest; readonly range: string | undefined; readonly chunk: Buffer },
  ): void {
    const part = range === undefined ? undefined : partOf(range, chunk);
    const status = part === undefined ? '200 OK' : `206 Partial Content\r\ncontent-range: ${part.contentRange}`;
    const bytes = part?.bytes ?? chunk;
    socket.cork();
    socket.write(
      `HTTP/1.1 ${status}\r\netag: "${digest}"\r\n${CHUNK_LINES}content-length: ${bytes.length}\r\nDate: ${this.#now()}\r\n${this.#end}`,
      'latin1',
    );
    socket.write(bytes);
    socket.uncork();
    // The kernel did not take all of it: nothing more is read until it has. What is below the stream's own limit is not told by a 'drain' when it has
    // gone, and over TLS every answer is on its way for a moment.
    if (isFull(socket)) socket.pause();
  }

  #now(): string {
    const second = Math.floor(Date.now() / 1_000);
    if (second !== this.#dateSecond) {
      this.#dateSecond = second;
      this.#date = new Date(second * 1_000).toUTCString();
    }
    return this.#date;
  }
}

const isFull = (socket: Socket): boolean => socket.writableLength > 0 && socket.writableNeedDrain;

const CHUNK_LINES = Object.entries(CHUNK_HEADERS)
  .map(([name, value]) => `${name}: ${value}\r\n`)
  .join('');

/** Of a text that begins as a plain request does. */
const requestedDigest = (text: string): Digest | undefined => {
  if (!text.startsWith(BEGIN) || !text.startsWith(LINE_END, BEGIN.length + DIGEST_CHARS)) return undefined;
  const name = text.slice(BEGIN.length, BEGIN.length + DIGEST_CHARS);
  return isDigest(name) ? name : undefined;
};
