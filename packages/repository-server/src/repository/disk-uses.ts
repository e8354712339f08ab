/**
 * What sessions of all users touch of a published disk (docs/formats/use.md): each record that a transceiver tells is one vote of a person, disk and day, as those of
 * boot traces are (boot-traces.ts). Merged when one comes, because it is asked for much more often than told. What fewer than two records have is in no answer.
 *
 * Hints, as traces are.
 */
import {
  CollectiveError,
  decodeDiskUse,
  decodeUseRecord,
  type DiskUse,
  encodeDiskUse,
  encodeUseRecord,
  inheritUse,
  mergeUses,
  type UseRecord,
} from '@collective/shared';
import { isId, mergedUseName, useRecordName, useRecordsFolder } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { doomedVote, inherited, type TracedDisk, voteId } from './boot-traces.js';
import { type Repository } from './repository.js';

/** Takes the record of an account. Errors: those of decodeUseRecord, `bad-request` for one of another disk or of blocks that it does not have. */
export const addUseRecord = async (
  { blobStore, keys, clock }: Pick<Repository, 'blobStore' | 'keys' | 'clock'>,
  of: TracedDisk,
  { account, bytes }: { readonly account: string; readonly bytes: Uint8Array },
): Promise<void> => {
  const { name, version, disk } = of;
  const told = recordOfDisk(of, bytes);
  const nameOf = (record: string) => useRecordName(name, version, { disk: disk.name, record });
  const record = voteId({ keys, clock }, of, { account, what: 'use record' });
  const doomed = doomedVote(await recordsOf(blobStore, of), record);
  if (doomed !== undefined) await blobStore.remove(nameOf(doomed));
  await blobStore.replace(nameOf(record), encodeUseRecord(told));
  const records: UseRecord[] = [];
  for (const each of await recordsOf(blobStore, of)) {
    const kept = await readRecord(blobStore, of, each);
    if (kept !== undefined) records.push(kept);
  }
  await blobStore.replace(mergedUseName(name, version, disk.name), encodeDiskUse(mergeUses(records)));
};

/** What is worth knowing of a disk before it is used; undefined when there is nothing. */
export const diskUseFor = async (
  parts: Pick<Repository, 'blobStore' | 'catalogue' | 'maps'>,
  of: TracedDisk,
): Promise<DiskUse | undefined> => {
  const { root } = of.disk;
  if (root === null) return undefined;
  return (
    (await ownUse(parts.blobStore, of)) ?? (await inherited(parts, { ...of, root }, { own: ownUse, move: inheritUse }))
  );
};

const recordOfDisk = ({ name, version, disk }: TracedDisk, bytes: Uint8Array): UseRecord => {
  const record = decodeUseRecord(bytes);
  if (record.root !== disk.root || record.blockBytes !== disk.blockBytes || record.version !== version)
    throw new CollectiveError('bad-request', `the use record is not of disk ${disk.name} of ${name}@${version}`);
  const blockCount = Math.ceil(disk.diskBytes / disk.blockBytes);
  if (record.bursts.some((burst) => burst.some((blockIndex) => blockIndex >= blockCount)))
    throw new CollectiveError('bad-request', `the use record names a block that disk ${disk.name} does not have`);
  return record;
};

const recordsOf = async (blobStore: BlobStore, { name, version, disk }: TracedDisk): Promise<string[]> =>
  (await blobStore.list(useRecordsFolder(name, version, disk.name))).filter(isId);

/** A damaged record does not count. */
const readRecord = async (blobStore: BlobStore, of: TracedDisk, record: string): Promise<UseRecord | undefined> => {
  const { name, version, disk } = of;
  const bytes = await blobStore.read(useRecordName(name, version, { disk: disk.name, record }));
  return bytes === undefined ? undefined : readable(() => recordOfDisk(of, bytes));
};

/** Undefined also while too few have told for anything to be in it. */
const ownUse = async (blobStore: BlobStore, of: TracedDisk): Promise<DiskUse | undefined> => {
  const { name, version, disk } = of;
  const bytes = await blobStore.read(mergedUseName(name, version, disk.name));
  const use = bytes === undefined ? undefined : readable(() => decodeDiskUse(bytes));
  return use?.root === disk.root && use.blockBytes === disk.blockBytes && use.blocks.length > 0 ? use : undefined;
};

const readable = <T>(read: () => T): T | undefined => {
  try {
    return read();
  } catch {
    return undefined;
  }
};
