import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { blockDigest, sha256 } from './digest.js';
import { hasCode } from './errors.js';
import {
  SNAPSHOT_FOOTER_BYTES,
  SnapshotIndex,
  SnapshotObjectWriter,
  decodeSnapshotFooter,
  decodeSnapshotObject,
  encodeSnapshotObject,
} from './snapshot-object.js';

const chunkOf = (length: number, fill: number): { digest: Digest; chunk: Buffer } => {
  const chunk = Buffer.alloc(length, fill);
  return { digest: blockDigest(chunk), chunk };
};
const three = [chunkOf(49, 1), chunkOf(4_000, 2), chunkOf(128, 3)];
const malformed = expect.toSatisfy((error) => hasCode(error, 'malformed'));

const footerAndIndex = (bytes: Buffer) => {
  const footer = decodeSnapshotFooter(bytes.subarray(bytes.length - SNAPSHOT_FOOTER_BYTES), bytes.length);
  return { footer, index: bytes.subarray(footer.indexOffset, bytes.length - SNAPSHOT_FOOTER_BYTES) };
};

/** The object with its index replaced by `change` of it, under a right digest: only the meaning is wrong. */
const withIndex = (change: (index: Buffer) => void): Buffer => {
  const bytes = encodeSnapshotObject(three);
  const { index } = footerAndIndex(bytes);
  change(index);
  Buffer.from(sha256(index), 'hex').copy(bytes, bytes.length - SNAPSHOT_FOOTER_BYTES + 16);
  return bytes;
};

describe('snapshot object', () => {
  it('gives its chunks back in the order in which they were written', () => {
    expect(decodeSnapshotObject(encodeSnapshotObject(three))).toEqual(three);
    expect(decodeSnapshotObject(encodeSnapshotObject([]))).toEqual([]);
  });

  it('finds each chunk by its digest from the footer and the index alone, and nothing else', () => {
    const bytes = encodeSnapshotObject(three);
    const { footer, index } = footerAndIndex(bytes);
    const places = SnapshotIndex.decode(index, footer);
    for (const { digest, chunk } of three) {
      const place = places.find(digest);
      expect(bytes.subarray(place?.byteOffset, (place?.byteOffset ?? 0) + (place?.chunkBytes ?? 0))).toEqual(chunk);
    }
    expect(places.find(blockDigest(Buffer.from('another')))).toBeUndefined();
  });

  it('is the worked example of the document', () => {
    const chunk = readFileSync(new URL('../golden/chunk-v1/private.chunk', import.meta.url));
    const digest = '4fec9d27' as const;
    const document = readFileSync(new URL('../../../docs/formats/snapshot-object.md', import.meta.url), 'utf8');
    const indexDigest = /^((?:[0-9a-f]{2} ){31}[0-9a-f]{2}) +SHA-256 of the index/m
      .exec(document)?.[1]
      ?.replaceAll(' ', '');
    const manifestDigest = readPrivateDigest();
    expect(manifestDigest.startsWith(digest)).toBe(true);
    const bytes = encodeSnapshotObject([{ digest: manifestDigest, chunk }]);
    expect(bytes.length).toBe(236);
    expect(footerAndIndex(bytes).footer.indexDigest.toString('hex')).toBe(indexDigest);
  });

  it('refuses a second chunk of one digest, and a chunk of an impossible length', () => {
    const writer = new SnapshotObjectWriter();
    const [first] = three;
    if (first === undefined) throw new Error('no chunk');
    writer.add(first.digest, 49);
    expect(() => writer.add(first.digest, 49)).toThrow(malformed);
    expect(() => writer.add(blockDigest(Buffer.from('x')), 48)).toThrow(malformed);
  });

  it('refuses an index that is out of order, overlaps, leaves a gap or points outside', () => {
    const swapped = withIndex((index) => {
      const first = Buffer.from(index.subarray(0, 44));
      index.copyWithin(0, 44, 88);
      first.copy(index, 44);
    });
    expect(() => decodeSnapshotObject(swapped)).toThrow(malformed);
    for (const change of [1, -1, 1e9])
      expect(() =>
        decodeSnapshotObject(
          withIndex((index) => index.writeBigInt64LE(index.readBigInt64LE(32) + BigInt(change), 32)),
        ),
      ).toThrow(malformed);
    expect(() => decodeSnapshotObject(withIndex((index) => index.writeUInt32LE(50, 40)))).toThrow(malformed);
  });

  it('refuses an index with another digest', () => {
    const bytes = encodeSnapshotObject(three);
    const { footer, index } = footerAndIndex(bytes);
    index[3] = (index[3] ?? 0) ^ 1;
    expect(() => SnapshotIndex.decode(index, footer)).toThrow(
      expect.toSatisfy((error) => hasCode(error, 'digest-mismatch')),
    );
  });
});

/** The private digest of the golden private chunk, from the golden map page that names it. */
function readPrivateDigest(): Digest {
  const page = readFileSync(new URL('../golden/map-page-v1/leaf.page', import.meta.url)).toString('hex');
  const at = page.indexOf('4fec9d27');
  return page.slice(at, at + 64) as Digest;
}
