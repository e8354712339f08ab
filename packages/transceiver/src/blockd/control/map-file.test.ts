import { writeFile } from 'node:fs/promises';
import { CollectiveError, encodeChangedPairs } from '@collective/shared';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { temporaryFolder } from '../testing/local-cache.js';
import { testDisk } from '../testing/test-disk.js';
import { readMapFile } from './map-file.js';

const disk = testDisk({ diskBytes: 40 * 4096 + 512, blockBytes: 4096 });
const bytes = encodeChangedPairs(disk.map.changesSince(undefined));
const expected = { diskBytes: disk.map.diskBytes, blockBytes: disk.map.blockBytes, root: disk.root };

const setUp = async () => {
  const temporary = await temporaryFolder();
  onTestFinished(() => temporary[Symbol.asyncDispose]());
  const file = `${temporary.folder}/map`;
  return async (content: Uint8Array) => {
    await writeFile(file, content);
    return await readMapFile(new LocalFileSystem(), file, expected);
  };
};

test('the map that the signed root names is taken', async () => {
  const read = await setUp();
  expect((await read(bytes)).build().root).toBe(disk.root);
});

test('a map file that is cut short, has any bit flipped or is anything else is refused with an error of the table', async () => {
  const read = await setUp();
  const refused = async (content: Uint8Array): Promise<void> => {
    const error = await read(content).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(CollectiveError);
  };
  await refused(Buffer.from('CBT\u0001'));
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(7), async (at, bit) => {
      await refused(bytes.subarray(0, at));
      const flipped = Buffer.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << bit);
      await refused(flipped);
    }),
    { numRuns: 150 },
  );
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), refused), { numRuns: 60 });
});
