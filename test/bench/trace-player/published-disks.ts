/**
 * The disks of a published version, read from the repository's folder: their maps, and how long each block's chunk is. Nothing of
 * this goes over the link.
 */
import { statSync } from 'node:fs';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import {
  decodeChunk,
  decodeVersionManifest,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  openEnvelope,
  PAYLOAD_TYPES,
  type Digest,
  type DiskDescription,
} from '@collective/shared';
import type { TouchedDisk } from './first-touches.js';

export type PublishedDisk = TouchedDisk & { readonly description: DiskDescription; readonly map: DiskMap };
export type PublishedVersion = {
  readonly appliance: string;
  readonly version: number;
  readonly disks: readonly PublishedDisk[];
};

export const readPublishedVersion = async (folder: string, appliance: string): Promise<PublishedVersion> => {
  const own = path.join(folder, 'appliances', appliance);
  const version = Number((await readFile(path.join(own, 'latest'), 'utf8')).trim());
  const envelope = await readFile(path.join(own, String(version), 'manifest'));
  const { payload } = openEnvelope(envelope, { payloadType: PAYLOAD_TYPES.version });
  const chunkFile = (digest: Digest): string => path.join(folder, 'chunks', digest.slice(0, 2), digest);
  const readPage = (digest: Digest): Buffer =>
    decodeChunk(readFileSync(chunkFile(digest)), { digest, plainBytesMax: MAP_PAGE_BYTES_MAX });
  const disks = decodeVersionManifest(payload).disks.map((description): PublishedDisk => {
    const { root, name, blockBytes, diskBytes } = description;
    const map =
      root === null
        ? DiskMap.empty({ diskBytes, blockBytes })
        : DiskMap.fromPages({ diskBytes, blockBytes, root, pages: readPage });
    return {
      description,
      map,
      name,
      blockBytes,
      chunkBytes: (blockIndex) => {
        const digest = map.digestAt(blockIndex);
        return digest === undefined ? undefined : statSync(chunkFile(digest)).size;
      },
    };
  });
  return { appliance, version, disks };
};
