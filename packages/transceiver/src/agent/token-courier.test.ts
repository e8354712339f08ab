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
    lookEveryMs: 1,
  });
  onTestFinished(async () => courier.close());
  await vi.waitFor(() => expect(brought).toEqual(['t']), { timeout: 20_000 });
  isAway = false;
  await vi.waitFor(() => expect(brought).toEqual(['t', 'tiny 1']), { timeout: 20_000 });
  epoch = 2;
  await vi.waitFor(() => expect(brought).toEqual(['t', 'tiny 1', 'tiny 2']), { timeout: 20_000 });
});
