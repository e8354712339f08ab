/**
 * The boot trace of a user disk in a real block daemon over a real repository server: what is read of the disk is left in a sealed file, layers
 * included; and what such a file names is asked for before anybody reads.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openPrivateTrace, privateTraceKey, sealPrivateTrace, USER_DISK, type BootTrace } from '@collective/shared';
import { eventually } from '../support/eventually.js';
import { nbdsh } from './blockd-process.js';
import { BLOCK, contentOf, DISK_KEY, planWith, SnapshotHome } from './snapshot-home.js';

let blockd: SnapshotHome;
beforeEach(async () => {
  blockd = await SnapshotHome.open();
});
afterEach(async () => blockd[Symbol.asyncDispose]());

/** Private at 3, 4 and 200, public at 0 (inherited), zero at 130. */
const plan = planWith({ 3: 1, 4: 2, 200: 3 });
const key = privateTraceKey(Buffer.from(DISK_KEY, 'base64url'));
const file = (): string => path.join(blockd.home, 'user.private');
const trace = (replay: boolean) => ({ trace: { path: file(), blockBytes: BLOCK, replay } });
const traceOf = (...blocks: number[]): BootTrace => ({
  ...USER_DISK,
  blockBytes: BLOCK,
  touches: blocks.map((blockIndex) => ({ blockIndex, afterMs: 0, phase: 0, chunkBytes: 0 })),
});
const blocksIn = async (): Promise<number[] | undefined> =>
  readFile(file()).then(
    (box) => openPrivateTrace(key, box).touches.map(({ blockIndex }) => blockIndex),
    () => undefined,
  );
/** Ranges of chunks: an index is read from its end. */
const chunkRequests = (): string[] => blockd.dataRequests.filter((request) => !request.includes('bytes=-'));

it('what a boot reads is left in a sealed file: of the snapshot and of the layers, not of what is zero', async () => {
  const { base } = await blockd.save(plan);
  await blockd.attach({ source: blockd.source(base), ...trace(true) });
  // What an earlier boot wrote lies in a layer: at 50 the snapshot has nothing.
  const uri = `nbd+unix:///user?socket=${path.join(blockd.home, 'disk.sock')}`;
  expect((await nbdsh(uri, `h.pwrite(b"x" * ${BLOCK}, ${50 * BLOCK})`)).code).toBe(0);
  await blockd.client.request('trace-start', { session: 's' });
  for (const block of [200, 130, 50, 3, 0, 3]) await blockd.readPart(block * BLOCK, BLOCK);
  expect(await eventually('the trace of the boot', 120_000, blocksIn)).toEqual([200, 50, 3, 0]);
  const bytes = await readFile(file());
  expect(bytes.includes(Buffer.from('CTR'))).toBe(false);
});

it('what earlier boots touched is asked for before anybody reads, and only that', async () => {
  const { base } = await blockd.save(plan);
  await writeFile(file(), sealPrivateTrace(key, traceOf(200, 130, 0, 3)));
  await blockd.attach({ source: blockd.source(base), ...trace(true) });
  await eventually('the private blocks of the trace', 60_000, async () =>
    chunkRequests().length >= 2 ? true : undefined,
  );
  await eventually('they are in the cache', 60_000, async () => {
    const status = await blockd.client.request('status', {});
    return status.private?.cache.filled === 2 && status.cache.filled >= 1 ? true : undefined;
  });
  const before = chunkRequests().length;
  expect(await blockd.readPart(200 * BLOCK, BLOCK)).toEqual(contentOf(plan).subarray(200 * BLOCK, 201 * BLOCK));
  expect(chunkRequests()).toHaveLength(before);
  expect(before).toBe(2);
});

it('a file that is none, of somebody else, or altered is left aside: the disk reads as it is', async () => {
  const { base } = await blockd.save(plan);
  const box = sealPrivateTrace(key, traceOf(200));
  box[50] = (box[50] ?? 0) ^ 1;
  for (const bytes of [
    Buffer.from('no trace'),
    sealPrivateTrace(privateTraceKey(Buffer.alloc(64, 9)), traceOf(200)),
    box,
  ]) {
    await writeFile(file(), bytes);
    await blockd.attach({ source: blockd.source(base), ...trace(true) });
    expect(chunkRequests()).toEqual([]);
    await blockd.detach();
  }
  await blockd.attach({ source: blockd.source(base), ...trace(true) });
  expect(await blockd.read()).toEqual(contentOf(plan));
});

it('on a metered link, or for a disk without a key, nothing is asked for', async () => {
  const { base } = await blockd.save(plan);
  await writeFile(file(), sealPrivateTrace(key, traceOf(200)));
  await blockd.attach({ source: blockd.source(base), ...trace(false) });
  expect(chunkRequests()).toEqual([]);
  await blockd.detach();
  const attached = blockd.attachSnapshot(base, trace(true));
  await expect(attached).rejects.toMatchObject({ code: 'bad-request' });
});
