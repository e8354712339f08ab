import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { expect, onTestFinished, test } from 'vitest';
import { keepEarlyConnections } from './handed-listener.js';

test('a client that connects before anybody takes the server is given to who takes it, in order and once', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-handed-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const server = new net.Server();
  keepEarlyConnections(server);
  const socketPath = path.join(folder, 's');
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const client = net.connect(socketPath);
  await once(client, 'connect');
  // The loop turns, so that it has been accepted by now.
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  server.on('connection', (socket: net.Socket) => {
    socket.resume();
    socket.end('hello');
  });
  const later = net.connect(socketPath);
  const texts = await Promise.all(
    [client, later].map(async (each) => {
      let text = '';
      for await (const data of each) text += String(data);
      return text;
    }),
  );
  expect(texts).toEqual(['hello', 'hello']);
  server.close();
});
