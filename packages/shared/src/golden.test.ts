import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { hasCode } from './errors.js';
import { GOLDEN_EXAMPLES, goldenFirstTrustFile, goldenSnapshot, goldenVersion } from './testing/golden-examples.js';
import { decodeSnapshotManifest } from './snapshot-manifest.js';
import { decodeVersionManifest } from './manifest.js';

const goldenFolder = new URL('../golden/', import.meta.url);
const read = (path: string): Buffer => readFileSync(new URL(path, goldenFolder));

describe.each(GOLDEN_EXAMPLES)('golden file $path', (example) => {
  it('decodes and encodes to the same bytes', () => {
    const bytes = read(example.path);
    expect(example.reencode(bytes)).toEqual(bytes);
  });
});

describe.each(GOLDEN_EXAMPLES.filter(({ isRandom }) => isRandom !== true))('golden file $path', (example) => {
  it('is what this program writes today', () => {
    expect(example.write()).toEqual(read(example.path));
  });
});

describe.each(GOLDEN_EXAMPLES.filter(({ isRandom }) => isRandom === true))('golden file $path', (example) => {
  it('is never written twice alike, because its nonce is random', () => {
    expect(example.write().equals(example.write())).toBe(false);
  });
});

describe('golden folder', () => {
  it('holds nothing but the files of the table', () => {
    const found = readdirSync(goldenFolder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath.split('/').at(-1) ?? ''}/${entry.name}`);
    expect(found.sort()).toEqual(GOLDEN_EXAMPLES.map(({ path }) => path).sort());
  });

  it('holds manifests with the values that were put in', () => {
    expect(decodeVersionManifest(read('version-v1/payload.json'))).toEqual(goldenVersion);
    expect(decodeSnapshotManifest(read('snapshot-v1/payload.json'))).toEqual(goldenSnapshot);
    expect(read('trust-v1/1')).toEqual(goldenFirstTrustFile);
  });

  it('a version that is signed as a snapshot is refused, although the payload is the same', () => {
    const snapshotExample = GOLDEN_EXAMPLES.find(({ path }) => path === 'snapshot-v1/manifest');
    expect(() => snapshotExample?.decode(read('version-v1/manifest'))).toThrow(
      expect.toSatisfy((error) => hasCode(error, 'malformed')),
    );
  });
});
