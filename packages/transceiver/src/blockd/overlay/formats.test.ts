/** The overlay's formats against their golden files, and against damage. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CollectiveError, type Digest } from '@collective/shared';
import { diskKeyCheck } from './layer-keys.js';
import { decodeMapFileHeader, encodeMapFileHeader, isHeaderAsMade, MAP_HEADER_BYTES } from './map-file-header.js';
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
  it('any part of a header that a power cut leaves while a layer is made counts as unused, and none that was opened does', () => {
    // Seen: a header torn between its sectors was taken for that of a layer in use, and the disk could not be made any more.
    const header = (bootId: string): Buffer =>
      encodeMapFileHeader({ kind: 'live', diskBytes: 2 ** 31, layerId: LAYER_ID, bootId });
    const made = header('');
    const opened = header('6b7d1a52-3c0e-4f0a-9d53-0c1a2b3c4d5e');
    const mixed = (below: Buffer, above: Buffer, sectors: number): Buffer => {
      const bytes = Buffer.from(below);
      for (let sector = 0; sector < MAP_HEADER_BYTES / 512; sector += 1)
        if ((sectors & (1 << sector)) !== 0) above.copy(bytes, sector * 512, sector * 512, sector * 512 + 512);
      return bytes;
    };
    for (let sectors = 0; sectors < 256; sectors += 1) {
      expect(isHeaderAsMade(mixed(Buffer.alloc(MAP_HEADER_BYTES), made, sectors))).toBe(true);
      const hasChanged = !mixed(made, opened, sectors).equals(made);
      expect(isHeaderAsMade(mixed(made, opened, sectors))).toBe(!hasChanged);
    }
  });

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
  const BASE = 'ab'.repeat(32) as Digest;
  const description = {
    diskBytes: 2 ** 31,
    base: null,
    encryption: null,
    layerIds: [LAYER_ID, 'ffeeddccbbaa99887766554433221100'],
  };
  const encryption = { keyCheck: diskKeyCheck(Buffer.from(Array.from({ length: 64 }, (_, index) => index))) };

  it.each([
    ['overlay-3.json', description],
    ['overlay-3-encrypted.json', { ...description, encryption }],
    ['overlay-3-base.json', { ...description, base: BASE }],
  ])('%s, a golden file, is read and written the same', (name, content) => {
    expect(decodeStackDescription(golden(name))).toEqual(content);
    expect(encodeStackDescription(content).toString()).toBe(golden(name).toString());
  });

  it.each(['overlay-1.json', 'overlay-2.json', 'overlay-2-encrypted.json'])(
    '%s, of a format that was never released, is refused',
    (name) => {
      expect(() => decodeStackDescription(golden(name))).toThrow('unknown format');
    },
  );

  const good = {
    ...{ format: 3, diskBytes: 512, base: BASE },
    encryption: { cipher: 'aes-256-xts', ...encryption },
    layers: [LAYER_ID],
  };
  it.each([
    ['nothing', ''],
    ['a cut file', '{"format":3,"diskBytes":512,"lay'],
    ['an unknown field', JSON.stringify({ ...good, more: 1 })],
    ['a later format', JSON.stringify({ ...good, format: 4 })],
    ['a base that leads elsewhere', JSON.stringify({ ...good, base: '../../x' })],
    ['a base that is no digest', JSON.stringify({ ...good, base: BASE.toUpperCase() })],
    ['nothing said of a base', JSON.stringify({ ...good, base: undefined, more: null })],
    ['no layers', JSON.stringify({ ...good, layers: [] })],
    ['a layer twice', JSON.stringify({ ...good, layers: [LAYER_ID, LAYER_ID] })],
    ['a layer that leads elsewhere', JSON.stringify({ ...good, layers: ['../../../../etc'] })],
    ['half a sector', JSON.stringify({ ...good, diskBytes: 256 })],
    ['a disk too large', JSON.stringify({ ...good, diskBytes: 9007199254740992 })],
    ['nothing said of encryption', JSON.stringify({ ...good, encryption: undefined, more: null })],
    ['encryption that is no object', JSON.stringify({ ...good, encryption: 'aes-256-xts' })],
    ['another cipher', JSON.stringify({ ...good, encryption: { cipher: 'none', ...encryption } })],
    ['a short check of the key', JSON.stringify({ ...good, encryption: { cipher: 'aes-256-xts', keyCheck: 'AAAA' } })],
    ['no check of the key', JSON.stringify({ ...good, encryption: { cipher: 'aes-256-xts', more: '' } })],
    ['unknown fields of encryption', JSON.stringify({ ...good, encryption: { ...good.encryption, more: 1 } })],
  ])('%s is refused', (_name, text) => {
    expect(decodes(() => decodeStackDescription(Buffer.from(JSON.stringify(good))))).toBe(true);
    expect(decodes(() => decodeStackDescription(Buffer.from(text)))).toBe(false);
  });

  it('any JSON and any bytes give a value or a typed error', () => {
    fc.assert(fc.property(fc.json(), (text) => void decodes(() => decodeStackDescription(Buffer.from(text)))));
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void decodes(() => decodeStackDescription(Buffer.from(bytes)))));
  });
});
