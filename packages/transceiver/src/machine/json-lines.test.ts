import { mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { readJsonLines } from './json-lines.js';

const pair = async (): Promise<{ near: net.Socket; far: net.Socket }> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-lines-'));
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(path.join(folder, 's'), resolve));
  const far = net.connect(path.join(folder, 's'));
  const [near] = (await once(server, 'connection')) as [net.Socket];
  for (const socket of [near, far]) socket.on('error', () => undefined);
  onTestFinished(async () => {
    near.destroy();
    far.destroy();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { near, far };
};

const received = (socket: net.Socket, lineBytesMax = 100) => {
  const values: unknown[] = [];
  const stop = readJsonLines(socket, { lineBytesMax, onValue: (value) => values.push(value) });
  return { values, stop };
};

test('lines in pieces, several in one piece and empty ones come out as values in order', async () => {
  const { near, far } = await pair();
  const { values } = received(near);
  far.write('{"a": 1}\r\n\n[2');
  await new Promise((resolve) => far.write(']\n', resolve));
  far.end('"grüße"\n3');
  await once(near, 'close');
  expect(values).toEqual([{ a: 1 }, [2], 'grüße']);
});

test('a line that is too long or no JSON ends the connection, with and without its newline', async () => {
  for (const [text, code] of [
    ['x'.repeat(101), 'too-large'],
    [`"${'x'.repeat(200)}"\n`, 'too-large'],
    ['nonsense\n', 'malformed'],
  ] as const) {
    const { near, far } = await pair();
    const { values } = received(near);
    const closed = new Promise((resolve) => near.once('close', resolve)); // `once` would reject with the error
    far.write(text);
    await closed;
    expect(values).toEqual([]);
    expect(near.errored).toMatchObject({ code });
  }
});

test('a connection that goes on as something else keeps every byte after the line that says so', async () => {
  const { near, far } = await pair();
  const values: unknown[] = [];
  const raw = new Promise<void>((resolve) => {
    const stop = readJsonLines(near, {
      lineBytesMax: 100,
      onValue: (value) => {
        values.push(value);
        if (value !== 'raw') return;
        stop();
        resolve();
      },
    });
  });
  far.write('1\n"raw"\nraw bytes\nin the same piece, ');
  far.end('and after it');
  await raw;
  let text = '';
  near.on('data', (data) => (text += String(data)));
  near.resume();
  await once(near, 'close');
  expect(values).toEqual([1, 'raw']);
  expect(text).toBe('raw bytes\nin the same piece, and after it');
});
