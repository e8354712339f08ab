/** The tiny appliance (images/tiny) as a publisher would have cut it: chunks in memory, maps as files. Built when it is missing. */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  blockDigest,
  checkMachineDescription,
  DiskMap,
  type Digest,
  encodeChangedPairs,
  encodeChunk,
  isAllZero,
  type MachineDescription,
} from '@collective/shared';
import { runOrThrow } from '../support/child.js';
import { BUILD, ROOT } from '../support/paths.js';

export type TinyDisk = {
  readonly name: string;
  readonly diskBytes: number;
  readonly blockBytes: number;
  readonly root: Digest;
  /** Bytes of the file that blockd reads the map from. */
  readonly pairs: Buffer;
};

export type TinyImage = {
  readonly description: MachineDescription;
  readonly system: TinyDisk;
  readonly user: TinyDisk;
  readonly chunks: ReadonlyMap<Digest, Buffer>;
};

let cached: Promise<TinyImage> | undefined;

export const tinyImage = (): Promise<TinyImage> => (cached ??= build());

async function build(): Promise<TinyImage> {
  const folder = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), folder]);
  const recipe = JSON.parse(await readFile(path.join(folder, 'appliance.json'), 'utf8')) as { machine: unknown };
  const chunks = new Map<Digest, Buffer>();
  const cut = async (name: string, blockBytes: number): Promise<TinyDisk> => {
    const bytes = await readFile(path.join(folder, `${name}.raw`));
    const map = DiskMap.empty({ diskBytes: bytes.length, blockBytes });
    for (let blockIndex = 0; blockIndex < map.blockCount; blockIndex += 1) {
      const block = bytes.subarray(blockIndex * blockBytes, (blockIndex + 1) * blockBytes);
      if (isAllZero(block)) continue;
      const digest = blockDigest(block);
      if (!chunks.has(digest)) chunks.set(digest, encodeChunk(block, { level: 1 }));
      map.set(blockIndex, { kind: 'public', digest });
    }
    const { root } = map.build();
    return { name, diskBytes: bytes.length, blockBytes, root, pairs: encodeChangedPairs(map.changesSince(undefined)) };
  };
  return {
    description: checkMachineDescription(recipe.machine),
    system: await cut('system', 65_536),
    user: await cut('user', 65_536),
    chunks,
  };
}

/** Writes the map file of the disk and says what blockd's `attach` is told. */
export const publishedSource = async (disk: TinyDisk, folder: string) => {
  const map = path.join(folder, `${disk.name}.map`);
  await writeFile(map, disk.pairs);
  const { diskBytes, blockBytes, root } = disk;
  return { kind: 'published', appliance: 'tiny', version: 1, diskBytes, blockBytes, root, map } as const;
};
