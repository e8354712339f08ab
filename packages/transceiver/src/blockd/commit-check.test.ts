/** What is read before layers give way to a base, and that a base which is not what was written is refused. */
import { CollectiveError, DiskMap, MAP_KIND, sha256, type Digest } from '@collective/shared';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blocksToRead, checkCommit } from './commit-check.js';
import type { ImageMap } from './image-device.js';
import { LateDevice } from './overlay/late-device.double.js';

const BLOCK = 4096;
type Entry = 'zero' | `public ${number}` | `private ${number}`;
const blockOf = (seed: number): Buffer => Buffer.alloc(BLOCK, seed);
const seedOf = (entry: Entry): number => (entry === 'zero' ? 0 : Number(entry.split(' ')[1]));
/** A private name that is not the public one. */
const privateName = (block: Uint8Array): Digest => sha256(Buffer.concat([Buffer.from('private'), block]));

const mapOf = (entries: readonly Entry[], diskBytes = entries.length * BLOCK): ImageMap => {
  const map = DiskMap.empty({ diskBytes, blockBytes: BLOCK });
  entries.forEach((entry, index) => {
    const block = blockOf(seedOf(entry)).fill(0, Math.min(BLOCK, diskBytes - index * BLOCK));
    if (entry.startsWith('public')) map.set(index, { kind: 'public', digest: sha256(block) });
    if (entry.startsWith('private')) map.set(index, { kind: 'private', digest: privateName(block) });
  });
  return map;
};
const deviceOf = (entries: readonly Entry[], diskBytes = entries.length * BLOCK): LateDevice =>
  new LateDevice(Buffer.concat(entries.map((entry) => blockOf(seedOf(entry)))).subarray(0, diskBytes));

const check = async (options: {
  readonly from: ImageMap | undefined;
  readonly to: ImageMap;
  readonly view: LateDevice;
  readonly changed: readonly number[];
}): Promise<Digest[]> => {
  const filled: Digest[] = [];
  await checkCommit({
    ...options,
    changed: Uint32Array.from(options.changed),
    placementTag: 1,
    rest: async () => undefined,
    fill: ({ digest }, block) => {
      if (privateName(block) !== digest) return Promise.reject(new CollectiveError('digest-mismatch'));
      filled.push(digest);
      return Promise.resolve(true);
    },
  });
  return filled;
};
const isMismatch = expect.objectContaining({ code: 'digest-mismatch' }) as Error;

describe('blocks to read', () => {
  it('are those that were written or of which the two states differ, in any arrangement', () => {
    const entry = fc.constantFrom<Entry[]>('zero', 'public 1', 'private 1', 'private 2');
    const runs = fc.array(fc.tuple(entry, fc.integer({ min: 1, max: 900 })), { minLength: 1, maxLength: 8 });
    const plan = runs.map((each) => each.flatMap(([kind, count]) => Array.from({ length: count }, () => kind)));
    fc.assert(
      fc.property(
        plan,
        fc.array(fc.tuple(fc.nat(), entry)),
        fc.array(fc.nat()),
        fc.boolean(),
        (before, edits, writes, isOverZero) => {
          const after = [...before];
          for (const [at, kind] of edits) after[at % after.length] = kind;
          const changed = [...new Set(writes.map((at) => at % after.length))].sort((a, b) => a - b);
          const from = isOverZero ? undefined : mapOf(before);
          const expected = after.flatMap((kind, index) => {
            const was = isOverZero ? 'zero' : before[index];
            return changed.includes(index) || kind !== was ? [index] : [];
          });
          expect([...blocksToRead({ changed: Uint32Array.from(changed), from, to: mapOf(after) })]).toEqual(expected);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('are all where the states are cut into other blocks', () => {
    const from = DiskMap.empty({ diskBytes: 4 * BLOCK, blockBytes: 2 * BLOCK });
    const to = mapOf(['zero', 'zero', 'zero', 'zero']);
    expect([...blocksToRead({ changed: new Uint32Array(0), from, to })]).toEqual([0, 1, 2, 3]);
  });
});

describe('commit check', () => {
  const before: Entry[] = ['public 1', 'zero', 'private 3', 'public 4', 'private 5'];
  const after: Entry[] = ['private 9', 'zero', 'private 3', 'zero', 'public 7'];

  it('takes what was written, fills the private blocks of it, and reads nothing else', async () => {
    const view = deviceOf(after);
    const asked: number[] = [];
    const tryRead = view.tryRead.bind(view);
    view.tryRead = (target, byteOffset) => {
      asked.push(byteOffset / BLOCK);
      return tryRead(target, byteOffset);
    };
    const filled = await check({ from: mapOf(before), to: mapOf(after), view, changed: [0, 3, 4] });
    expect(filled).toEqual([privateName(blockOf(9))]);
    expect(asked.sort()).toEqual([0, 3, 4]);
  });

  it('pads the last block of a disk that ends in it', async () => {
    const diskBytes = 2 * BLOCK - 512;
    const entries: Entry[] = ['zero', 'private 9'];
    const options = {
      from: undefined,
      to: mapOf(entries, diskBytes),
      view: deviceOf(entries, diskBytes),
      changed: [1],
    };
    expect(await check(options)).toHaveLength(1);
  });

  it.each<[string, Entry[]]>([
    ['a private block that is another', ['private 8', 'zero', 'private 3', 'zero', 'public 7']],
    ['a public block that is another', ['private 9', 'zero', 'private 3', 'zero', 'public 8']],
    ['zeroes where there is something', ['private 9', 'zero', 'private 3', 'zero', 'zero']],
    ['something where there are zeroes', ['private 9', 'zero', 'private 3', 'private 4', 'public 7']],
    ['another block where nothing was written', ['private 9', 'zero', 'private 4', 'zero', 'public 7']],
    ['zeroes where nothing was written', ['private 9', 'zero', 'zero', 'zero', 'public 7']],
    ['what was there before it was written', ['public 1', 'zero', 'private 3', 'zero', 'public 7']],
  ])('refuses %s', async (_name, wrong) => {
    const options = { from: mapOf(before), to: mapOf(wrong), view: deviceOf(after), changed: [0, 3, 4] };
    await expect(check(options)).rejects.toEqual(isMismatch);
  });

  it('takes another name of the same block, as after a new epoch', async () => {
    const to = mapOf(after);
    const from = mapOf(after);
    from.digestBytes.fill(1, 2 * 32, 3 * 32); // the name by an older key
    expect(from.kinds[2]).toBe(MAP_KIND.private);
    expect(await check({ from, to, view: deviceOf(after), changed: [] })).toEqual([privateName(blockOf(3))]);
  });

  it('says what the view says when it cannot be read', async () => {
    const view = deviceOf(after);
    view.isAway = true;
    view.read = () => Promise.reject(new CollectiveError('block-unavailable'));
    const options = { from: mapOf(before), to: mapOf(after), view, changed: [0, 3, 4] };
    await expect(check(options)).rejects.toMatchObject({ code: 'block-unavailable' });
  });
});
