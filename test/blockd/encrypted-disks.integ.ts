/** What a guest wrote to its disks is found in no file of the home, whatever ended it. */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, it } from 'vitest';
import { filesWith } from '../support/files-with.js';
import { BlockdUnderTest } from './blockd-process.js';

const BLOCK = 65_536;
const DISK_BYTES = 150 * BLOCK + 5 * 512;
const MARKERS = 1_000;
const KEY = randomBytes(64).toString('base64url');
const OTHER = randomBytes(64).toString('base64url');

/** Each marker at a place of its own, most of them across no border; some written again, some trimmed away. */
const markersOf = (run: string): { readonly write: string[]; readonly check: string[] } => {
  const each = `for i in range(${MARKERS})`;
  const marker = `(b"marker-${run}-%04d" % i)`;
  return {
    write: [
      `[h.pwrite(${marker}, i * 9833 + 5) ${each}]`,
      `[h.pwrite(b"marker-${run}-again", i * 9833 + 64) ${each} if i % 7 == 0]`,
      'h.flush()',
      `[h.pwrite(${marker} * 200, 4096 * i) for i in range(3)]`, // acknowledged, and never flushed
    ],
    check: [`assert all(h.pread(len(${marker}), i * 9833 + 5) == ${marker} ${each} if i > 2)`],
  };
};

it('without a key the markers are found: the search works', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: DISK_BYTES, blockBytes: BLOCK });
  const { write } = markersOf('plain');
  await blockd.attach({ overlay: 'persistent' });
  expect(await blockd.nbdsh(...write)).toMatchObject({ code: 0 });
  const found = await filesWith(blockd.home, 'marker-plain-');
  expect(found.map((file) => path.basename(file))).toEqual(['data']);
});

it('of 1,000 markers in a guest’s disk none is found in any file of the home: flushed, killed, stopped; the disk has them all', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: DISK_BYTES, blockBytes: BLOCK });
  const run = randomBytes(4).toString('hex');
  const { write, check } = markersOf(run);
  const expectNothing = async (): Promise<void> => {
    expect(await filesWith(blockd.home, `marker-${run}`)).toEqual([]);
    expect(await filesWith(blockd.home, KEY)).toEqual([]);
  };
  await blockd.attach({ overlay: 'persistent', key: KEY });
  expect(await blockd.nbdsh(...write, ...check)).toMatchObject({ code: 0 });
  await expectNothing();
  await blockd.restart(); // kill -9
  await expectNothing();
  await blockd.attach({ overlay: 'persistent', key: KEY });
  expect(await blockd.nbdsh(...check)).toMatchObject({ code: 0 });
  expect(JSON.stringify(await blockd.client.request('status', {}))).not.toContain(KEY);
  await blockd.client.request('detach', { session: 's', keep: true });
  await expectNothing(); // with its sums
  await blockd.attach({ overlay: 'persistent', key: KEY });
  expect(await blockd.nbdsh(...check)).toMatchObject({ code: 0 });
});

it('a disk is not attached with another key or without, is not changed by it, and the answer does not repeat the key', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: DISK_BYTES, blockBytes: BLOCK });
  await blockd.attach({ overlay: 'persistent', key: KEY });
  expect(await blockd.nbdsh('h.pwrite(b"a" * 512, 0)')).toMatchObject({ code: 0 });
  await blockd.client.request('detach', { session: 's' });
  const description = await readFile(path.join(blockd.home, 'overlay/overlay.json'), 'utf8');
  for (const [key, reason] of [
    [OTHER, 'other'],
    [undefined, 'missing'],
  ] as const) {
    const refused = blockd.attach({ overlay: 'persistent', ...(key === undefined ? {} : { key }) });
    await expect(refused).rejects.toMatchObject({ code: 'wrong-key', data: { reason } });
  }
  const short = KEY.slice(1);
  const error: unknown = await blockd.attach({ overlay: 'persistent', key: short }).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'bad-request' });
  expect(String(error)).not.toContain(short.slice(0, 20));
  expect(await readFile(path.join(blockd.home, 'overlay/overlay.json'), 'utf8')).toBe(description);
  await blockd.attach({ overlay: 'persistent', key: KEY });
  expect(await blockd.nbdsh('assert h.pread(512, 0) == b"a" * 512')).toMatchObject({ code: 0 });
});
