import { CollectiveError } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { withRoom } from './local-room.js';

const MIB = 1_048_576;
const wanted = (free: number) => ({
  ...{ folder: '/machines', what: 'starting tiny@2', neededBytes: 3 * MIB },
  freeBytes: async () => free,
});
const failing = async (error: Error): Promise<never> => {
  throw error;
};
const enospc = (): Error => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });

describe('a start that finds the local disk full', () => {
  it.each([
    ['the file system', enospc()],
    [
      'the object cache',
      Object.assign(new Error('IO error: 000005.log: No space left on device'), { code: 'LEVEL_IO_ERROR' }),
    ],
    ['the block path', new CollectiveError('disk-full', 'x', { data: { path: '/x', errno: 'ENOSPC' } })],
    ['the backup', new CollectiveError('disk-full', 'x', { data: { local: true } })],
  ])('says what is missing, in bytes, when %s finds it', async (_who, error) => {
    await expect(withRoom(wanted(MIB), async () => failing(error))).rejects.toMatchObject({
      code: 'disk-full',
      message: expect.stringMatching(
        /starting tiny@2 needs 3\.1 MB in \/machines, 1\.0 MB are free; 2\.1 MB \(2097152 bytes\)/,
      ),
      data: { local: true, neededBytes: 3 * MIB, freeBytes: MIB, missingBytes: 2 * MIB },
      cause: error,
    });
  });

  it('names what it needs where a quota says less than what is free', async () => {
    await expect(withRoom(wanted(100 * MIB), async () => failing(enospc()))).rejects.toMatchObject({
      message: expect.stringMatching(/ENOSPC.*though 105 MB are free in \/machines/),
      data: { missingBytes: 3 * MIB },
    });
  });

  it('leaves what knows better as it is', async () => {
    const said = new CollectiveError('disk-full', 'x', { data: { local: true, missingBytes: 7 } });
    await expect(withRoom(wanted(MIB), async () => failing(said))).rejects.toBe(said);
  });

  it('is not one whose repository is full, nor any other failure', async () => {
    for (const error of [new CollectiveError('disk-full', 'of the repository'), new Error('another')])
      await expect(withRoom(wanted(MIB), async () => failing(error))).rejects.toBe(error);
  });
});
