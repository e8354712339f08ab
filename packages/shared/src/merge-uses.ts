/**
 * What all users do with a disk, out of records of their sessions (docs/formats/use.md): how many sessions touched a block, and which blocks they touch together
 * after the boot. Pure and deterministic, whatever the order of the records; a single record, however strange, adds no block and no group.
 *
 * Two blocks belong together when at least two records first touched both in the same burst, and these are more than half of the records that touched either
 * of them. A group is what belongs together with its leader, the block that is in most records: so one chance meeting of two applications joins nothing.
 */
import { CollectiveError } from './errors.js';
import {
  type BlockGroup,
  type DiskUse,
  GROUPED_BLOCKS_MAX,
  GROUPS_MAX,
  RECORDS_MIN,
  USED_BLOCKS_MAX,
  type UsedBlock,
} from './disk-use.js';
import { median } from './median.js';
import { type UseRecord } from './use-record.js';

/** Blocks with which others are compared: as many groups, and as many again that nothing goes with, bound the work of strange records. */
const LEADERS_MAX = 2 * GROUPS_MAX;
/** Bursts are not quite the same each time: any of the first ones says what follows. At most half of a group, so that there is something to follow. */
const TRIGGERS_MAX = 4;

/** In which burst of each record it was touched first (0: the boot, `ABSENT`: in none), and at which part of it. */
type Sighting = { readonly blockIndex: number; readonly bursts: Int16Array; readonly places: number[]; seen: number };
const ABSENT = -1;

/** All of one disk. The version is that of the first. Errors: `bad-request` for none, or for records of several disks. */
export const mergeUses = (records: readonly UseRecord[]): DiskUse => {
  const [first] = records;
  if (first === undefined) throw new CollectiveError('bad-request', 'no use record to merge');
  for (const { root, blockBytes } of records)
    if (root !== first.root || blockBytes !== first.blockBytes)
      throw new CollectiveError('bad-request', `a use record of the disk ${root} among those of ${first.root}`);
  const { version, root, blockBytes } = first;
  const groups = groupsOf(records);
  return { version, root, blockBytes, records: records.length, blocks: frequencies(records), groups };
};

const frequencies = (records: readonly UseRecord[]): UsedBlock[] =>
  mostSeen(
    records.flatMap(({ bursts }) => bursts),
    USED_BLOCKS_MAX,
  );

/** Blocks that enough records have, most first. No record has a block twice. */
const mostSeen = (bursts: readonly (readonly number[])[], blocksMax: number): UsedBlock[] => {
  const counts = new Map<number, number>();
  for (const burst of bursts) for (const blockIndex of burst) counts.set(blockIndex, (counts.get(blockIndex) ?? 0) + 1);
  return [...counts]
    .filter(([, count]) => count >= RECORDS_MIN)
    .map(([blockIndex, count]) => ({ blockIndex, records: count }))
    .sort((one, other) => other.records - one.records || one.blockIndex - other.blockIndex)
    .slice(0, blocksMax);
};

const groupsOf = (records: readonly UseRecord[]): BlockGroup[] => {
  const leaders = new Leaders();
  const groups: Sighting[][] = [];
  for (const sighting of sightingsOf(records)) {
    const found = leaders.of(sighting);
    if (found !== undefined) groups[found]?.push(sighting);
    else if (groups.length < LEADERS_MAX) {
      leaders.add(sighting);
      groups.push([sighting]);
    }
  }
  return (
    groups
      .filter(({ length }) => length > 1)
      // Their leaders came in the order of how many records have them.
      .slice(0, GROUPS_MAX)
      .map((group) => ({ blocks: inOrder(group), triggers: Math.min(TRIGGERS_MAX, group.length >> 1) }))
  );
};

/** Of blocks that enough sessions touched after the boot, most first. */
const sightingsOf = (records: readonly UseRecord[]): Iterable<Sighting> => {
  const after = mostSeen(
    records.flatMap(({ bursts }) => bursts.slice(1)),
    GROUPED_BLOCKS_MAX,
  );
  const sightings = new Map<number, Sighting>(
    after.map(({ blockIndex }) => [
      blockIndex,
      { blockIndex, bursts: new Int16Array(records.length).fill(ABSENT), places: [], seen: 0 },
    ]),
  );
  for (const [record, { bursts }] of records.entries()) {
    for (const [burst, blocks] of bursts.entries()) {
      for (const [at, blockIndex] of blocks.entries()) {
        const sighting = sightings.get(blockIndex);
        if (sighting === undefined) continue;
        sighting.bursts[record] = burst;
        sighting.seen += 1;
        if (burst > 0) sighting.places.push(at / blocks.length);
      }
    }
  }
  return sightings.values();
};

class Leaders {
  readonly #all: Sighting[] = [];
  /** Their places in `#all`, by a burst that they are in. */
  readonly #inBurst = new Map<string, number[]>();
  readonly #together = new Uint16Array(LEADERS_MAX);

  add(sighting: Sighting): void {
    for (const burst of burstNames(sighting)) {
      const there = this.#inBurst.get(burst);
      if (there === undefined) this.#inBurst.set(burst, [this.#all.length]);
      else there.push(this.#all.length);
    }
    this.#all.push(sighting);
  }

  /** The place of the one with which it belongs together best; of equal ones the first. */
  of(sighting: Sighting): number | undefined {
    this.#together.fill(0);
    for (const burst of burstNames(sighting))
      for (const at of this.#inBurst.get(burst) ?? []) this.#together[at] = (this.#together[at] ?? 0) + 1;
    let best: { readonly at: number; readonly share: number } | undefined;
    for (const [at, leader] of this.#all.entries()) {
      const together = this.#together[at] ?? 0;
      if (together < RECORDS_MIN) continue;
      const share = together / eitherOf(sighting, leader);
      if (share > (best?.share ?? 1 / 2)) best = { at, share };
    }
    return best?.at;
  }
}

/** How many records touched one of the two, or both. */
const eitherOf = (one: Sighting, other: Sighting): number => {
  let both = 0;
  // By number, not by iterator: strange records make this the inner loop of all.
  for (let record = 0; record < one.bursts.length; record += 1)
    if (one.bursts[record] !== ABSENT && other.bursts[record] !== ABSENT) both += 1;
  return one.seen + other.seen - both;
};

const burstNames = ({ bursts }: Sighting): string[] =>
  [...bursts].flatMap((burst, record) => (burst > 0 ? [`${record}/${burst}`] : []));

const inOrder = (group: readonly Sighting[]): number[] =>
  group
    .map(({ blockIndex, places }) => ({ blockIndex, place: median(places) }))
    .sort((one, other) => one.place - other.place || one.blockIndex - other.blockIndex)
    .map(({ blockIndex }) => blockIndex);
