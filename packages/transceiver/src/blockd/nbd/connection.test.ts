import { closeSync } from 'node:fs';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { syscalls } from '../syscalls.js';
import { Connection, type ConnectionHandler } from './connection.js';

const handler: ConnectionHandler = {
  feed: (_chunk, _start, end) => end,
  batchEnded: () => undefined,
  sent: () => undefined,
  clientEnded: () => undefined,
  closed: () => undefined,
};

const fdOf = (socket: net.Socket): number => Number(Reflect.get(Object(Reflect.get(socket, '_handle')), 'fd'));

/*
 * Seen in test/interop/nbd-patterns: clients that left in the middle of their writes and came back got "invalid option reply magic" now and
 * then. The replies to the old connection's writes were sent to a descriptor that had been closed with its socket, a turn before the
 * 'close' event, and whose number was that of the new client's socket by then. It might have been another machine's.
 */
test.runIf(syscalls !== undefined)(
  'what is sent after the socket was destroyed does not reach another client',
  async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-connection-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
    const socketPath = path.join(folder, 's');
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    onTestFinished(() => void server.close());
    const connect = async (): Promise<{ readonly accepted: net.Socket; readonly client: net.Socket }> => {
      const accepted = once(server, 'connection');
      const client = net.connect(socketPath);
      return { accepted: (await accepted)[0] as net.Socket, client };
    };
    const old = await connect();
    const other = await connect();
    const received: Buffer[] = [];
    other.client.on('data', (data) => received.push(data));

    const connection = new Connection(old.accepted, handler);
    connection.open();
    await new Promise((resolve) => setImmediate(resolve)); // the descriptor that was accepted is closed by now
    connection.destroy();
    // As many as take every number that is free, so also the one that was just closed.
    const taken = Array.from({ length: 8 }, () => syscalls?.duplicate(fdOf(other.accepted)) ?? -1);
    let isReleased = false;
    connection.send(Buffer.from('stray'), 5, () => (isReleased = true));
    expect(isReleased).toBe(true);
    expect(connection.clientIsGone()).toBe(true);
    syscalls?.send(taken[0] ?? -1, Buffer.from('right'), 5);
    await expect.poll(() => Buffer.concat(received).toString()).toBe('right');
    for (const fd of taken) closeSync(fd);
    for (const socket of [old.client, other.client, other.accepted]) socket.destroy();
  },
);
