/**
 * Private chunks from the snapshot objects of a repository, by Range. Which object holds a block say their indexes; the newest is asked first, because
 * what a disk reads was written last. When retention has rewritten an object meanwhile (`conflict`), its index is read again.
 */
import { CollectiveError, type ChunkPlace, type Digest } from '@collective/shared';
import type { BlockRequest, ChunkStore, GetChunkOptions } from '../block-store.js';
import { HttpLine, type HttpLineOptions, type Repository } from '../fetch/http-line.js';
import { chunkBytesMax } from '../fetch/http-store.js';
import { orAborted } from '../fetch/single-flight-store.js';
import type { SnapshotSource } from './private-secrets.js';
import { changesAlways, corrupt, SnapshotIndexes, type IndexedObject } from './snapshot-indexes.js';

/** Indexes that are read at a time for one block. */
const PARALLEL_INDEXES = 4;
/** How often one block may be looked for again. */
const TRIES_MAX = 4;

type Found = { readonly object: IndexedObject; readonly place: ChunkPlace };

export class SnapshotStore extends HttpLine implements ChunkStore {
  readonly #indexes = new SnapshotIndexes(this);
  readonly #sources = new Map<string, SnapshotSource>();

  constructor(repository: Repository, options: HttpLineOptions) {
    super(repository, options);
  }

  /** What a request's `source` stands for from now on; undefined: nothing any more. */
  setSource(id: string, source: SnapshotSource | undefined): void {
    if (source === undefined) this.#sources.delete(id);
    else this.#sources.set(id, source);
  }

  async getChunk(request: BlockRequest, { rank, signal, onBytes }: GetChunkOptions): Promise<Buffer> {
    const { digest, blockBytes } = request;
    for (let attempt = 1; attempt <= TRIES_MAX; attempt += 1) {
      const { object, place } = await this.#find(request, signal);
      if (place.chunkBytes > chunkBytesMax(blockBytes))
        throw corrupt(object.path, `block ${digest} has ${place.chunkBytes} bytes`);
      const end = place.byteOffset + place.chunkBytes;
      const answer = await this.request(object.path, {
        isDemand: rank.fetchClass === 'demand',
        headers: { range: `bytes=${place.byteOffset}-${end - 1}`, 'if-match': object.etag },
        bodyBytesMax: place.chunkBytes,
        expectedBytes: place.chunkBytes,
        signal,
        onBytes,
      });
      if (answer.status === 206 || answer.status === 200) {
        if (answer.body.length === place.chunkBytes) return answer.body;
        throw corrupt(object.path, `${answer.body.length} bytes of block ${digest} instead of ${place.chunkBytes}`);
      }
      // Rewritten, or gone. (400: it has become so short that the range lies outside.)
      if (![400, 404, 409].includes(answer.status)) throw this.statusError(answer, `block ${digest}`);
      await this.#indexes.drop(object);
    }
    throw changesAlways(`the object of block ${digest}`);
  }

  /** Errors: `block-missing`, and those of an index that could not be read when no other has the block. */
  async #find({ digest, source: id }: BlockRequest, signal: AbortSignal | undefined): Promise<Found> {
    const source = this.#sources.get(id ?? '');
    if (source === undefined) throw missing(digest, 'no disk that is attached has it');
    const { subscription, objects } = source;
    const newestFirst = [...objects].reverse();
    const atHand = newestFirst.filter((number) => this.#indexes.has(subscription, number));
    const others = newestFirst.filter((number) => !atHand.includes(number));
    let failure: unknown;
    for (const group of [atHand, ...groupsOf(others)]) {
      const reading = Promise.allSettled(group.map((number) => this.#indexes.get(subscription, number)));
      for (const result of await orAborted(reading, signal)) {
        if (result.status === 'rejected') failure ??= result.reason;
        else {
          const place = result.value?.find(digest);
          if (result.value !== undefined && place !== undefined) return { object: result.value, place };
        }
      }
    }
    if (failure !== undefined) throw failure;
    throw missing(
      digest,
      `the repository has it in none of the ${objects.length} objects of ${subscription}; stop the machine, and collective continue NAME --here says how much is lost`,
    );
  }
}

const groupsOf = (numbers: readonly number[]): number[][] => {
  const groups: number[][] = [];
  for (let at = 0; at < numbers.length; at += PARALLEL_INDEXES) groups.push(numbers.slice(at, at + PARALLEL_INDEXES));
  return groups;
};

const missing = (digest: Digest, why: string): CollectiveError =>
  new CollectiveError('block-missing', `private block ${digest}: ${why}`, { data: { digest } });
