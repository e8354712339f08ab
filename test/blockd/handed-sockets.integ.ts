/** The listening sockets of disks: those that the parent process hands to blockd, as the supervisor does, and those that it makes. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ControlClient, HeldSocket } from '@collective/transceiver';
import { run } from '../support/child.js';
import { BLOCKD, BlockdUnderTest } from './blockd-process.js';

test('a disk whose first attach failed is served on the socket of the second, not on the one that came with the first', async () => {
  const home = await mkdtemp(path.join(os.tmpdir(), 'collective-handed-'));
  const child = fork(BLOCKD, ['--home', home], { stdio: 'ignore', execArgv: [] });
  const ended = once(child, 'exit');
  try {
    const client = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: 120_000 });
    const socketPath = path.join(home, 'disk.sock');
    const attach = (source: Parameters<typeof client.request<'attach'>>[1]['source']) =>
      client.request('attach', { session: 's', disk: 'system', source, waitMs: 60_000, listen: { handle: 'one' } });
    const hand = (socket: HeldSocket): Promise<void> =>
      new Promise((resolve, reject) =>
        child.send({ listener: 'one' }, socket.server, (error) => (error === null ? resolve() : reject(error))),
      );

    const first = await HeldSocket.open(socketPath);
    const failed = attach({
      kind: 'published',
      appliance: 'test',
      version: 1,
      diskBytes: 1 << 20,
      blockBytes: 65_536,
      root: 'ab'.repeat(32),
      map: path.join(home, 'no such map'),
    });
    await expect(failed).rejects.toMatchObject({ code: 'not-found' });
    await hand(first);
    await client.request('hello', {});
    await first.close();

    const second = await HeldSocket.open(socketPath);
    const attached = attach({ kind: 'zero', diskBytes: 1 << 20 });
    await hand(second);
    await attached;
    const info = await run('timeout', ['120', 'nbdinfo', '--size', `nbd+unix:///system?socket=${socketPath}`]);
    expect(info).toMatchObject({ code: 0, stdout: '1048576\n' });
    await second.close();
    client.close();
  } finally {
    child.kill('SIGTERM');
    await ended;
    await rm(home, { recursive: true, force: true });
  }
});

test('a socket that blockd makes, in whatever folder, is for its owner alone', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: 1 << 20, blockBytes: 65_536 });
  await blockd.attach({ overlay: 'temporary', fresh: true });
  expect((await stat(blockd.socket)).mode & 0o077).toBe(0);
});

test('a disk is served on a new socket in the place of one that a killed process left; a disk that is attached keeps its own', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: 1 << 20, blockBytes: 65_536 });
  const attach = (source: Parameters<typeof blockd.client.request<'attach'>>[1]['source']) =>
    blockd.client.request('attach', {
      ...{ session: 's', disk: 'system', source, waitMs: 60_000, listen: { path: blockd.socket } },
    });
  const left = await HeldSocket.open(blockd.socket);
  await attach(blockd.source);
  const { ino } = await stat(blockd.socket);
  await expect(attach(blockd.source)).rejects.toMatchObject({ code: 'exists' });
  expect((await stat(blockd.socket)).ino).toBe(ino);
  expect(await run('timeout', ['120', 'nbdinfo', '--size', blockd.uri])).toMatchObject({
    code: 0,
    stdout: '1048576\n',
  });
  await left.close();
});
