import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { ChangedPairs, decodeChangedPairs, encodeChangedPairs } from './changed-pairs.js';
import { blockDigest, sha256, zeroBlockDigest } from './digest.js';
import { type BuiltMap, DiskMap } from './disk-map.js';
import { type DiskShape } from './disk-shape.js';
import { type ErrorCode } from './errors.js';
import { type MapEntry, decodeMapPage, encodeMapPage } from './map-page.js';
import { codeOf } from './testing/code-of.js';

const BLOCK = 4_096;

const digestOf = (value: number): Digest => sha256(Buffer.from(`block ${value}`));
const publicEntry = (value: number): MapEntry => ({ kind: 'public', digest: digestOf(value) });

const reopen = (shape: DiskShape, built: BuiltMap, inheritAllowed = true): DiskMap =>
  DiskMap.fromPages({
    diskBytes: shape.diskBytes,
    blockBytes: shape.blockBytes,
    root: built.root,
    pages: (digest) => built.pages.get(digest),
    inheritAllowed,
  });

const entryArbitrary: fc.Arbitrary<MapEntry> = fc.oneof(
  fc.constant<MapEntry>({ kind: 'zero' }),
  fc.constant<MapEntry>({ kind: 'inherit' }),
  fc.nat({ max: 40 }).map(publicEntry),
  fc.nat({ max: 40 }).map((value): MapEntry => ({ kind: 'private', digest: digestOf(value) })),
);

/** A disk of one to three levels and changes that come in runs, so that whole subtrees get one kind. */
const stateArbitrary = fc
  .oneof(fc.integer({ min: 1, max: 400 }), fc.integer({ min: 16_300, max: 17_000 }))
  .chain((blockCount) =>
    fc.record({
      blockCount: fc.constant(blockCount),
      runs: fc.array(
        fc.record({
          from: fc.nat({ max: blockCount - 1 }),
          length: fc.oneof(fc.constant(1), fc.constant(128), fc.nat({ max: 300 }), fc.constant(16_384)),
          entry: entryArbitrary,
        }),
        { maxLength: 8 },
      ),
    }),
  );
type State = typeof stateArbitrary extends fc.Arbitrary<infer T> ? T : never;

const mapOf = (state: State): DiskMap => {
  const map = DiskMap.empty({ diskBytes: state.blockCount * BLOCK, blockBytes: BLOCK });
  for (const { from, length, entry } of state.runs) {
    for (let index = from; index < Math.min(from + length, state.blockCount); index += 1) map.set(index, entry);
  }
  return map;
};

const isSame = (a: DiskMap, b: DiskMap): boolean =>
  a.diskBytes === b.diskBytes && Buffer.compare(a.kinds, b.kinds) === 0 && a.digestBytes.equals(b.digestBytes);

describe('disk map, any state', () => {
  it('comes back from its pages as it was', () => {
    fc.assert(
      fc.property(stateArbitrary, (state) => {
        const map = mapOf(state);
        const built = map.build();
        const reopened = reopen(map, built);
        expect(isSame(reopened, map)).toBe(true);
        expect(reopened.build().root).toBe(built.root);
      }),
      { numRuns: 60 },
    );
  });

  it('has one root, in whatever order it was set and whatever was there before', () => {
    fc.assert(
      fc.property(stateArbitrary, fc.array(fc.nat({ max: 399 }), { maxLength: 50 }), (state, detours) => {
        const map = mapOf(state);
        const other = DiskMap.empty(map);
        for (const index of detours) if (index < other.blockCount) other.set(index, publicEntry(99));
        for (let index = other.blockCount - 1; index >= 0; index -= 1) other.set(index, map.entryAt(index));
        expect(other.build().root).toBe(map.build().root);
      }),
      { numRuns: 40 },
    );
  });

  it('follows from any other state by the list of changed pairs, over the wire, also when the disk changes its size', () => {
    fc.assert(
      fc.property(stateArbitrary, stateArbitrary, (before, after) => {
        const older = mapOf(before);
        const newer = mapOf(after);
        const list = decodeChangedPairs(encodeChangedPairs(newer.changesSince(older)));
        const applied = older.clone().apply(list);
        expect(isSame(applied, newer)).toBe(true);
        expect(applied.build().root).toBe(newer.build().root);
        expect(newer.changesSince(applied).count).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it('has no list longer than what differs, and one that lists all for nothing known', () => {
    fc.assert(
      fc.property(stateArbitrary, (state) => {
        const map = mapOf(state);
        const changed = map.clone();
        changed.set(0, publicEntry(77));
        expect([...changed.changesSince(map)]).toEqual([{ blockIndex: 0, entry: publicEntry(77) }]);
        const nonZero = map.kinds.reduce((count, kind) => count + (kind === 1 ? 0 : 1), 0);
        expect(map.changesSince(undefined).count).toBe(nonZero);
        expect(isSame(DiskMap.empty(map).apply(map.changesSince(undefined)), map)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });
});

describe('disk map', () => {
  const shape = { diskBytes: 128 * 128 * BLOCK + 512, blockBytes: BLOCK };

  it('counts blocks and levels, the last block being cut short', () => {
    expect(DiskMap.mapShape({ diskBytes: 512, blockBytes: 65_536 })).toEqual({ blockCount: 1, levels: 1 });
    expect(DiskMap.mapShape({ diskBytes: 128 * BLOCK, blockBytes: BLOCK })).toEqual({ blockCount: 128, levels: 1 });
    expect(DiskMap.mapShape({ diskBytes: 128 * BLOCK + 512, blockBytes: BLOCK })).toEqual({
      blockCount: 129,
      levels: 2,
    });
    expect(DiskMap.mapShape(shape)).toEqual({ blockCount: 16_385, levels: 3 });
    expect(DiskMap.mapShape({ diskBytes: 2 ** 44, blockBytes: BLOCK })).toEqual({ blockCount: 2 ** 32, levels: 5 });
  });

  it('refuses sizes that no disk has, and one whose map does not fit into memory', () => {
    for (const diskBytes of [0, 511, 513, 2 ** 44 + 512, Number.NaN]) {
      expect(codeOf(() => DiskMap.empty({ diskBytes, blockBytes: BLOCK }))).toBe('malformed');
    }
    for (const blockBytes of [0, 2_048, 5_000, 2_097_152]) {
      expect(codeOf(() => DiskMap.empty({ diskBytes: 512, blockBytes }))).toBe('malformed');
    }
    expect(codeOf(() => DiskMap.empty({ diskBytes: 2 ** 44, blockBytes: BLOCK }))).toBe('too-large');
  });

  it('that is all zero is one root page', () => {
    const { root, pages } = DiskMap.empty(shape).build();
    expect(pages.size).toBe(1);
    expect(decodeMapPage(pages.get(root) ?? Buffer.alloc(0))).toEqual({
      level: 2,
      entries: [{ kind: 'zero' }, { kind: 'zero' }],
    });
  });

  it('has pages only where there is something: one block, one page a level', () => {
    const map = DiskMap.empty(shape);
    map.set(16_384, publicEntry(1));
    expect(map.build().pages.size).toBe(3);
    expect(map.kindAt(16_384)).toBe('public');
    expect(map.digestAt(16_384)).toBe(digestOf(1));
    expect(map.digestAt(0)).toBeUndefined();
    expect(() => map.kindAt(16_385)).toThrow(RangeError);
    expect(() => map.set(-1, { kind: 'zero' })).toThrow(RangeError);
  });

  it('takes the digest of the zero block as zero, in set and in apply', () => {
    const entry: MapEntry = { kind: 'public', digest: zeroBlockDigest(BLOCK) };
    const map = DiskMap.empty(shape);
    map.set(3, entry);
    expect(map.kindAt(3)).toBe('zero');
    expect(
      DiskMap.empty(shape)
        .apply(ChangedPairs.of(shape, [{ blockIndex: 3, entry }]))
        .build().root,
    ).toBe(DiskMap.empty(shape).build().root);
  });

  it('says which page is missing', () => {
    const map = DiskMap.empty(shape);
    map.set(16_384, publicEntry(1));
    const built = map.build();
    for (const missing of built.pages.keys()) {
      const rest = new Map(built.pages);
      rest.delete(missing);
      expect(() => reopen(map, { root: built.root, pages: rest })).toThrow(
        expect.objectContaining({ code: 'block-missing', data: { digest: missing } }),
      );
    }
  });

  it('refuses pages that are not in canonical form, have another level or count, or another digest', () => {
    const disk = { diskBytes: 256 * BLOCK, blockBytes: BLOCK };
    const leaf = (entry: MapEntry, count = 128): Buffer =>
      encodeMapPage({ level: 0, entries: Array.from({ length: count }, () => entry) });
    const mapWith = (page: Buffer, inheritAllowed = true): ErrorCode | 'value' => {
      const root = encodeMapPage({ level: 1, entries: [{ kind: 'public', digest: sha256(page) }, { kind: 'zero' }] });
      const pages = new Map([page, root].map((bytes) => [sha256(bytes), bytes]));
      return codeOf(() => reopen(disk, { root: sha256(root), pages }, inheritAllowed));
    };
    expect(mapWith(leaf(publicEntry(1)))).toBe('value');
    expect(mapWith(leaf({ kind: 'zero' }))).toBe('malformed');
    expect(mapWith(leaf({ kind: 'inherit' }))).toBe('malformed');
    expect(mapWith(leaf(publicEntry(1), 127))).toBe('malformed');
    expect(mapWith(leaf({ kind: 'public', digest: zeroBlockDigest(BLOCK) }))).toBe('malformed');
    const innerAsLeaf = encodeMapPage({ level: 1, entries: Array.from({ length: 128 }, () => publicEntry(1)) });
    expect(mapWith(innerAsLeaf)).toBe('malformed');
    const mixed = encodeMapPage({
      level: 0,
      entries: Array.from({ length: 128 }, (_unused, index) => (index === 0 ? { kind: 'inherit' } : publicEntry(1))),
    });
    expect(mapWith(mixed)).toBe('value');
    expect(mapWith(mixed, false)).toBe('malformed');

    const root = DiskMap.empty(disk).build().root;
    const other = encodeMapPage({ level: 1, entries: [{ kind: 'zero' }, { kind: 'inherit' }] });
    expect(codeOf(() => reopen(disk, { root, pages: new Map([[root, other]]) }))).toBe('digest-mismatch');
  });

  it('refuses a list for another block size, and leaves the map as it was', () => {
    const map = DiskMap.empty(shape);
    const list = ChangedPairs.of({ diskBytes: 512, blockBytes: 65_536 }, []);
    expect(codeOf(() => map.apply(list))).toBe('malformed');
    expect(map.diskBytes).toBe(shape.diskBytes);
    expect(codeOf(() => map.changesSince(DiskMap.empty({ diskBytes: 512, blockBytes: 65_536 })))).toBe('bad-request');
  });

  it('refuses pairs that do not ascend or lie beyond the disk', () => {
    const pairs = (...indexes: number[]): ErrorCode | 'value' =>
      codeOf(() =>
        ChangedPairs.of(
          shape,
          indexes.map((blockIndex) => ({ blockIndex, entry: publicEntry(1) })),
        ),
      );
    expect(pairs(1, 2, 16_384)).toBe('value');
    expect(pairs(2, 1)).toBe('malformed');
    expect(pairs(2, 2)).toBe('malformed');
    expect(pairs(16_385)).toBe('malformed');
  });

  it('of 64 GiB in 64 KiB blocks is built, read back and compared', () => {
    const large = { diskBytes: 2 ** 36, blockBytes: 65_536 };
    const map = DiskMap.empty(large);
    for (let index = 0; index < map.blockCount; index += 1) {
      map.kinds[index] = 2;
      map.digestBytes.writeUInt32LE(index + 1, index * 32);
    }
    const built = map.build();
    expect(built.pages.size).toBe(8_192 + 64 + 1);
    expect(isSame(reopen(large, built), map)).toBe(true);
    expect(map.changesSince(undefined).count).toBe(1_048_576);
  });

  it('is not confused by a real block that equals another', () => {
    const map = DiskMap.empty(shape);
    const digest = blockDigest(Buffer.alloc(BLOCK, 1));
    for (let index = 0; index < map.blockCount; index += 1) map.set(index, { kind: 'public', digest });
    const built = map.build();
    // Equal subtrees are one page: a leaf, an inner page, the two of the last block, and the root.
    expect(built.pages.size).toBe(5);
    expect(isSame(reopen(map, built), map)).toBe(true);
  });
});
