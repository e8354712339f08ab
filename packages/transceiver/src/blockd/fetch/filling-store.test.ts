import { createHash } from 'node:crypto';
import type { Digest } from '@collective/shared';
import { expect, it } from 'vitest';
import { RANK } from '../block-store.js';
import { settle } from '../testing/eventually.js';
import { openLocalCache, temporaryFolder } from '../testing/local-cache.js';
import { GatedStore, requestFor } from '../testing/test-stores.js';

const BLOCK = 65_536;
const blockOf = (number: number): Buffer => Buffer.alloc(BLOCK, number);
const digestOf = (number: number): Digest => createHash('sha256').update(blockOf(number)).digest('hex') as Digest;

it('what nobody waits for evicts nothing, however much of it was asked for while there was room for one', async () => {
  await using temporary = await temporaryFolder();
  const gated = new GatedStore();
  const cache = await openLocalCache(temporary.folder, gated, { cacheBytesMax: 4 * BLOCK });
  for (let number = 0; number < 3; number += 1) await cache.writer.fill(requestFor(digestOf(number)), blockOf(number));
  const asked = Promise.allSettled(
    Array.from({ length: 6 }, async (_none, at) =>
      cache.filling.bring(requestFor(digestOf(10 + at)), { rank: RANK.background, wantBytes: false }),
    ),
  );
  await settle();
  gated.calls.forEach((call, at) => call.resolve(blockOf(10 + at)));
  const ends = await asked;
  expect(cache.writer.counters.evicted).toBe(0);
  expect(ends.filter(({ status }) => status === 'fulfilled').length).toBe(1);
  for (const end of ends) if (end.status === 'rejected') expect(end.reason).toMatchObject({ code: 'disk-full' });
  await cache.close();
});
