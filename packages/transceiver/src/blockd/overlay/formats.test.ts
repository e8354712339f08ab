/** The overlay's formats against their golden files, and against damage. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { decodeMapFileHeader, encodeMapFileHeader, MAP_HEADER_BYTES } from './map-file-header.js';
import { decodeStackDescription, encodeStackDescription } from './stack-description.js';

const golden = (name: string): Buffer => readFileSync(new URL(`golden/${name}`, import.meta.url));
const isOurs = (error: unknown): boolean =>
  error instanceof CollectiveError && (error.code === 'malformed' || error.code === 'unknown-format');

/** A decoder's only outcomes are a value or a typed error. */
const decodes = (decode: () => unknown): boolean => {
  try {
    decode();
    return true;
  } catch (error) {
    expect(isOurs(error)).toBe(true);
    return false;
  }
};

const LAYER_ID = '00112233445566778899aabbccddeeff';

describe('map file header', () => {
  it('the golden files are read and written the same', () => {
    const live = {
      kind: 'live',
      diskBytes: 2 ** 31,
      layerId: LAYER_ID,
      bootId: '6b7d1a52-3c0e-4f0a-9d53-0c1a2b3c4d5e',
    } as const;
    expect(decodeMapFileHeader(golden('live-header-1.bin'))).toEqual(live);
    expect(encodeMapFileHeader(live).equals(golden('live-header-1.bin'))).toBe(true);
    const durable = { kind: 'durable', diskBytes: 2 ** 31, layerId: LAYER_ID, bootId: '' } as const;
    expect(decodeMapFileHeader(golden('durable-header-1.bin'))).toEqual(durable);
    expect(encodeMapFileHeader(durable).equals(golden('durable-header-1.bin'))).toBe(true);
  });

  it('a header with any bit flipped, of another length or of any bytes is refused', () => {
    const good = golden('live-header-1.bin');
    fc.assert(
      fc.property(fc.nat({ max: MAP_HEADER_BYTES * 8 - 1 }), (bit) => {
        const bad = Buffer.from(good);
        bad[bit >>> 3] = (bad[bit >>> 3] ?? 0) ^ (1 << (bit & 7));
        expect(decodes(() => decodeMapFileHeader(bad))).toBe(false);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(decodes(() => decodeMapFileHeader(Buffer.from(bytes)))).toBe(false);
        expect(decodes(() => decodeMapFileHeader(Buffer.concat([bytes, good]).subarray(0, MAP_HEADER_BYTES)))).toBe(
          bytes.length === 0,
        );
      }),
    );
  });
});

describe('stack description', () => {
  it('the golden file is read and written the same', () => {
    const description = { diskBytes: 2 ** 31, layerIds: [LAYER_ID, 'ffeeddccbbaa99887766554433221100'] };
    expect(decodeStackDescription(golden('overlay-1.json'))).toEqual(description);
    expect(encodeStackDescription(description).equals(golden('overlay-1.json'))).toBe(true);
  });

  it.each([
    ['nothing', ''],
    ['a cut file', '{"format":1,"diskBytes":512,"lay'],
    ['an unknown field', `{"format":1,"diskBytes":512,"layers":["${LAYER_ID}"],"more":1}`],
    ['a later format', `{"format":2,"diskBytes":512,"layers":["${LAYER_ID}"]}`],
    ['no layers', '{"format":1,"diskBytes":512,"layers":[]}'],
    ['a layer twice', `{"format":1,"diskBytes":512,"layers":["${LAYER_ID}","${LAYER_ID}"]}`],
    ['a layer that leads elsewhere', '{"format":1,"diskBytes":512,"layers":["../../../../etc"]}'],
    ['half a sector', `{"format":1,"diskBytes":256,"layers":["${LAYER_ID}"]}`],
    ['a disk too large', `{"format":1,"diskBytes":9007199254740992,"layers":["${LAYER_ID}"]}`],
  ])('%s is refused', (_name, text) => {
    expect(decodes(() => decodeStackDescription(Buffer.from(text)))).toBe(false);
  });

  it('any JSON and any bytes give a value or a typed error', () => {
    fc.assert(fc.property(fc.json(), (text) => void decodes(() => decodeStackDescription(Buffer.from(text)))));
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void decodes(() => decodeStackDescription(Buffer.from(bytes)))));
  });
});
