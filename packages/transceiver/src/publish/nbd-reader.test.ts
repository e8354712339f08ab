import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { NbdReader } from './nbd-reader.js';

/** Answers a handshake for a disk of 1 MiB, then says to each request what `reply` makes of its handle. */
const serve = (socketPath: string, reply: (handle: bigint, socket: net.Socket) => void): net.Server =>
  net
    .createServer((socket) => {
      const greeting = Buffer.alloc(18);
      greeting.writeBigUInt64BE(0x4e42444d41474943n, 0);
      greeting.writeBigUInt64BE(0x49484156454f5054n, 8);
      socket.write(greeting);
      let hasShaken = false;
      socket.on('error', () => undefined);
      socket.on('data', (bytes) => {
        if (!hasShaken) {
          hasShaken = true;
          const info = Buffer.alloc(32 + 20);
          for (const [at, kind, length] of [
            [0, 3, 12],
            [32, 1, 0],
          ] as const) {
            info.writeBigUInt64BE(0x3e889045565a9n, at);
            info.writeUInt32BE(6, at + 8);
            info.writeUInt32BE(kind, at + 12);
            info.writeUInt32BE(length, at + 16);
          }
          info.writeBigUInt64BE(1n << 20n, 22);
          socket.write(info);
        } else if (bytes.length >= 28) reply(bytes.readBigUInt64BE(8), socket);
      });
    })
    .listen(socketPath);

const header = (handle: bigint, error: number): Buffer => {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(0x67446698, 0);
  bytes.writeUInt32BE(error, 4);
  bytes.writeBigUInt64BE(handle, 8);
  return bytes;
};

let folder: string;
let server: net.Server | undefined;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'reader-'));
});
afterEach(async () => {
  server?.close();
  await rm(folder, { recursive: true, force: true });
});

const open = async (
  reply: (handle: bigint, socket: net.Socket) => void,
  ...rest: Parameters<typeof NbdReader.open> extends [string, ...infer R] ? R : never
): Promise<NbdReader> => {
  server = serve(path.join(folder, 's'), reply);
  await once(server, 'listening');
  return NbdReader.open(path.join(folder, 's'), ...rest);
};

// Seen in review: it was waited for ever then, and with it the worker that reads for all machines.
it('a reply that is cut in its content fails the read', async () => {
  const reader = await open((handle, socket) => socket.end(Buffer.concat([header(handle, 0), Buffer.alloc(100)])));
  await expect(reader.read(Buffer.alloc(4_096), 0)).rejects.toMatchObject({ code: 'local-io' });
  await expect(reader.read(Buffer.alloc(4_096), 0)).rejects.toMatchObject({ code: 'local-io' });
});

it('a read that the server refuses is told as the caller wants it, and the next one is served', async () => {
  let error = 5;
  const reader = await open((handle, socket) => {
    socket.write(error === 0 ? Buffer.concat([header(handle, 0), Buffer.alloc(512, 7)]) : header(handle, error));
    error = 0;
  }, 'block-unavailable');
  const target = Buffer.alloc(512);
  await expect(reader.read(target, 0)).rejects.toMatchObject({ code: 'block-unavailable' });
  await reader.read(target, 0);
  expect(target.equals(Buffer.alloc(512, 7))).toBe(true);
  reader.close();
});
