/**
 * Packs what boots read: the blocks of the merged boot trace of each newest version, in its order, in a few chunks (docs/formats/trace.md). A transceiver that
 * has little of them reads these, in fewer bytes and requests than block by block. It is worth many seconds of a processor, so a command
 * beside the server does it (`pack-boots`), and only when boots read something else than what is packed.
 *
 * They take nothing away: where one is gone or wrong, its readers ask for the blocks.
 */
import {
  type BootSegment,
  type BootTrace,
  CollectiveError,
  decodeChunk,
  type Digest,
  type DiskMap,
  encodeBootTrace,
  encodeSegment,
  planSegments,
  type TraceTouch,
} from '@collective/shared';
import { type BlobStore, type StoredChunk } from '../storage/blob-store.js';
import { packedTraceName } from '../storage/blob-names.js';
import { ownTrace, packedTrace, type TracedDisk } from './boot-traces.js';
import { type Repository } from './repository.js';
import { readVersionFile } from './version-file.js';

const LEVEL = 19;
/** 256 MiB in blocks of 64 KiB. A boot that reads more gains little by its last blocks. */
const PACKED_TOUCHES_MAX = 4_096;
/** A tenth of the blocks: fewer that are not packed, or not read any more, are not worth the work. */
const CHANGED_SHARE_MAX = 0.1;

type Parts = Pick<Repository, 'blobStore' | 'catalogue' | 'maps'>;
type Block = { readonly touch: TraceTouch; readonly digest: Digest };

export type PackResult = {
  readonly packed: number;
  readonly kept: number;
  /** Of what was packed: as an object, and as chunks. */
  readonly objectBytes: number;
  readonly chunkBytes: number;
  /** What could not be packed, a sentence each. */
  readonly problems: readonly string[];
};

/** Of the newest version of each appliance. */
export const packBoots = async (repository: Parts, options: { readonly level?: number } = {}): Promise<PackResult> => {
  const { catalogue, blobStore } = repository;
  let [packed, kept, objectBytes, chunkBytes] = [0, 0, 0, 0];
  const problems: string[] = [];
  for (const name of await catalogue.versions.appliances()) {
    const head = await catalogue.versions.head(name);
    const file = head === undefined ? undefined : await readVersionFile(blobStore, name, head.version);
    if (head === undefined || file === undefined) continue;
    for (const disk of file.manifest.disks.filter(({ root }) => root !== null)) {
      const of = { name, version: head.version, disk };
      try {
        const trace = await ownTrace(blobStore, of);
        if (trace === undefined) continue;
        const blocks = distinctBlocks(trace, await repository.maps.load(disk));
        if (planSegments(blocks.length, disk).length === 0) continue;
        const before = await packedTrace(blobStore, of);
        if (isPackedWell(blocks, before) && (await isWhole(blobStore, before))) {
          kept += 1;
          continue;
        }
        const result = await packDisk(blobStore, { ...of, trace, blocks }, options.level ?? LEVEL);
        packed += 1;
        objectBytes += result.objectBytes;
        chunkBytes += result.chunkBytes;
      } catch (error) {
        problems.push(
          `${name}@${head.version}/${disk.name}: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
    }
  }
  return { packed, kept, objectBytes, chunkBytes, problems };
};

/** Whether the packed trace has nearly the blocks that boots read. */
export const isPackedWell = (
  blocks: readonly { readonly touch: Pick<TraceTouch, 'blockIndex'> }[],
  packed: Pick<BootTrace, 'touches'> | undefined,
): boolean => {
  if (packed === undefined) return false;
  const read = new Set(blocks.map(({ touch }) => touch.blockIndex));
  const both = packed.touches.filter(({ blockIndex }) => read.has(blockIndex)).length;
  const changed = read.size - both + (packed.touches.length - both);
  return changed <= CHANGED_SHARE_MAX * read.size;
};

/** A packing that was killed before its end has not stored the last chunk. */
const isWhole = async (blobStore: BlobStore, packed: BootTrace | undefined): Promise<boolean> => {
  const last = packed?.segments?.at(-1);
  return last !== undefined && (await blobStore.readChunk(last.digest)) !== undefined;
};

const packDisk = async (
  blobStore: BlobStore,
  of: TracedDisk & { readonly trace: BootTrace; readonly blocks: readonly Block[] },
  level: number,
): Promise<{ objectBytes: number; chunkBytes: number }> => {
  const { name, version, disk, trace, blocks } = of;
  const touches: TraceTouch[] = [];
  const segments: BootSegment[] = [];
  const stored: StoredChunk[] = [];
  for (const count of planSegments(blocks.length, disk)) {
    const contents: Buffer[] = [];
    for (const { touch, digest } of blocks.slice(touches.length, touches.length + count)) {
      const chunk = await blobStore.readChunk(digest);
      if (chunk === undefined) throw new CollectiveError('block-missing', `block ${digest} is not there: run check`);
      contents.push(decodeChunk(chunk, { digest, plainBytes: disk.blockBytes }));
      touches.push({ ...touch, chunkBytes: chunk.length });
    }
    const { digest, chunk } = encodeSegment(contents, { level });
    segments.push({ digest, touches: count, chunkBytes: chunk.length });
    stored.push({ digest, chunk });
  }
  // First the name: what nothing names the collector may delete. The last chunk is there when all are.
  await blobStore.replace(packedTraceName(name, version, disk.name), encodeBootTrace({ ...trace, touches, segments }));
  await blobStore.storeChunks(stored.slice(0, -1));
  await blobStore.storeChunks(stored.slice(-1));
  const sum = (of: readonly { readonly chunkBytes: number }[]): number =>
    of.reduce((bytes, { chunkBytes }) => bytes + chunkBytes, 0);
  return { objectBytes: sum(segments), chunkBytes: sum(touches) };
};

/** Each content once, where it is read first. */
const distinctBlocks = ({ touches }: BootTrace, map: DiskMap): Block[] => {
  const blocks = new Map<Digest, Block>();
  for (const touch of touches) {
    const digest = map.digestAt(touch.blockIndex);
    if (digest !== undefined && !blocks.has(digest)) blocks.set(digest, { touch, digest });
  }
  return [...blocks.values()].slice(0, PACKED_TOUCHES_MAX);
};
