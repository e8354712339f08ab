/** An overlay with a key: what lies on the disk, who may open it, and that it is the same disk. */
import { createDecipheriv, hkdfSync } from 'node:crypto';
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasCode } from '@collective/shared';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { diskKeyCheck } from './layer-keys.js';
import { LateDevice } from './late-device.double.js';
import { Overlay } from './overlay.js';

const GRANULE = 4096;
const DISK_BYTES = 20 * GRANULE + 1536;
const KEY = Buffer.from(Array.from({ length: 64 }, (_, index) => index));
const OTHER = Buffer.alloc(64, 1).fill(2, 32);

let parent: string;
let folder: string;
const fileSystem = new LocalFileSystem();
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'encrypted-overlay-'));
  folder = join(parent, 'overlay');
});
afterEach(() => rm(parent, { recursive: true }));

const openWith = (key: Uint8Array | undefined): Promise<Overlay> =>
  Overlay.open(fileSystem, folder, new LateDevice(Buffer.alloc(DISK_BYTES, 1)), { key });
const open = (): Promise<Overlay> => openWith(KEY);
const put = async (overlay: Overlay, bytes: Buffer, byteOffset: number): Promise<void> => {
  if (!overlay.tryWrite(bytes, byteOffset)) await overlay.write(bytes, byteOffset);
  overlay.publishWrites();
};
const get = async (overlay: Overlay, byteOffset: number, byteLength: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(byteLength);
  if (!overlay.tryRead(bytes, byteOffset)) await overlay.read(bytes, byteOffset);
  return bytes;
};
/** Everything below the overlay's folder, by path. */
const files = async (): Promise<Map<string, Buffer>> => {
  const names = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = names.filter((name) => name.isFile()).map((name) => join(name.parentPath, name.name));
  return new Map(await Promise.all(paths.map(async (path) => [path, await readFile(path)] as const)));
};
const fileOf = async (name: string, layer = 0): Promise<Buffer> => {
  const ids = JSON.parse(await readFile(join(folder, 'overlay.json'), 'utf8')) as { layers: string[] };
  return readFile(join(folder, 'layers', ids.layers[layer] ?? '', name));
};

describe('an overlay with a key', () => {
  it('has nothing of what was written in any of its files, and reads it after kill -9 and after a clean close', async () => {
    const secret = Buffer.from('nobody else may read this, wherever it lies ');
    let overlay = await open();
    await put(overlay, Buffer.alloc(GRANULE, secret), 0);
    await put(overlay, Buffer.alloc(512, secret), 3 * GRANULE + 512);
    await put(overlay, secret, 5 * GRANULE + 7); // no whole sector
    await put(overlay, Buffer.alloc(1536, secret), 20 * GRANULE);
    await overlay.seal();
    await put(overlay, Buffer.alloc(3 * GRANULE, secret), 8 * GRANULE);
    await overlay.abandon();
    overlay = await open();
    const look = async (): Promise<void> => {
      expect((await get(overlay, 0, GRANULE)).equals(Buffer.alloc(GRANULE, secret))).toBe(true);
      expect((await get(overlay, 3 * GRANULE + 512, 512)).equals(Buffer.alloc(512, secret))).toBe(true);
      expect((await get(overlay, 3 * GRANULE + 500, 12)).every((byte) => byte === 1)).toBe(true);
      expect(
        (await get(overlay, 5 * GRANULE + 6, secret.length + 2)).equals(Buffer.from(`\x01${String(secret)}\x01`)),
      ).toBe(true);
      expect((await get(overlay, 8 * GRANULE, 3 * GRANULE)).equals(Buffer.alloc(3 * GRANULE, secret))).toBe(true);
    };
    await look();
    await overlay.close();
    const found = await files();
    expect([...found.keys()].filter((path) => path.endsWith('/sums'))).toHaveLength(2);
    for (const [path, bytes] of found) {
      expect(bytes.includes(secret.subarray(0, 16)), path).toBe(false);
      expect(bytes.includes(KEY.subarray(0, 16)), path).toBe(false);
    }
    overlay = await open();
    await look();
    await overlay.close();
  });

  it('lies there as node:crypto’s aes-256-xts has it, by sector, under the key of its layer; what was trimmed is a hole', async () => {
    const overlay = await open();
    const plain = Buffer.from(Array.from({ length: 2 * GRANULE }, (_, index) => (index * 7) & 0xff));
    await put(overlay, plain, 4 * GRANULE);
    await overlay.trim(5 * GRANULE, GRANULE);
    await overlay.close();
    const data = await fileOf('data');
    const [id] = (JSON.parse(await readFile(join(folder, 'overlay.json'), 'utf8')) as { layers: [string] }).layers;
    const key = layerKeyOf(id);
    for (let sector = 32; sector < 40; sector += 1) {
      const tweak = Buffer.alloc(16);
      tweak.writeUInt32LE(sector);
      const decipher = createDecipheriv('aes-256-xts', key, tweak);
      expect(
        decipher
          .update(data.subarray(sector * 512, sector * 512 + 512))
          .equals(plain.subarray((sector - 32) * 512, (sector - 31) * 512)),
      ).toBe(true);
    }
    expect(data.subarray(5 * GRANULE, 6 * GRANULE).every((byte) => byte === 0)).toBe(true);
  });

  it('has other bytes for equal sectors of two places, and of two layers', async () => {
    const overlay = await open();
    await put(overlay, Buffer.alloc(2 * GRANULE, 3), 0);
    await overlay.seal();
    await put(overlay, Buffer.alloc(2 * GRANULE, 3), 0);
    await overlay.close();
    const sectors = [...sectorsOf(await fileOf('data', 0)), ...sectorsOf(await fileOf('data', 1))];
    expect(new Set(sectors).size).toBe(32);
    // The sums of equal granules, too.
    expect((await fileOf('sums', 0)).subarray(72, 80).equals((await fileOf('sums', 1)).subarray(72, 80))).toBe(false);
  });

  it.each([
    ['another key', KEY, OTHER, 'other'],
    ['no key', KEY, undefined, 'missing'],
    ['a key for one that is not encrypted', undefined, KEY, 'plain'],
  ])('is refused with %s, and nothing of it is changed', async (_name, right, wrong, reason) => {
    const overlay = await openWith(right);
    await put(overlay, Buffer.alloc(GRANULE, 3), 0);
    await overlay.close();
    await cp(folder, join(parent, 'copy'), { recursive: true });
    const before = await files();
    const error: unknown = await openWith(wrong).catch((thrown: unknown) => thrown);
    if (!hasCode(error, 'wrong-key')) throw error;
    expect(error.data).toEqual({ reason });
    expect(error.message).not.toContain(KEY.toString('base64url').slice(0, 10));
    expect(await files()).toEqual(before);
    const again = await openWith(right); // the lock was let go
    expect((await get(again, 0, 1)).equals(Buffer.of(3))).toBe(true);
    await again.close();
  });

  it('derives the keys that Python gets', () => {
    expect(layerKeyOf('00112233445566778899aabbccddeeff').toString('hex')).toBe(
      '103fc063563c0a533f4187eda9e43a7a7926698c888effa0c0e5179965c6d121a66ed7255f55ae1812d4553a01510a33570c077431e95bc5788a83c8f1235d63',
    );
    expect(diskKeyCheck(KEY)).toBe(Buffer.from('6029bea4f715fcc1efdde5e9a17a91f0', 'hex').toString('base64url'));
  });

  it('takes no key of another length', async () => {
    await expect(openWith(KEY.subarray(1))).rejects.toThrow(RangeError);
  });
});

const sectorsOf = (data: Buffer): string[] =>
  Array.from({ length: 16 }, (_, sector) => data.toString('hex', sector * 512, sector * 512 + 512));

/** As docs/formats/overlay.md says it. */
const layerKeyOf = (layerId: string): Buffer =>
  Buffer.from(hkdfSync('sha256', KEY, new Uint8Array(0), Buffer.from(`collective layer v1 ${layerId}`), 64));
