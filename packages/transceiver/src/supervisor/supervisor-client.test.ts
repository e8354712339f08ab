import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { readJsonLines, writeJsonLine } from '../machine/json-lines.js';
import { field } from '../machine/qmp-client.js';
import { SupervisorClient } from './supervisor-client.js';

const undo: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** A supervisor that takes every request and answers only those that `answers` accepts. */
const hangingSupervisor = async (answers: (method: unknown) => boolean) => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'supervisor-client-'));
  undo.push(() => rm(directory, { recursive: true }));
  const home = { directory, supervisorSocket: path.join(directory, 's.sock'), logDirectory: directory };
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    readJsonLines(socket, {
      lineBytesMax: 1 << 20,
      onValue: (value) => {
        if (answers(field(value, 'method'))) writeJsonLine(socket, { id: field(value, 'id'), result: { pid: 1 } });
      },
    });
  });
  await new Promise<void>((resolve) => server.listen(home.supervisorSocket, resolve));
  undo.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const client = await SupervisorClient.connect(home);
  undo.push(() => Promise.resolve(client.close()));
  return client;
};

test('a supervisor that hangs is not waited for without end, and the error names what was asked; other requests are answered', async () => {
  const client = await hangingSupervisor((method) => method === 'status');
  const failed = client.request('suspend', { machine: 'one' }, { timeoutMs: 50 });
  await expect(client.request('status', {})).resolves.toMatchObject({ pid: 1 });
  await expect(failed).rejects.toMatchObject({
    code: 'local-io',
    message: expect.stringContaining('suspend') as unknown,
    data: { timedOut: true },
  });
  // An answer that comes late belongs to nobody; the connection goes on.
  await expect(client.request('status', {})).resolves.toMatchObject({ pid: 1 });
});

test('every request has a longest time of its own, also when none is named', async () => {
  const client = await hangingSupervisor(() => false);
  const { setTimeout } = globalThis;
  const asked: number[] = [];
  globalThis.setTimeout = ((act: () => void, waitMs?: number) => {
    asked.push(waitMs ?? 0);
    return setTimeout(act, 0);
  }) as typeof setTimeout;
  try {
    for (const ask of [
      () => client.request('status', {}),
      () => client.request('suspend', { machine: 'one' }),
      () => client.request('shutdown', { deadlineMs: 3_600_000 }),
    ])
      await expect(ask()).rejects.toMatchObject({ code: 'local-io', data: { timedOut: true } });
  } finally {
    globalThis.setTimeout = setTimeout;
  }
  const [status = 0, suspend = 0, shutdown = 0] = asked;
  expect(status).toBeLessThanOrEqual(60_000);
  expect(suspend).toBeGreaterThan(600_000); // the memory of a large guest on a slow disk
  expect(shutdown).toBeGreaterThan(3_600_000);
});

test('a wait whose signal was aborted before it began ends at once', async () => {
  const client = await hangingSupervisor((method) => method === 'events');
  const why = new Error('Ctrl-C while the request was on its way');
  await expect(client.waitForState('one', () => true, AbortSignal.abort(why))).rejects.toBe(why);
});
