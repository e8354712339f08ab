/**
 * Sending what the server lacks: ask in groups of 8,192 digests, make chunks of the lacking ones in the work pool, send
 * them in batches of up to 4 MiB, a few at a time. The server keeps what a session has stored, so an upload that was
 * interrupted anywhere is continued by asking again.
 */
import PQueue from 'p-queue';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { ByteSource } from './image-bytes.js';
import { lackingBlocks, sliceBlocks, type BlockList } from './upload-plan.js';
import type { WorkPool } from './work-pool.js';

const DIGESTS_A_QUESTION = 8_192;
/** Plain bytes of one encode task: about one batch, half of it when blocks compress by two. */
const TASK_BYTES = 8 * 1024 * 1024;
const BATCHES_AT_ONCE = 3;
export const CHUNK_LEVEL = 3;

export type UploadSource = { readonly source: ByteSource; readonly blockBytes: number; readonly blocks: BlockList };

/** `onProgress` gets blocks that are there, of all. Errors: those of the repository and of block work. */
export async function uploadBlocks(
  upload: string,
  from: UploadSource,
  options: {
    readonly client: Pick<RepositoryClient, 'call'>;
    readonly pool: WorkPool;
    readonly signal: AbortSignal;
    readonly onProgress: (blocksThere: number) => void;
  },
): Promise<{ readonly sentBlocks: number }> {
  const { client, pool, signal } = options;
  const { blocks } = from;
  const queue = new PQueue({ concurrency: Math.max(1, pool.workers) + BATCHES_AT_ONCE });
  const perTask = Math.max(1, TASK_BYTES / from.blockBytes);
  const failures: unknown[] = [];
  let there = 0;
  let sentBlocks = 0;
  for (let first = 0; first < blocks.blockIndexes.length && failures.length === 0; first += DIGESTS_A_QUESTION) {
    const asked = sliceBlocks(blocks, first, DIGESTS_A_QUESTION);
    const lacking = lackingBlocks(
      asked,
      await client.call('lackingChunks', { params: { upload }, body: asked.digests, signal }),
    );
    there += asked.blockIndexes.length - lacking.blockIndexes.length;
    options.onProgress(there);
    for (let at = 0; at < lacking.blockIndexes.length && failures.length === 0; at += perTask) {
      const part = sliceBlocks(lacking, at, perTask);
      await queue.onSizeLessThan(1);
      void queue
        .add(async () => {
          signal.throwIfAborted();
          const encoded = await pool.run({
            kind: 'encode',
            source: from.source,
            blockBytes: from.blockBytes,
            ...part,
            level: CHUNK_LEVEL,
          });
          if (encoded.kind !== 'encode') return;
          for (const batch of encoded.batches)
            await client.call('uploadChunks', { params: { upload }, body: batch, signal });
          there += part.blockIndexes.length;
          sentBlocks += part.blockIndexes.length;
          options.onProgress(there);
        })
        .catch((error: unknown) => failures.push(error));
    }
  }
  await queue.onIdle();
  if (failures.length > 0) throw failures[0];
  return { sentBlocks };
}
