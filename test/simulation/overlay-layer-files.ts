/** The files of an overlay as its format document describes them (docs/formats/overlay.md), read from the medium by other code than the overlay's. */
import { createDecipheriv, createHash, hkdfSync } from 'node:crypto';
import { SECTOR_BYTES } from './overlay-model.js';
import type { Places } from './overlay-places.js';
import type { SimulatedDisk } from './simulated-disk.js';

export const OVERLAY_FOLDER = '/home/overlay';
export const GRANULE_BYTES = 4096;
const MAP_HEADER_BYTES = 4096;

const folderOf = (layerId: string): string => `${OVERLAY_FOLDER}/layers/${layerId}`;

/** Decrypts sectors of a layer in place, `byteOffset` being where they lie; what is zeroes is zeroes. */
const decryptSectors = (bytes: Buffer, byteOffset: number, key: Uint8Array): void => {
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const sector = bytes.subarray(at, at + SECTOR_BYTES);
    if (sector.every((byte) => byte === 0)) continue;
    const tweak = Buffer.alloc(16);
    tweak.writeUInt32LE((byteOffset + at) / SECTOR_BYTES);
    createDecipheriv('aes-256-xts', key, tweak).update(sector).copy(sector);
  }
};

/** `below` with these layers on it, by what the medium holds of their durable maps and data. */
export const composeLayers = (
  {
    disk,
    places,
    diskKey,
  }: { readonly disk: SimulatedDisk; readonly places: Places; readonly diskKey: Buffer | undefined },
  below: Buffer,
  layerIds: readonly string[],
): Buffer => {
  const bytes = Buffer.from(below);
  for (const layerId of layerIds) {
    const info = Buffer.from(`collective layer v1 ${layerId}`);
    const key = diskKey && new Uint8Array(hkdfSync('sha256', diskKey, new Uint8Array(0), info, 64));
    const map = disk.fileAt(`${folderOf(layerId)}/durable`);
    const data = disk.fileAt(`${folderOf(layerId)}/data`);
    for (const { first, end, byteOffset } of places.list) {
      const masks = map.mediumBytes(MAP_HEADER_BYTES + byteOffset / GRANULE_BYTES, Math.ceil((end - first) / 8));
      const content = data.mediumBytes(byteOffset, (end - first) * SECTOR_BYTES);
      if (key !== undefined) decryptSectors(content, byteOffset, key);
      for (let sector = 0; sector < end - first; sector += 1) {
        if (((masks[Math.floor(sector / 8)] ?? 0) & (1 << (sector % 8))) === 0) continue;
        const at = sector * SECTOR_BYTES;
        content.copy(bytes, first * SECTOR_BYTES + at, at, at + SECTOR_BYTES);
      }
    }
  }
  return bytes;
};

/** Of everything in the layer that a seal makes final. */
export const layerDigest = (disk: SimulatedDisk, layerId: string): string => {
  const hash = createHash('sha256');
  for (const name of ['data', 'durable'])
    for (const { index, bytes } of disk.fileAt(`${folderOf(layerId)}/${name}`).mediumPages())
      hash.update(`${name} ${index} `).update(bytes);
  return hash.digest('hex');
};

/** The layers that the medium's description names. */
export const namedLayerIds = (disk: SimulatedDisk): readonly string[] => {
  const path = `${OVERLAY_FOLDER}/overlay.json`;
  if (disk.nodeAt(path) === undefined) return [];
  const found = /"layers":\[([^\]]*)\]/.exec(disk.fileAt(path).mediumBytes().toString('latin1'))?.[1] ?? '';
  return found.split(',').map((text) => text.replaceAll('"', ''));
};
