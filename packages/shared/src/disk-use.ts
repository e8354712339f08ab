/**
 * Disk use, version 1 (docs/formats/use.md): what sessions of all users touch of a published disk, as a server merges it out of use records.
 *
 *   magic 4 | version number 4 | disk root 32 | blockBytes 4 | records 4 | block count 4 | group count 4
 *   { blockIndex 4 | records 4 }* | { triggers 4 | blocks 4 }* | { blockIndex 4 }*
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { digestBytes, digestFromBytes } from './digest.js';
import { isBlockBytes } from './disk-shape.js';
import { CollectiveError } from './errors.js';

export type DiskUse = {
  /** Number of the appliance's version; with `root` of its disk. */
  readonly version: number;
  readonly root: Digest;
  readonly blockBytes: number;
  /** Out of how many records it was made. */
  readonly records: number;
  /** Which blocks sessions touch, what most of them touch first; equal ones in the order of the disk. */
  readonly blocks: readonly UsedBlock[];
  /** No block is in two. */
  readonly groups: readonly BlockGroup[];
};
/** `records`: how many of them have it. */
export type UsedBlock = { readonly blockIndex: number; readonly records: number };
/** What sessions touch together after the boot, in their usual order; when one of the first `triggers` is touched, the others will be. */
export type BlockGroup = { readonly blocks: readonly number[]; readonly triggers: number };

/** 2 GiB in blocks of 64 KiB. */
export const USED_BLOCKS_MAX = 2 ** 15;
export const GROUPS_MAX = 256;
/** In all groups together. */
export const GROUPED_BLOCKS_MAX = 2 ** 14;
/** What fewer records have says nothing of all users, and is not told: one record is one person's day. */
export const RECORDS_MIN = 2;
/** A block that less than this part of the sessions touched is not brought in before anybody wants it. */
export const USUAL_SHARE_MIN = 1 / 8;

const MAGIC = magicBytes('CDU', 1);
const HEADER_BYTES = 56;
const PAIR_BYTES = 8;
const WORD_BYTES = 4;
export const DISK_USE_BYTES_MAX =
  HEADER_BYTES + (USED_BLOCKS_MAX + GROUPS_MAX) * PAIR_BYTES + GROUPED_BLOCKS_MAX * WORD_BYTES;

/** What is worth having before anybody wants it, what most sessions touch first. */
export const usualBlocks = ({ records: all, blocks }: Pick<DiskUse, 'records' | 'blocks'>): number[] =>
  blocks
    .filter(({ records }) => records >= RECORDS_MIN && records >= all * USUAL_SHARE_MIN)
    .map(({ blockIndex }) => blockIndex);

/** Errors: `too-large`. */
export const encodeDiskUse = ({ version, root, blockBytes, records, blocks, groups }: DiskUse): Buffer => {
  const grouped = groups.flatMap((group) => group.blocks);
  checkCounts({ blocks: blocks.length, groups: groups.length, grouped: grouped.length });
  const bytes = Buffer.alloc(HEADER_BYTES + (blocks.length + groups.length) * PAIR_BYTES + grouped.length * WORD_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(version, 4);
  digestBytes(root).copy(bytes, 8);
  [
    ...[blockBytes, records, blocks.length, groups.length],
    ...blocks.flatMap((block) => [block.blockIndex, block.records]),
    ...groups.flatMap((group) => [group.triggers, group.blocks.length]),
    ...grouped,
  ].forEach((word, at) => bytes.writeUInt32LE(word, 40 + at * WORD_BYTES));
  return bytes;
};

/** Errors: `malformed` (blocks out of order, a block in two groups, a group without a trigger or the rest, a wrong length), `unknown-format`, `too-large`. */
export const decodeDiskUse = (bytes: Uint8Array): DiskUse => {
  const reader = new ByteReader(bytes, 'disk use');
  reader.magic(MAGIC);
  const version = reader.u32();
  const root = digestFromBytes(reader.take(32));
  const blockBytes = reader.u32();
  if (!isBlockBytes(blockBytes)) throw reader.error(`blocks of ${blockBytes} bytes do not exist`);
  const records = reader.u32();
  const blockCount = reader.u32();
  const groupCount = reader.u32();
  checkCounts({ blocks: blockCount, groups: groupCount, grouped: 0 });
  const blocks = readBlocks(reader, { blockCount, records });
  const groups = readGroups(reader, groupCount);
  reader.end();
  return { version, root, blockBytes, records, blocks, groups };
};

const readBlocks = (
  reader: ByteReader,
  of: { readonly blockCount: number; readonly records: number },
): readonly UsedBlock[] => {
  const seen = new Set<number>();
  let before: UsedBlock = { blockIndex: -1, records: of.records };
  return Array.from({ length: of.blockCount }, () => {
    const block = { blockIndex: reader.u32(), records: reader.u32() };
    const isNext =
      block.records === before.records ? block.blockIndex > before.blockIndex : block.records < before.records;
    if (block.records === 0 || !isNext || seen.has(block.blockIndex))
      throw reader.error(`block ${block.blockIndex} of ${block.records} records is out of order`);
    seen.add(block.blockIndex);
    before = block;
    return block;
  });
};

const readGroups = (reader: ByteReader, groupCount: number): readonly BlockGroup[] => {
  const heads = Array.from({ length: groupCount }, (_, at) => {
    const head = { triggers: reader.u32(), length: reader.u32() };
    if (head.triggers < 1 || head.triggers >= head.length)
      throw reader.error(`group ${at} has ${head.triggers} triggers among ${head.length} blocks`);
    return head;
  });
  const grouped = heads.reduce((sum, { length }) => sum + length, 0);
  checkCounts({ blocks: 0, groups: 0, grouped });
  if (reader.bytesLeft !== grouped * WORD_BYTES)
    throw reader.error(`${grouped} blocks in groups do not fit into ${reader.bytesLeft} bytes`);
  const seen = new Set<number>();
  return heads.map(({ triggers, length }) => {
    const blocks = Array.from({ length }, () => {
      const blockIndex = reader.u32();
      if (seen.has(blockIndex)) throw reader.error(`block ${blockIndex} is in a group already`);
      seen.add(blockIndex);
      return blockIndex;
    });
    return { blocks, triggers };
  });
};

const checkCounts = (counts: { readonly blocks: number; readonly groups: number; readonly grouped: number }): void => {
  const { blocks, groups, grouped } = counts;
  if (blocks > USED_BLOCKS_MAX || groups > GROUPS_MAX || grouped > GROUPED_BLOCKS_MAX)
    throw new CollectiveError(
      'too-large',
      `disk use: ${blocks} blocks, ${groups} groups of ${grouped}; at most ${USED_BLOCKS_MAX}, ${GROUPS_MAX} of ${GROUPED_BLOCKS_MAX}`,
    );
};
