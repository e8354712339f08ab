/**
 * What a version begins with: the trace of the boot that preceded its publication, or, where it was not booted, what it inherits from the version before by
 * file (docs/formats/trace.md), so that the first person who starts it has a trace. Hints: a publish never fails for them.
 */
import {
  decodeBootTrace,
  decodeChunk,
  encodeBootTrace,
  hasCode,
  inheritTrace,
  TRACE_BYTES_MAX,
  type Digest,
  type DiskMap,
} from '@collective/shared';
import { loadDiskMap } from '../agent/disk-maps.js';
import { DiskReader } from './disk-reader.js';
import { ext4Files } from './ext4-files.js';
import { filePlaces } from './file-places.js';
import { openImageBytes, type ImageBytes } from './image-bytes.js';
import type { NewContent, NewVersion, PublishParts, Traces } from './send-version.js';

/** Tells them to the repository, in which the version is by now. Never fails; the publisher is told why there are none. */
export async function tellFirstTraces(
  version: NewVersion,
  booted: Traces | undefined,
  parts: Omit<PublishParts, 'machines' | 'home'>,
): Promise<void> {
  const { session, job } = parts;
  for (const { description } of version.draft.disks) {
    const { name: disk, kind } = description;
    if (kind !== 'system') continue;
    const content = version.contents.find((each) => each.description.name === disk);
    try {
      const ofBoot = booted?.get(disk);
      const trace = ofBoot ?? (content === undefined ? undefined : await inheritedByFile(version, content, parts));
      if (trace === undefined) continue;
      await session.client.call('addBootTrace', {
        params: { name: version.name, version: version.version, disk },
        query: { kind: ofBoot === undefined ? 'inherited' : 'publication' },
        body: trace,
        signal: job.signal,
      });
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      job.emit({ event: 'note', text: `Nothing is known yet of what a start of disk ${disk} reads: ${why}` });
    }
  }
}

/** Undefined: there is nothing to inherit, or no file of it is found, and the repository knows as much. */
async function inheritedByFile(
  { name, version, base }: NewVersion,
  content: NewContent,
  parts: Omit<PublishParts, 'machines' | 'home'>,
): Promise<Buffer | undefined> {
  const { session, objects, job } = parts;
  const { description, map } = content;
  const { blockBytes, root } = description;
  const before = base?.manifest.disks.find((disk) => disk.name === description.name);
  if (base === undefined || root === null || (before?.root ?? null) === null) return undefined;
  if (before === undefined || before.blockBytes !== blockBytes) return undefined;
  const { client } = session;
  const { signal } = job;
  const params = { name, version: base.manifest.version, disk: description.name };
  const bytes = await client
    .call('bootTrace', { params, responseBytesMax: TRACE_BYTES_MAX, signal })
    .catch((error: unknown) => {
      if (hasCode(error, 'not-found')) return undefined;
      throw error;
    });
  if (bytes === undefined) return undefined;
  job.emit({ event: 'progress', step: 'files', text: 'Looking where the files of a start lie now' });
  const trace = decodeBootTrace(bytes);
  const from = await loadDiskMap({ manifest: base.manifest, disk: before, objects, client, signal });
  const image = await openImageBytes(content.source);
  try {
    const readNew = async (blockIndex: number): Promise<Buffer> => {
      signal.throwIfAborted();
      return readBlock(image, map, blockIndex);
    };
    const readOld = async (blockIndex: number): Promise<Buffer> => {
      const digest = from.digestAt(blockIndex);
      if (digest === undefined) return Buffer.alloc(blockBytes);
      // Nearly all is as it was, and need not be fetched.
      if (blockIndex < map.blockCount && digest === map.digestAt(blockIndex)) return readNew(blockIndex);
      return fetchBlock(digest, blockBytes, { client, signal });
    };
    const places = filePlaces(
      await ext4Files(new DiskReader(before, readOld)),
      await ext4Files(new DiskReader(description, readNew)),
      { blocks: trace.touches.map(({ blockIndex }) => blockIndex), blockBytes },
    );
    if (places.size === 0) return undefined;
    return encodeBootTrace(inheritTrace(trace, from, { map, version, root, byFile: places }));
  } finally {
    await image.close();
  }
}

async function readBlock(image: ImageBytes, map: DiskMap, blockIndex: number): Promise<Buffer> {
  const block = Buffer.alloc(map.blockBytes);
  await image.read(block, blockIndex * map.blockBytes);
  return block;
}

async function fetchBlock(
  digest: Digest,
  blockBytes: number,
  from: { readonly client: PublishParts['session']['client']; readonly signal: AbortSignal },
): Promise<Buffer> {
  const chunk = await from.client.call('chunk', { params: { digest }, signal: from.signal });
  return decodeChunk(chunk, { digest, plainBytes: blockBytes });
}
