import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { HeldSocket } from './held-socket.js';

/** Says its process id to whoever connects. */
const SERVER = `process.on('message', (_, server) => {
  server.on('connection', (socket) => socket.end(String(process.pid)));
  process.send('serving');
});
process.send('up');`;

test('connections that come while no child serves wait for the next child', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-held-'));
  const module = path.join(folder, 'server.cjs');
  await writeFile(module, SERVER);
  const socketPath = path.join(folder, 'disk');
  const held = await HeldSocket.open(socketPath);
  const children: ChildProcess[] = [];
  onTestFinished(async () => {
    for (const child of children) child.kill('SIGKILL');
    await held.close();
    await rm(folder, { recursive: true, force: true });
  });
  const serve = async (): Promise<ChildProcess> => {
    const child = fork(module, { execArgv: [] });
    children.push(child);
    await once(child, 'message');
    child.send('take it', held.server);
    await once(child, 'message');
    return child;
  };
  const ask = async (socket: net.Socket): Promise<number> => {
    let text = '';
    for await (const data of socket) text += String(data);
    return Number(text);
  };
  const first = await serve();
  expect(await ask(net.connect(socketPath))).toBe(first.pid);
  first.kill('SIGKILL');
  await once(first, 'exit');
  const waiting = net.connect(socketPath);
  await once(waiting, 'connect');
  const second = await serve();
  expect(await ask(waiting)).toBe(second.pid);
  await held.close();
  await held.close();
  expect(existsSync(socketPath)).toBe(false);
});

test('a socket that an earlier process left is replaced', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-held-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const socketPath = path.join(folder, 'disk');
  await writeFile(socketPath, '');
  const held = await HeldSocket.open(socketPath);
  await held.close();
});
