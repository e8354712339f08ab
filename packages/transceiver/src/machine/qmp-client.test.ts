import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { once } from 'node:events';
import { describe, expect, onTestFinished, test } from 'vitest';
import { field, QmpClient, type QmpEvent } from './qmp-client.js';

const GREETING = '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}\r\n';

/** A QMP server that says what the test tells it; `qmp_capabilities` is answered by itself. */
const fakeQemu = async (onCommand: (name: string, id: unknown, socket: net.Socket) => void, greeting = GREETING) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-qmp-'));
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.write(greeting);
    let text = '';
    socket.on('data', (data) => {
      text += String(data);
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const command: unknown = JSON.parse(line);
        const name = String(field(command, 'execute'));
        if (name === 'qmp_capabilities')
          socket.write(`{"return": {}, "id": ${JSON.stringify(field(command, 'id'))}}\r\n`);
        else onCommand(name, field(command, 'id'), socket);
      }
    });
  });
  const socketPath = path.join(folder, 'qmp.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { socketPath, sockets };
};

const reply = (socket: net.Socket, id: unknown, value: unknown): void =>
  void socket.write(`${JSON.stringify({ return: value, id })}\r\n`);

describe('QMP client', () => {
  test('a command gets the answer with its id, though answers come in another order and events between them', async () => {
    const waiting: unknown[] = [];
    const { socketPath } = await fakeQemu((_, id, socket) => {
      waiting.push(id);
      if (waiting.length < 2) return;
      socket.write('{"event": "STOP", "timestamp": {"seconds": 10, "microseconds": 500000}}\r\n');
      reply(socket, waiting[1], 'second');
      reply(socket, waiting[0], 'first');
    });
    const client = await QmpClient.open(socketPath);
    const events: QmpEvent[] = [];
    client.on('event', (event) => events.push(event));
    expect(await Promise.all([client.execute('a'), client.execute('b')])).toEqual(['first', 'second']);
    expect(events).toEqual([{ name: 'STOP', data: {}, timeMs: 10_500 }]);
    client.close();
  });

  test('a command that QEMU refuses fails with its class and description', async () => {
    const { socketPath } = await fakeQemu((_, id, socket) => {
      socket.write(`${JSON.stringify({ error: { class: 'CommandNotFound', desc: 'no such thing' }, id })}\n`);
    });
    using client = await QmpClient.open(socketPath);
    await expect(client.execute('nonsense')).rejects.toMatchObject({
      code: 'local-io',
      message: 'QEMU refused: no such thing',
      data: { qmpClass: 'CommandNotFound' },
    });
  });

  test('a command without an answer fails when its time is over, and its late answer disturbs no other', async () => {
    let held: (() => void) | undefined;
    const { socketPath } = await fakeQemu((name, id, socket) => {
      if (name === 'stop') held = () => reply(socket, id, 'late');
      else {
        held?.();
        reply(socket, id, { status: 'running', running: true });
      }
    });
    using client = await QmpClient.open(socketPath);
    await expect(client.execute('stop', {}, { timeoutMs: 20 })).rejects.toMatchObject({ data: { timedOut: true } });
    expect(await client.queryStatus()).toEqual({ status: 'running', running: true });
  });

  test('quit succeeds when the connection ends instead of an answer; any other command fails', async () => {
    const { socketPath } = await fakeQemu((_, __, socket) => socket.destroy());
    const client = await QmpClient.open(socketPath);
    const closed = once(client, 'close');
    await client.quit();
    await closed;
    expect(client.closed).toBe(true);
    await expect(client.cont()).rejects.toMatchObject({ data: { closed: true } });
    const other = await QmpClient.open(socketPath);
    await expect(other.cont()).rejects.toMatchObject({ data: { closed: true } });
  });

  test('a QEMU that sends a line without end, or no JSON, is let go of', async () => {
    for (const nonsense of ['x'.repeat(5 << 20), 'no json\n']) {
      const { socketPath } = await fakeQemu((_, __, socket) => socket.write(nonsense));
      const client = await QmpClient.open(socketPath);
      await expect(client.cont()).rejects.toMatchObject({ data: { closed: true } });
    }
  });

  test('a socket that nobody has made yet is waited for, and given up with the signal', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-qmp-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const abort = new AbortController();
    const opening = QmpClient.open(path.join(folder, 'none'), { waitMs: 60_000, signal: abort.signal });
    abort.abort(new Error('not wanted'));
    await expect(opening).rejects.toThrow('not wanted');
  });
});
