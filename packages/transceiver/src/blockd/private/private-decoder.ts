/** Private chunk → block, by the keys of the epoch that the chunk names. In the fetching thread only: it decompresses (shared/src/zstd.ts). */
import { checkStoredChunk, CHUNK_HEADER_BYTES, CollectiveError, decodePrivateChunk } from '@collective/shared';
import type { ChunkDecoder } from '../fetch/verifying-store.js';
import type { BlockKeyRing } from './block-key-ring.js';

/** Where the epoch is in a chunk's header (docs/formats/blocks.md). */
const EPOCH_OFFSET = 8;

/** `ring` may get more keys later. Errors of what comes back: as decodePrivateChunk, and `wrong-key` for an epoch that the ring lacks. */
export const privateDecoder =
  (ring: BlockKeyRing): ChunkDecoder =>
  (chunk, of) => {
    const epoch = chunk.length < CHUNK_HEADER_BYTES ? 0 : chunk.readUInt32LE(EPOCH_OFFSET);
    const keys = ring.of(epoch);
    if (keys !== undefined)
      return decodePrivateChunk(chunk, { key: keys.chunkKey, nameKey: keys.blockNameKey, epoch, ...of });
    // Bytes that are no chunk name any epoch.
    if (checkStoredChunk(chunk).epoch !== epoch || epoch === 0)
      throw new CollectiveError('malformed', 'chunk: is public, a private one is expected');
    const message = `block ${of.digest} is of key epoch ${epoch}, of which there is no key here`;
    throw new CollectiveError('wrong-key', message, { data: { reason: 'missing', epoch } });
  };
