/** The control socket against a caller that may open it and says anything. */
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { ControlClient } from './control-client.js';
import { CONTROL_LINE_BYTES_MAX } from './control-protocol.js';
import { ControlServer } from './control-server.js';

const setUp = async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-control-'));
  const socketPath = path.join(folder, 'blockd.sock');
  const handled: string[] = [];
  const server = await ControlServer.open(socketPath, (request) => {
    handled.push(request.method);
    return Promise.resolve({ protocol: 1, pid: 1, startedAt: 0 });
  });
  onTestFinished(async () => {
    await server.close();
    await rm(folder, { recursive: true, force: true });
  });
  /** Says it, ends, and waits until the server has closed. */
  const say = async (bytes: Uint8Array): Promise<string> => {
    const socket = net.connect(socketPath);
    socket.on('error', () => undefined);
    const closed = once(socket, 'close');
    let said = '';
    socket.on('data', (data) => (said += String(data)));
    socket.end(bytes);
    await closed;
    return said;
  };
  return { socketPath, handled, say };
};

test('is for its owner alone', async () => {
  const { socketPath } = await setUp();
  expect((await stat(socketPath)).mode & 0o777).toBe(0o600);
});

test('any bytes, a line without end and wrong requests do nothing, and the next caller is answered', async () => {
  const { socketPath, handled, say } = await setUp();
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc.json().map((text) => Buffer.from(`${text}\n`)),
      ),
      async (bytes) => {
        await say(bytes);
      },
    ),
    { numRuns: 60 },
  );
  await say(Buffer.alloc(CONTROL_LINE_BYTES_MAX + 2, 0x20));
  const wrong = [
    { id: 1, method: '__proto__' },
    { id: 1, method: 'constructor' },
    { id: 1, method: 'hello', params: { more: 1 } },
    { id: -1, method: 'hello' },
    { id: 1, method: 'detach', params: { session: '../x' } },
    { id: 1, method: 'attach', params: { session: 's', disk: 'd', source: { kind: 'zero', diskBytes: 2 ** 60 } } },
    { id: 1, method: 'repository', params: { origin: 'file:///etc/passwd' } },
  ];
  for (const request of wrong) expect(await say(Buffer.from(`${JSON.stringify(request)}\n`))).toContain('bad-request');
  expect(handled).toEqual([]);
  const client = await ControlClient.connect(socketPath);
  expect(await client.request('hello', {})).toMatchObject({ protocol: 1 });
  client.close();
});
