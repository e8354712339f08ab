/**
 * The objects of a subscription as a reader uses them: footers and indexes once an object, chunks by ranges that are put
 * together when they lie near each other. An object that the server has rewritten meanwhile (`conflict`) is looked at
 * again. Nothing is looked into: whoever asks checks each chunk against its digest.
 */
import {
  CollectiveError,
  SNAPSHOT_FOOTER_BYTES,
  SNAPSHOT_PART_BYTES_MAX,
  SnapshotIndex,
  decodeSnapshotFooter,
  hasCode,
  type ChunkPlace,
  type Digest,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';

/** The first request for an object: footer and, of most objects, the whole index. */
const TAIL_BYTES = 65_536;
/** Reading so much that is not wanted is cheaper than another request. */
const GAP_BYTES_MAX = 65_536;
/** An object is rewritten at most once a day; more often in one call is no accident. */
const TRIES_MAX = 4;

export type ObjectSource = Pick<RepositoryClient, 'objectRange'>;

type OpenObject = { readonly index: SnapshotIndex; readonly etag: string };
type Wanted = { readonly digest: Digest; readonly place: ChunkPlace };

export class SnapshotObjects {
  readonly #client: ObjectSource;
  readonly #subscription: string;
  readonly #open = new Map<number, OpenObject>();

  constructor(client: ObjectSource, subscription: string) {
    this.#client = client;
    this.#subscription = subscription;
  }

  /** Errors: those of the network; `not-found` when the object is not there, those of a damaged one. */
  async index(number: number, signal?: AbortSignal): Promise<SnapshotIndex> {
    return (await this.#object(number, signal)).index;
  }

  /** The next look at an object asks the server again. */
  forget(number?: number): void {
    if (number === undefined) this.#open.clear();
    else this.#open.delete(number);
  }

  /**
   * The chunks with these digests, in any order, each once; those that none of `objects` (numbers, ascending) holds are
   * left out. The newest object is asked first.
   */
  async *chunks(
    digests: Iterable<Digest>,
    objects: readonly number[],
    signal?: AbortSignal,
  ): AsyncGenerator<readonly [digest: Digest, chunk: Buffer]> {
    const missing = new Set(digests);
    for (const number of [...objects].reverse()) {
      if (missing.size === 0) return;
      for (let tries = 1; ; tries += 1) {
        try {
          yield* this.#chunksOf(number, missing, signal);
          break;
        } catch (error) {
          if (!hasCode(error, 'conflict') || tries >= TRIES_MAX) throw error;
          this.#open.delete(number);
        }
      }
    }
  }

  async *#chunksOf(
    number: number,
    missing: Set<Digest>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<readonly [Digest, Buffer]> {
    const { index, etag } = await this.#object(number, signal);
    const wanted: Wanted[] = [];
    for (const digest of missing) {
      const place = index.find(digest);
      if (place !== undefined) wanted.push({ digest, place });
    }
    wanted.sort((a, b) => a.place.byteOffset - b.place.byteOffset);
    for (const group of groupsOf(wanted)) {
      const first = group[0]?.place.byteOffset ?? 0;
      const bytes = await this.#range(number, { first, after: endOf(group), etag, signal });
      for (const { digest, place } of group) {
        missing.delete(digest);
        yield [digest, bytes.subarray(place.byteOffset - first, place.byteOffset - first + place.chunkBytes)];
      }
    }
  }

  async #object(number: number, signal: AbortSignal | undefined): Promise<OpenObject> {
    const known = this.#open.get(number);
    if (known !== undefined) return known;
    for (let tries = 1; ; tries += 1) {
      try {
        const opened = await this.#openObject(number, signal);
        this.#open.set(number, opened);
        return opened;
      } catch (error) {
        if (!hasCode(error, 'conflict') || tries >= TRIES_MAX) throw error;
      }
    }
  }

  async #openObject(number: number, signal: AbortSignal | undefined): Promise<OpenObject> {
    const of = { subscription: this.#subscription, number, signal };
    const { bytes, byteOffset, objectBytes, etag } = await this.#client.objectRange({
      ...of,
      range: `-${String(TAIL_BYTES)}`,
    });
    if (byteOffset + bytes.length !== objectBytes || bytes.length < SNAPSHOT_FOOTER_BYTES)
      throw new CollectiveError('malformed', `The end of the object of snapshot ${String(number)} did not come.`);
    const footer = decodeSnapshotFooter(bytes.subarray(bytes.length - SNAPSHOT_FOOTER_BYTES), objectBytes);
    const { indexOffset } = footer;
    const after = objectBytes - SNAPSHOT_FOOTER_BYTES;
    const tail = bytes.subarray(Math.max(0, indexOffset - byteOffset), bytes.length - SNAPSHOT_FOOTER_BYTES);
    const before = Math.min(byteOffset, after);
    const head =
      indexOffset < before
        ? await this.#range(number, { first: indexOffset, after: before, etag, signal })
        : Buffer.alloc(0);
    return { index: SnapshotIndex.decode(Buffer.concat([head, tail]), footer), etag };
  }

  /** Exactly these bytes, in as many requests as the server wants. */
  async #range(
    number: number,
    range: {
      readonly first: number;
      readonly after: number;
      readonly etag: string;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<Buffer> {
    const { first, after, etag, signal } = range;
    const parts: Buffer[] = [];
    for (let at = first; at < after;) {
      const part = await this.#client.objectRange({
        ...{ subscription: this.#subscription, number, signal },
        range: `${String(at)}-${String(after - 1)}`,
        ifMatch: etag,
      });
      if (part.byteOffset !== at || part.bytes.length === 0 || at + part.bytes.length > after || part.etag !== etag)
        throw new CollectiveError('malformed', `Another part of snapshot ${String(number)} came than was asked for.`);
      parts.push(part.bytes);
      at += part.bytes.length;
    }
    return Buffer.concat(parts);
  }
}

/** Neighbours together, up to what one answer has. */
const groupsOf = (wanted: readonly Wanted[]): Wanted[][] => {
  const groups: Wanted[][] = [];
  for (const one of wanted) {
    const group = groups.at(-1);
    const first = group?.[0]?.place.byteOffset ?? 0;
    const isNear =
      group !== undefined &&
      one.place.byteOffset - endOf(group) <= GAP_BYTES_MAX &&
      one.place.byteOffset + one.place.chunkBytes - first <= SNAPSHOT_PART_BYTES_MAX;
    if (isNear) group.push(one);
    else groups.push([one]);
  }
  return groups;
};

const endOf = (group: readonly Wanted[]): number => {
  const last = group.at(-1);
  return last === undefined ? 0 : last.place.byteOffset + last.place.chunkBytes;
};
