import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { CollectiveError } from '@collective/shared';
import { expect, it, onTestFinished, vi } from 'vitest';
import { TokenCourier } from './token-courier.js';

it('brings keys of a new epoch to the machines that run, once, and the token when it is another one', async () => {
  const brought: string[] = [];
  let epoch = 1;
  let isAway = true;
  const courier = new TokenCourier({
    home: { blockdSocket: '/nowhere/blockd' } as never,
    session: {
      blocks: async () => ({ origin: 'http://r', token: 't' }),
      tokens: {},
      get blockKeys() {
        return [{ epoch, blockNameKey: 'n', chunkKey: 'c' }];
      },
    } as never,
    machines: {
      authorize: async ({ token }) => void brought.push(String(token)),
      addKeys: async (name, keys) => {
        if (isAway) throw new CollectiveError('local-io');
        brought.push(`${name} ${String(keys[0]?.epoch)}`);
      },
    },
    up: () => ['tiny'],
    isMetered: async () => Promise.resolve(false),
    lookEveryMs: 1,
  });
  onTestFinished(async () => courier.close());
  await vi.waitFor(() => expect(brought).toEqual(['t']), { timeout: 20_000 });
  isAway = false;
  await vi.waitFor(() => expect(brought).toEqual(['t', 'tiny 1']), { timeout: 20_000 });
  epoch = 2;
  await vi.waitFor(() => expect(brought).toEqual(['t', 'tiny 1', 'tiny 2']), { timeout: 20_000 });
});

it('tells a block daemon that the link is metered, one that was started again too, and when it is not any more', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'courier-'));
  onTestFinished(async () => rm(folder, { recursive: true, force: true }));
  const told: unknown[] = [];
  const sockets = new Set<net.Socket>();
  const blockd = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    readline.createInterface(socket).on('line', (line) => {
      const { id, method, params } = JSON.parse(line) as { id: number; method: string; params: unknown };
      if (method === 'metered') told.push(params);
      socket.write(`${JSON.stringify({ id, result: {} })}\n`);
    });
  });
  const blockdSocket = path.join(folder, 'blockd');
  await new Promise<void>((resolve) => blockd.listen(blockdSocket, resolve));
  onTestFinished(() => void blockd.close());
  const link = { isMetered: async (): Promise<boolean> => Promise.resolve(false) };
  const courier = new TokenCourier({
    home: { blockdSocket } as never,
    session: { blocks: async () => ({ origin: 'http://r' }), tokens: {}, blockKeys: [] } as never,
    machines: { authorize: async () => Promise.resolve(), addKeys: async () => Promise.resolve() },
    up: () => [],
    isMetered: async () => link.isMetered(),
    lookEveryMs: 1,
  });
  onTestFinished(async () => courier.close());
  const on = { metered: true };
  await vi.waitFor(() => expect(sockets.size).toBe(1), { timeout: 20_000 });
  link.isMetered = async () => Promise.resolve(true);
  await vi.waitFor(() => expect(told).toEqual([on]), { timeout: 20_000 });
  for (const socket of sockets) socket.destroy();
  await vi.waitFor(() => expect(told).toEqual([on, on]), { timeout: 20_000 });
  link.isMetered = async () => Promise.resolve(false);
  await vi.waitFor(() => expect(told).toEqual([on, on, { metered: false }]), { timeout: 20_000 });
  // Nobody can tell: settings that cannot be read.
  link.isMetered = async () => Promise.reject(new CollectiveError('malformed', 'settings'));
  await vi.waitFor(() => expect(told).toEqual([on, on, { metered: false }, on]), { timeout: 20_000 });
});
