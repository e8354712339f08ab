/**
 * The indexes of snapshot objects (docs/formats/snapshot-object.md), each read once: footer and index by one Range from the end, more where it is
 * longer. They stay in memory, the least used go. An object that retention has rewritten has another index, and is read anew when somebody says so.
 */
import {
  CollectiveError,
  decodeSnapshotFooter,
  routePath,
  SNAPSHOT_FOOTER_BYTES,
  SnapshotIndex,
  type ChunkPlace,
  type Digest,
} from '@collective/shared';
import type { HttpAnswer, HttpLine } from '../fetch/http-line.js';

/** One object as it is now. */
export type IndexedObject = {
  readonly path: string;
  /** Changes when the object is rewritten. */
  readonly etag: string;
  readonly find: (digest: Digest) => ChunkPlace | undefined;
  readonly recordCount: number;
};

const TAIL_BYTES = 64 << 10;
/** Of an index that does not fit into the tail. */
const PART_BYTES = 1 << 20;
/** How often an object may be rewritten while its index is read. */
const TRIES_MAX = 3;
/** Records of all indexes in memory, 48 bytes each; an object that has more alone is kept while it is the newest. */
const RECORDS_MAX = 4 << 20;

export class SnapshotIndexes {
  readonly #line: HttpLine;
  /** By path; least used first. Undefined: the server has no such object. */
  readonly #known = new Map<string, Promise<IndexedObject | undefined>>();
  readonly #recordCounts = new Map<string, number>();

  constructor(line: HttpLine) {
    this.#line = line;
  }

  /** Whether its index is at hand or on its way. */
  has(subscription: string, number: number): boolean {
    return this.#known.has(pathOf(subscription, number));
  }

  /** Undefined: the server does not have it (any more). Joined by all who ask meanwhile. Errors as HttpLine.request, `block-corrupt`. */
  get(subscription: string, number: number): Promise<IndexedObject | undefined> {
    const path = pathOf(subscription, number);
    const known = this.#known.get(path);
    if (known !== undefined) {
      this.#known.delete(path);
      this.#known.set(path, known);
      return known;
    }
    const reading = this.#read(path);
    this.#known.set(path, reading);
    reading.then(
      (object) => {
        if (this.#known.get(path) !== reading) return;
        // That it is not there may change, or be about to: asked again the next time.
        if (object === undefined) this.#known.delete(path);
        else this.#keep(path, object);
      },
      () => {
        if (this.#known.get(path) === reading) this.#known.delete(path);
      },
    );
    return reading;
  }

  /** The object is no longer as that index says. */
  async drop({ path, etag }: IndexedObject): Promise<void> {
    const known = this.#known.get(path);
    const object = await known?.catch(() => undefined);
    // Somebody else may have had it read anew already.
    if (object?.etag !== etag || this.#known.get(path) !== known) return;
    this.#known.delete(path);
    this.#recordCounts.delete(path);
  }

  #keep(path: string, object: IndexedObject): void {
    this.#recordCounts.set(path, object.recordCount);
    let records = 0;
    for (const count of this.#recordCounts.values()) records += count;
    for (const oldest of this.#known.keys()) {
      if (records <= RECORDS_MAX) return;
      const count = this.#recordCounts.get(oldest);
      if (oldest === path || count === undefined) continue;
      records -= count;
      this.#known.delete(oldest);
      this.#recordCounts.delete(oldest);
    }
  }

  async #read(path: string): Promise<IndexedObject | undefined> {
    for (let attempt = 1; ; attempt += 1) {
      const tail = await this.#range(path, `bytes=-${TAIL_BYTES}`, { bytesMax: TAIL_BYTES });
      if (tail.status === 404) return undefined;
      const { objectBytes, from } = placeOf(tail, path);
      try {
        const footer = decodeSnapshotFooter(tail.body.subarray(-SNAPSHOT_FOOTER_BYTES), objectBytes);
        const etag = `"${footer.indexDigest.toString('hex')}"`;
        const parts: Buffer[] = [];
        const indexEnd = objectBytes - SNAPSHOT_FOOTER_BYTES;
        let isSame = true;
        for (let at = footer.indexOffset; isSame && at < Math.min(from, indexEnd);) {
          const end = Math.min(from, at + PART_BYTES);
          const part = await this.#range(path, `bytes=${at}-${end - 1}`, { bytesMax: end - at, etag });
          if ([400, 404, 409].includes(part.status)) isSame = false;
          else if (part.body.length !== end - at) throw corrupt(path, `${part.body.length} bytes of ${end - at}`);
          parts.push(part.body);
          at = end;
        }
        if (isSame) {
          parts.push(
            tail.body.subarray(Math.max(0, footer.indexOffset - from), tail.body.length - SNAPSHOT_FOOTER_BYTES),
          );
          const index = SnapshotIndex.decode(Buffer.concat(parts), footer);
          return { path, etag, find: (digest) => index.find(digest), recordCount: index.recordCount };
        }
      } catch (error) {
        if (error instanceof CollectiveError && (error.code === 'malformed' || error.code === 'digest-mismatch'))
          throw corrupt(path, error.message);
        throw error;
      }
      if (attempt >= TRIES_MAX) throw changesAlways(path);
    }
  }

  /** 200, 206, 404, 409, or (of one that has become so short) 400. */
  async #range(
    path: string,
    range: string,
    { bytesMax, etag }: { readonly bytesMax: number; readonly etag?: string },
  ): Promise<HttpAnswer> {
    const answer = await this.#line.request(path, {
      isDemand: true, // few, and a guest will wait for one sooner or later
      headers: { range, ...(etag === undefined ? {} : { 'if-match': etag }) },
      bodyBytesMax: bytesMax,
      expectedBytes: bytesMax,
      signal: undefined,
    });
    if ([200, 206, 404, 409].includes(answer.status) || (etag !== undefined && answer.status === 400)) return answer;
    throw this.#line.statusError(answer, `the index of ${path}`);
  }
}

export const changesAlways = (path: string): CollectiveError =>
  new CollectiveError('internal', `${path} is rewritten again and again`);

const pathOf = (subscription: string, number: number): string => routePath('snapshotData', { subscription, number });

/** Where the bytes of an answer lie in their object. */
const placeOf = (answer: HttpAnswer, path: string): { readonly objectBytes: number; readonly from: number } => {
  if (answer.status === 200) return { objectBytes: answer.body.length, from: 0 };
  const [, first, last, total] = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(answer.contentRange ?? '') ?? [];
  const from = Number(first);
  if (total === undefined || Number(last) + 1 !== Number(total) || from + answer.body.length !== Number(total))
    throw corrupt(path, `the range ${answer.contentRange ?? 'without a name'} is not its end`);
  return { objectBytes: Number(total), from };
};

export const corrupt = (path: string, what: string): CollectiveError =>
  new CollectiveError('block-corrupt', `${path}: ${what}`, { data: { fault: 'net-not-a-block' } });
