/**
 * Is what was saved still there, and does it open? A small random sample of the committed private blocks is fetched and
 * decrypted. The server cannot know which are asked for, and it alone cannot tell whether a chunk is the block that its
 * name says.
 */
import { randomInt } from 'node:crypto';
import { CollectiveError, MAP_KIND, checkStoredChunk, decodePrivateChunk, type Digest } from '@collective/shared';
import type { BackupPerson } from './backup-person.js';
import type { MachineBackup } from './machine-backup.js';

export const SAMPLE_BLOCKS_DEFAULT = 16;

export type SampleReport = {
  readonly checkedBlocks: number;
  readonly checkedBytes: number;
  /** What is missing or does not open; the person should know. */
  readonly failures: readonly {
    readonly disk: string;
    readonly blockIndex: number;
    readonly code: string;
    readonly message: string;
  }[];
};

/** `random`: an integer from 0 below its argument. Errors: those of the network; what is wrong with a block is reported. */
export async function sampleCheck(
  backup: MachineBackup,
  options: {
    readonly blocks?: number;
    readonly random?: (below: number) => number;
    readonly signal?: AbortSignal;
  } = {},
): Promise<SampleReport> {
  const { blocks = SAMPLE_BLOCKS_DEFAULT, random = randomInt, signal } = options;
  return backup.alone(async ({ file, parts, committed, objects }) => {
    const wanted = new Map<
      Digest,
      { readonly disk: string; readonly blockIndex: number; readonly blockBytes: number }
    >();
    for (const disk of file.state.disks) {
      const { map } = await committed.get(disk);
      const privates = Uint32Array.from(map.kinds.keys()).filter((index) => map.kinds[index] === MAP_KIND.private);
      for (let count = 0; count < blocks && privates.length > 0; count += 1) {
        const blockIndex = privates[random(privates.length)] ?? 0;
        const digest = map.digestAt(blockIndex);
        if (digest !== undefined) wanted.set(digest, { disk: disk.name, blockIndex, blockBytes: disk.blockBytes });
      }
    }
    const failures: SampleReport['failures'][number][] = [];
    const fail = (digest: Digest, error: CollectiveError): void => {
      const { disk = '', blockIndex = 0 } = wanted.get(digest) ?? {};
      failures.push({ disk, blockIndex, code: error.code, message: error.message });
    };
    const missing = new Set(wanted.keys());
    let checkedBytes = 0;
    for await (const [digest, chunk] of objects.chunks(wanted.keys(), file.state.objects, signal)) {
      missing.delete(digest);
      checkedBytes += chunk.length;
      try {
        open(chunk, { digest, person: parts.person, plainBytes: wanted.get(digest)?.blockBytes ?? 0 });
      } catch (error) {
        if (!(error instanceof CollectiveError)) throw error;
        fail(digest, error);
      }
    }
    for (const digest of missing)
      fail(digest, new CollectiveError('block-missing', `Block ${digest} is in none of the objects.`));
    return { checkedBlocks: wanted.size, checkedBytes, failures };
  });
}

const open = (
  chunk: Buffer,
  of: { readonly digest: Digest; readonly person: BackupPerson; readonly plainBytes: number },
): void => {
  const { epoch } = checkStoredChunk(chunk);
  const { chunkKey: key, blockNameKey: nameKey } = of.person.epochKeys(epoch);
  decodePrivateChunk(chunk, { key, nameKey, epoch, digest: of.digest, plainBytes: of.plainBytes });
};
