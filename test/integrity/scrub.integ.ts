/** The scrub in a real block daemon: it finds what decayed, forgets it, and the next reader gets it from the repository. */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, it } from 'vitest';
import { FLAGS_WORD, RECORD_BYTES, SLOT_USED, TABLE_HEADER_BYTES, type ScrubStatus } from '@collective/transceiver';
import { askedAgain, BlockdUnderTest } from '../blockd/blockd-process.js';
import { runOrThrow } from '../support/child.js';
import { eventually } from '../support/eventually.js';
import { Medium } from './medium.js';

const BLOCK = 65_536;
const size = { diskBytes: 300 * BLOCK + 5 * 512, blockBytes: BLOCK };

const readAll = async (blockd: BlockdUnderTest): Promise<void> => {
  const copy = path.join(blockd.home, 'copy.raw');
  await runOrThrow('nbdcopy', [blockd.uri, copy]);
  expect((await readFile(copy)).equals(blockd.disk.bytes)).toBe(true);
};

const slotsOf = (blockd: BlockdUnderTest): Medium => new Medium(path.join(blockd.home, 'cache', `${BLOCK}.slots`));

/** The slots that hold something, by the table, when it has come to `count` of them. */
const usedSlots = (blockd: BlockdUnderTest, count: number): Promise<number[]> =>
  eventually('the table has all slots', 120_000, async () => {
    const table = await readFile(path.join(blockd.home, 'cache', `${BLOCK}.table`));
    const used: number[] = [];
    for (let at = TABLE_HEADER_BYTES; at + RECORD_BYTES <= table.length; at += RECORD_BYTES)
      if ((table.readUInt8(at + FLAGS_WORD * 4) & SLOT_USED) !== 0) used.push((at - TABLE_HEADER_BYTES) / RECORD_BYTES);
    return used.length === count ? used : undefined;
  });

/** A whole pass, from asking for it to its end. */
const scrub = async (blockd: BlockdUnderTest): Promise<ScrubStatus> => {
  await blockd.client.request('scrub', { start: true });
  const status = await eventually('the scrub comes to its end', 240_000, async () => {
    const now = await blockd.client.request('scrub', {});
    return now.running === null ? now : undefined;
  });
  expect(status.failure).toBe(null);
  return status;
};

it('finds every slot that decayed or is cut off, forgets it, and readers get the right bytes from the repository', async () => {
  await using blockd = await BlockdUnderTest.open(size);
  await blockd.attach();
  await readAll(blockd);
  const chunks = blockd.disk.chunks.size;
  expect(await scrub(blockd)).toMatchObject({ last: { blocks: chunks, damaged: 0, isAsked: true }, damaged: 0 });

  const medium = slotsOf(blockd);
  try {
    const used = await usedSlots(blockd, chunks);
    const slotAt = (index: number): number => used.at(index) ?? 0;
    const flipped = [0, 7, 8, 100, 201].map(slotAt);
    for (const slot of flipped) expect(medium.flip(slot * BLOCK + 4096 * (slot % 16) + slot, slot % 8)).toBe(true);
    medium.swap(slotAt(20) * BLOCK, slotAt(21) * BLOCK, BLOCK);
    medium.truncate(slotAt(-4) * BLOCK + BLOCK - 4096);
    const bad = flipped.length + 2 + 4;
    expect(await scrub(blockd)).toMatchObject({ last: { damaged: bad }, damaged: bad });
    const { faults, cache } = await blockd.client.request('status', {});
    expect(faults['scrub-block-damaged']).toBe(bad);
    expect(cache.dropped).toBe(bad);

    const asked = blockd.repository.requests.length;
    await readAll(blockd);
    const askedNow = blockd.repository.requests.slice(asked);
    expect(new Set(askedNow.map(({ digest }) => digest)).size).toBe(bad);
    expect(askedNow.length).toBeLessThanOrEqual(bad + askedAgain(await blockd.client.request('status', {})));
    expect(await scrub(blockd)).toMatchObject({ last: { blocks: chunks, damaged: 0 }, damaged: bad });
  } finally {
    medium.close();
  }
});

it('remembers its setting, its last pass and where it was over a stop, and a kill counts as an unclean one', async () => {
  await using blockd = await BlockdUnderTest.open(size);
  await blockd.attach();
  await readAll(blockd);
  await blockd.client.request('scrub', { everyDays: 3 });
  const { last } = await scrub(blockd);
  const record = path.join(blockd.home, 'cache/scrub.json');
  const saved = async (): Promise<unknown> => JSON.parse(await readFile(record, 'utf8'));
  await eventually('the pass is written down', 120_000, async () =>
    JSON.stringify(await saved()).includes('finishedAt') ? true : undefined,
  );
  expect(await saved()).toMatchObject({ everyDays: 3, isClean: false, pass: null });
  await blockd.restart();
  expect(await blockd.client.request('scrub', {})).toMatchObject({ everyDays: 3, last, running: null });
  await blockd.process.stop();
  expect(await saved()).toMatchObject({ everyDays: 3, isClean: true });
  // A record that is damaged is begun anew.
  await writeFile(record, '{"format":1');
  await blockd.restart();
  expect(await blockd.client.request('scrub', {})).toMatchObject({ everyDays: 7, last: null });
});

it('a pass that is interrupted by a stop leaves where it was', async () => {
  await using blockd = await BlockdUnderTest.open({ diskBytes: 1500 * BLOCK, blockBytes: BLOCK });
  await blockd.attach();
  await readAll(blockd);
  await blockd.client.request('scrub', { start: true });
  await eventually('the pass has begun', 20_000, async () => {
    const { running } = await blockd.client.request('scrub', {});
    return running !== null && running.blocks > 100 ? true : undefined;
  });
  await blockd.process.stop();
  const record: unknown = JSON.parse(await readFile(path.join(blockd.home, 'cache/scrub.json'), 'utf8'));
  expect(record).toMatchObject({ isClean: true, last: null, pass: { at: { blockBytes: BLOCK } } });
  expect(Object(record).pass.at.slot).toBeGreaterThan(100);
});
