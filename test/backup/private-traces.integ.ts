/** The boot trace of a user disk goes with its snapshots: sealed, once, to whoever restores them, and nobody waits for one that is no good. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { decodeSnapshotObject, encodeBootTrace, USER_DISK, type BootTrace } from '@collective/shared';
import { BLOCK_BYTES, snapshotDataName } from '@collective/repository-server';
import { catchUp } from '@collective/transceiver';
import { BackupLab, DISK, type Transceiver } from './backup-lab.js';

let lab: BackupLab;
let first: Transceiver;
let second: Transceiver;
let subscription: string;

beforeEach(async () => {
  lab = await BackupLab.open();
  first = await lab.transceiver();
  second = await lab.transceiver();
  await first.create();
  ({ subscription } = first.backup.state);
});
afterEach(async () => lab[Symbol.asyncDispose]());

const traceOf = (...blocks: number[]): BootTrace => ({
  ...USER_DISK,
  blockBytes: BLOCK_BYTES,
  touches: blocks.map((blockIndex, at) => ({ blockIndex, afterMs: 100 * at, phase: 1, chunkBytes: 0 })),
});
const boot = traceOf(7, 3, 250, 260, 261, 299);
const dataName = (number: number) => snapshotDataName({ account: lab.subscriber.person.account, subscription }, number);
const objectOf = async (number: number): Promise<Buffer> => {
  const bytes = await lab.subscriber.server.repository.blobStore.read(dataName(number));
  if (bytes === undefined) throw new Error(`snapshot ${String(number)} has no object`);
  return bytes;
};
const traceIn = async (number: number): Promise<string | undefined> =>
  (await lab.manifest(subscription, number)).disks.find(({ name }) => name === DISK)?.trace;

test('the trace of the last boot goes with the next snapshot, is named by later ones, and comes to another transceiver', async () => {
  first.write(3, 70_001);
  await first.save();
  expect(await traceIn(1)).toBeUndefined();
  first.traces.set(DISK, boot);
  // By itself it is no reason for a snapshot.
  await first.save();
  expect((await lab.head(subscription))?.number).toBe(1);
  first.write(3, 70_002);
  await first.save();
  const named = await traceIn(2);
  expect(decodeSnapshotObject(await objectOf(2)).filter(({ digest }) => digest === named)).toHaveLength(1);
  first.write(3, 70_003);
  await first.save();
  expect(await traceIn(3)).toBe(named);
  expect(decodeSnapshotObject(await objectOf(3)).filter(({ digest }) => digest === named)).toHaveLength(0);

  second.client.calls.length = 0;
  await second.restore(subscription);
  expect(second.traces.get(DISK)).toEqual(boot);
  expect(second.content.equals(first.content)).toBe(true);
  // What the other one boots replaces it, also where the first one was.
  await first.backup.leases.release();
  second.traces.set(DISK, traceOf(9, 8));
  second.write(4, 70_004);
  await second.save();
  expect(await catchUp(first.backup, first.restoreParts)).toBe('caught-up');
  expect(first.traces.get(DISK)).toEqual(traceOf(9, 8));
  expect([...first.traceFailures, ...second.traceFailures]).toEqual([]);
});

test('the files of the server show no block number of it', async () => {
  first.traces.set(DISK, boot);
  first.write(3, 70_001);
  await first.save();
  const plain = encodeBootTrace(boot);
  const object = await objectOf(1);
  const named = await traceIn(1);
  const chunk = decodeSnapshotObject(object).find(({ digest }) => digest === named)?.chunk ?? Buffer.alloc(0);
  expect(chunk.length).toBeGreaterThan(0);
  expect(chunk.length).toBeLessThan(plain.length + 100);
  // Neither the touches, 13 bytes each behind 52 of a head, nor the head.
  expect((plain.length - 52) % 13).toBe(0);
  for (let at = 0; at < plain.length; at += at < 52 ? 4 : 13)
    expect(object.includes(plain.subarray(at, at + 13)), `byte ${at}`).toBe(false);
});

test('one that was altered, or is not there in time, is left out: the disk comes all the same', async () => {
  first.traces.set(DISK, boot);
  first.write(3, 70_001);
  await first.save();
  const named = await traceIn(1);
  const object = Buffer.from(await objectOf(1));
  const chunk = decodeSnapshotObject(object).find(({ digest }) => digest === named)?.chunk ?? Buffer.alloc(0);
  const last = object.indexOf(chunk) + chunk.length - 1;
  object[last] = (object[last] ?? 0) ^ 1;
  await lab.subscriber.server.repository.blobStore.replace(dataName(1), object);
  await second.restore(subscription);
  expect(second.traces.size).toBe(0);
  expect(second.traceFailures).toMatchObject([{ code: 'digest-mismatch' }]);
  expect(second.content.equals(first.content)).toBe(true);
});

test('of a new epoch it is encrypted anew with what it goes with, and an old one stays named', async () => {
  first.traces.set(DISK, boot);
  first.write(3, 70_001);
  await first.save();
  const named = await traceIn(1);
  first.epoch = 2;
  first.write(3, 70_002);
  await first.save();
  expect(await traceIn(2)).toBe(named);
  first.traces.set(DISK, traceOf(1));
  first.write(3, 70_003);
  await first.save();
  expect(await traceIn(3)).not.toBe(named);
  await second.restore(subscription);
  expect(second.traces.get(DISK)).toEqual(traceOf(1));
});
