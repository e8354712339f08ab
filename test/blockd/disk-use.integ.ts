/** A real block daemon that knows what sessions touch together, and leaves what this one touches. */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { decodeUseRecord, encodeDiskUse, type Digest } from '@collective/shared';
import { eventually } from '../support/eventually.js';
import { BlockdUnderTest } from './blockd-process.js';

const BLOCK = 65_536;
const GROUP = [40, 60, 81, 100];
/** The boot is over 20 s after its last new block. */
const OVER_MS = 200_000;

let blockd: BlockdUnderTest;
beforeEach(async () => {
  blockd = await BlockdUnderTest.open({ diskBytes: 150 * BLOCK, blockBytes: BLOCK });
  const { root } = blockd.disk;
  const groups = [
    { blocks: GROUP, triggers: 2 },
    { blocks: [120, 140], triggers: 1 },
  ];
  await writeFile(use(), encodeDiskUse({ version: 3, root, blockBytes: BLOCK, records: 2, blocks: [], groups }));
});
afterEach(async () => blockd[Symbol.asyncDispose]());

const use = (): string => path.join(blockd.home, 'system.use');
const session = (): string => path.join(blockd.home, 'system.session');
const read = async (...blocks: readonly number[]): Promise<void> => {
  const reads = blocks.map((block) => `h.pread(512, ${block * BLOCK})`);
  expect(await blockd.nbdsh(...reads)).toMatchObject({ code: 0 });
};
const digestOf = (block: number): Digest | undefined => blockd.disk.map.digestAt(block);
/** How often a block was asked for. */
const asked = (block: number): number =>
  blockd.repository.requests.filter(({ digest }) => digest === digestOf(block)).length;

it('a read of the first of a group brings the others, once, and no other group', async () => {
  await blockd.attach({ trace: { use: use() } });
  await read(81);
  expect(GROUP.map(asked)).toEqual([0, 0, 1, 0]);
  await read(60);
  await eventually('the group', 60_000, async () =>
    Promise.resolve(GROUP.every((block) => asked(block) === 1) ? true : undefined),
  );
  await eventually('it is in the cache', 60_000, async () =>
    (await blockd.client.request('status', {})).cache.filled >= GROUP.length ? true : undefined,
  );
  await read(...GROUP);
  expect(GROUP.map(asked)).toEqual([1, 1, 1, 1]);
  expect([120, 140].map(asked)).toEqual([0, 0]);
});

it('a block that is here says what follows as well as one that is not', async () => {
  await blockd.attach({ trace: { use: use() } });
  await blockd.client.request('warm', { session: 's', disk: 'system', blocks: [120] });
  expect([120, 140].map(asked)).toEqual([1, 0]);
  await read(120);
  await eventually('the group', 60_000, async () => Promise.resolve(asked(140) === 1 ? true : undefined));
});

it('on a metered link nothing is brought in, and later it is', async () => {
  await blockd.attach({ trace: { use: use() } });
  await blockd.client.request('metered', { metered: true });
  await read(40);
  await read(20); // what came before would have been asked for by now
  expect(GROUP.map(asked)).toEqual([1, 0, 0, 0]);
  await blockd.client.request('metered', { metered: false });
  await read(60);
  await eventually('the group', 60_000, async () =>
    Promise.resolve(GROUP.every((block) => asked(block) === 1) ? true : undefined),
  );
});

it('what the session touches is left when the disk is detached: its boot, and what came after it', async () => {
  const record = path.join(blockd.home, 'system.recorded');
  await blockd.attach({ overlay: 'temporary', trace: { record, session: session() } });
  await blockd.client.request('trace-start', { session: 's' });
  await read(5, 7);
  await eventually('the boot is over', OVER_MS, async () => readFile(record).catch(() => undefined));
  await read(40, 5, 60);
  expect(await readFile(session()).catch(() => 'none')).toBe('none');
  await blockd.client.request('detach', { session: 's' });
  const { bursts, root, version } = decodeUseRecord(await readFile(session()));
  expect({ root, version }).toEqual({ root: blockd.disk.root, version: 3 });
  expect(bursts).toEqual([
    [5, 7],
    [40, 60],
  ]);
});
