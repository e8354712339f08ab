/** The boot trace of a user disk, which no map names: the server takes it in, keeps it, and cannot look into it. */
import { decodeSnapshotObject, encodeChunk, type Digest } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { snapshotDataName } from '../storage/blob-names.js';
import { privateChunkOf, type SnapshotOptions, type StoredRecord, type TestBackup } from '../testing/test-backup.js';
import { blockOf } from '../testing/test-publisher.js';
import { openSubscriber, type Subscriber, SUBSCRIPTION, written } from '../testing/test-subscriber.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage } from './collector.js';

let world: Subscriber;
let backup: TestBackup;
beforeEach(async () => {
  world = await openSubscriber();
  backup = world.backup;
});
afterEach(async () => {
  expect((await checkRepository(world.server.repository)).problems).toEqual([]);
  await world.server.close();
});

/** Any private chunk: to the server it is one. */
const trace = privateChunkOf(70_000);
/** Names a trace, and sends this record of it. */
const traced = (
  options: SnapshotOptions,
  record: StoredRecord | undefined,
  digest = trace.digest,
): SnapshotOptions => ({
  ...options,
  change: (manifest) => ({ ...manifest, disks: manifest.disks.map((disk) => ({ ...disk, trace: digest })) }),
  records: (records) => (record === undefined ? records : [...records, record]),
});
const recordsOf = async (number: number): Promise<Digest[]> => {
  const name = snapshotDataName({ account: world.person.account, subscription: SUBSCRIPTION }, number);
  const bytes = await world.server.repository.blobStore.read(name);
  return decodeSnapshotObject(bytes ?? Buffer.alloc(0)).map(({ digest }) => digest);
};

describe('a snapshot that names a boot trace', () => {
  test('is taken in when one of its objects has it, and the next one need not send it again', async () => {
    await backup.save(traced({ plan: written({ 3: 1 }) }, trace));
    await backup.save(traced({ plan: written({ 3: 2 }) }, undefined));
    // It is looked for again when an object of the parent is not listed: the one that has it.
    const { reply } = await backup.upload(backup.make(traced({ plan: written({ 3: 9 }), objects: [2] }, undefined)));
    expect(reply.status).toBe(404);
    expect(reply.json()).toMatchObject({ code: 'block-missing' });
  });

  test('is refused when none has it, also when the parent does not name it', async () => {
    await backup.save({ plan: written({ 3: 1 }) });
    const { reply } = await backup.upload(backup.make(traced({ plan: written({ 3: 2 }) }, undefined)));
    expect(reply.json()).toMatchObject({ code: 'block-missing', data: { digest: trace.digest } });
  });

  test('is refused when it is not encrypted', async () => {
    const open = { digest: trace.digest, chunk: encodeChunk(blockOf(70_000)) };
    const { reply } = await backup.upload(backup.make(traced({ plan: written({ 3: 1 }) }, open)));
    expect(reply.status).toBe(400);
  });
});

test('a trace stays as long as a kept snapshot names it, whatever becomes of the blocks beside it', async () => {
  const DAY = 86_400;
  const later = async (seconds: number): Promise<void> => {
    world.server.clock.advance(seconds);
    Object.assign(backup, { person: { ...backup.person, token: await world.server.deviceLogin(world.person.device) } });
  };
  const gc = () => collectGarbage(world.server.repository, { graceSeconds: 30 * DAY });
  const old = { 3: 1, 4: 2, 5: 3, 6: 4, 7: 5 };
  await backup.save(traced({ plan: written(old) }, trace));
  for (let at = 1; at <= 12; at += 1) {
    world.server.clock.advance(1);
    await backup.save(traced({ plan: written({ 3: 100 + at }) }, undefined));
  }
  await later(2 * DAY);
  await gc();
  await later(30 * DAY);
  expect((await gc()).objectsRewritten).toBeGreaterThan(0);
  expect(await recordsOf(1)).toContain(trace.digest);
  expect(await recordsOf(1)).not.toContain(privateChunkOf(5).digest);
});
