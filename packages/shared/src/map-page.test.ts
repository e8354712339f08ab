import { describe, expect, it } from 'vitest';
import { sha256 } from './digest.js';
import { MAP_PAGE_BYTES_MAX, type MapEntry, decodeMapPage, encodeMapPage } from './map-page.js';
import { codeOf } from './testing/code-of.js';

const digest = sha256(Buffer.from('child'));
const entries = (count: number, entry: MapEntry = { kind: 'public', digest }): MapEntry[] =>
  Array.from({ length: count }, () => entry);

describe('map page', () => {
  it('of 128 digests has 4,136 bytes, the most there is', () => {
    expect(encodeMapPage({ level: 0, entries: entries(128) }).length).toBe(MAP_PAGE_BYTES_MAX);
    expect(MAP_PAGE_BYTES_MAX).toBe(4_136);
  });

  it.each<[string, (page: Buffer) => unknown]>([
    ['no entry', (page) => page.writeUInt16LE(0, 6)],
    ['129 entries', (page) => page.writeUInt16LE(129, 6)],
    ['level 5', (page) => page.writeUInt8(5, 4)],
    ['a reserved byte', (page) => page.writeUInt8(1, 5)],
    ['a kind in the unused bits', (page) => page.writeUInt8(page.readUInt8(9) | 0x10, 9)],
    ['a digest that its kinds do not announce', (page) => page.writeUInt8(0xa9, 8)],
  ])('with %s is refused', (_name, change) => {
    // Six entries: two bytes of kinds, the last four bits unused.
    const page = encodeMapPage({ level: 0, entries: entries(6) });
    expect(decodeMapPage(page).entries).toHaveLength(6);
    change(page);
    expect(codeOf(() => decodeMapPage(page))).toBe('malformed');
  });

  it('with a private entry is a leaf, and is refused as an inner page', () => {
    const page = encodeMapPage({ level: 0, entries: entries(1, { kind: 'private', digest }) });
    expect(codeOf(() => decodeMapPage(page))).toBe('value');
    page.writeUInt8(1, 4);
    expect(codeOf(() => decodeMapPage(page))).toBe('malformed');
    expect(() => encodeMapPage({ level: 1, entries: entries(1, { kind: 'private', digest }) })).toThrow(RangeError);
  });
});
