/**
 * The background prefetcher by the command line: of a new version comes what took the place of what was used here, before anybody starts it, and
 * nothing on a link that is metered, or while the repository is away.
 */
import { copyFile, open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ControlClient } from '@collective/transceiver';
import type { Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { TinyPublished } from './tiny-published.js';

const BLOCK_BYTES = 65_536;
/** A look is begun at once; the line is a fast one. */
const BROUGHT_MS = 120_000;

let tiny: TinyPublished;
let pat: Person;
let ben: Person;

beforeAll(async () => {
  tiny = await TinyPublished.open();
  ({ pat, ben } = tiny);
});
afterAll(async () => tiny[Symbol.asyncDispose]());

/** The system disk with another byte at the end of each block that has any content. */
const publishChanged = async (mark: number): Promise<void> => {
  const changed = path.join(tiny.folder, `system-${mark}.raw`);
  await copyFile(path.join(tiny.image, 'system.raw'), changed);
  const file = await open(changed, 'r+');
  const { size } = await file.stat();
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let at = 0; at < size; at += BLOCK_BYTES) {
    await file.read(block, 0, BLOCK_BYTES, at);
    if (!block.every((byte) => byte === 0)) await file.write(Buffer.of(mark), 0, 1, at + BLOCK_BYTES - 1);
  }
  await file.close();
  await pat.json(['publish', 'tiny', '--disk', `system=${changed}`, '--no-boot-test']);
};

const filled = async (): Promise<number> => {
  const blockd = await ControlClient.connect(path.join(ben.home, 'run/blockd.sock'));
  const { cache } = await blockd.request('status', {});
  blockd.close();
  return cache.filled;
};
type Prefetch = { readonly state: string; readonly lookedAt?: number };
const prefetch = async (): Promise<Prefetch> => (await ben.json(['status']))['prefetch'] as Prefetch;
const looked = async (state: string): Promise<void> => {
  await eventually(`a look that ends ${state}`, BROUGHT_MS, async () =>
    (await prefetch()).state === state && (await prefetch()).lookedAt !== undefined ? true : undefined,
  );
};

it('of a new version comes what took the place of what was used here, before it is started', async () => {
  await ben.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240']);
  await ben.json(['stop', 'tiny', '--force']);
  const first = await tiny.atHand(1);
  const used = (first?.blocks ?? 0) - (first?.missingBlocks ?? 0);
  expect(used).toBeGreaterThan(20);
  expect(first?.missingBlocks).toBeGreaterThan(20); // else it would not show that the rest stays away

  await publishChanged(0xe5);
  await ben.json(['settings', '--metered', 'on']);
  const before = await filled();
  await ben.json(['update']);
  await looked('metered');
  expect(await filled()).toBe(before);
  expect(await tiny.atHand(2)).toBeUndefined();

  await ben.json(['settings', '--metered', 'off']);
  const second = await eventually('version 2 brought in', BROUGHT_MS, async () => {
    const { state } = await prefetch();
    const now = await tiny.atHand(2);
    return state === 'idle' ? now : undefined;
  });
  const brought = (await filled()) - before;
  expect(await readFile(path.join(ben.home, 'log/agent.log'), 'utf8')).not.toMatch(/bringing in ahead/);
  // The user disk's beginning is the same in both, and not brought in.
  expect(Math.abs(brought - used)).toBeLessThan(10);
  expect(second.missingBlocks).toBeLessThan(second.blocks - used + 10);
  expect(second.missingBlocks).toBeGreaterThan(10);
  // What is here is not asked for again.
  const { lookedAt } = await prefetch();
  await ben.json(['update']);
  await eventually('another look', BROUGHT_MS, async () =>
    (await prefetch()).lookedAt === lookedAt ? undefined : true,
  );
  expect((await filled()) - before).toBe(brought);
});

it('without the repository it waits, and goes on when that is back', async () => {
  tiny.link.down();
  await ben.json(['settings', '--metered', 'auto']);
  await looked('away');
  tiny.link.up();
  await publishChanged(0xe6);
  const before = await filled();
  // Whichever request finds the repository back.
  await ben.json(['update']);
  await eventually('version 3 brought in', BROUGHT_MS, async () =>
    (await prefetch()).state === 'idle' && (await filled()) > before + 10 ? true : undefined,
  );
});
