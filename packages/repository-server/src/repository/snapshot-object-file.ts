/**
 * A snapshot object in the blob store, open: its index in memory, its chunks read in pieces. It stays the same object also
 * when the collector puts a rewritten one in its place. Whoever opens it closes it.
 */
import {
  checkSnapshotHead,
  checkStoredChunk,
  type ChunkHeader,
  type ChunkPlace,
  CollectiveError,
  decodeChunk,
  decodeSnapshotFooter,
  type Digest,
  digestFromBytes,
  MAP_PAGE_BYTES_MAX,
  SNAPSHOT_FOOTER_BYTES,
  SNAPSHOT_HEAD_BYTES,
  SnapshotIndex,
} from '@collective/shared';
import { type BlobName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { type OpenFile } from '../storage/file-system.js';
import { type SnapshotIndexMemory } from './snapshot-index-memory.js';

/**
 * Neighbours are read together: whoever walks a map finds its chunks in the order of the object. One that does not follow
 * the last one is read alone: of a long history each object holds one page that is wanted.
 */
const WINDOW_BYTES = 262_144;

export class SnapshotObjectFile {
  readonly index: SnapshotIndex;
  /** SHA-256 of the index: another one when the object has been rewritten. */
  readonly indexDigest: Digest;
  readonly #file: OpenFile;
  #window: Buffer = Buffer.alloc(0);
  #windowOffset = 0;
  /** Where the chunk ends that was read last. */
  #lastEnd = SNAPSHOT_HEAD_BYTES;

  private constructor(file: OpenFile, index: SnapshotIndex, indexDigest: Digest) {
    this.#file = file;
    this.index = index;
    this.indexDigest = indexDigest;
  }

  /**
   * Undefined when there is no such file. The chunks are not looked into, and the index is not read again when `indexes`
   * has it. Errors: `malformed`, `unknown-format`, `digest-mismatch`, `too-large` for more records than `recordsMax`.
   */
  static async open(
    blobStore: BlobStore,
    name: BlobName,
    options: { readonly recordsMax: number; readonly indexes?: SnapshotIndexMemory | undefined },
  ): Promise<SnapshotObjectFile | undefined> {
    const file = await blobStore.open(name);
    if (file === undefined) return undefined;
    try {
      const footerOffset = file.byteLength - SNAPSHOT_FOOTER_BYTES;
      if (footerOffset < SNAPSHOT_HEAD_BYTES)
        throw new CollectiveError('malformed', `snapshot object: ${file.byteLength} bytes are none`);
      const footerBytes = await file.read(footerOffset, SNAPSHOT_FOOTER_BYTES);
      const footer = decodeSnapshotFooter(footerBytes, file.byteLength);
      const known = options.indexes?.get(footerBytes);
      if (known !== undefined) return new SnapshotObjectFile(file, known, digestFromBytes(footer.indexDigest));
      checkSnapshotHead(await file.read(0, SNAPSHOT_HEAD_BYTES));
      if (footer.recordCount > options.recordsMax)
        throw new CollectiveError(
          'too-large',
          `snapshot object: ${footer.recordCount} records; this server takes at most ${options.recordsMax}`,
        );
      const records = await file.read(footer.indexOffset, footerOffset - footer.indexOffset);
      const index = SnapshotIndex.decode(records, footer);
      options.indexes?.keep(footerBytes, index);
      return new SnapshotObjectFile(file, index, digestFromBytes(footer.indexDigest));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get byteLength(): number {
    return this.#file.byteLength;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  /** The chunk as it is stored, read-only, until the next call. */
  async chunk({ byteOffset, chunkBytes }: ChunkPlace): Promise<Buffer> {
    const isInside =
      byteOffset >= this.#windowOffset && byteOffset + chunkBytes <= this.#windowOffset + this.#window.length;
    if (!isInside) {
      const isNext = byteOffset === this.#lastEnd;
      const wanted = isNext
        ? Math.min(Math.max(chunkBytes, WINDOW_BYTES), this.#file.byteLength - byteOffset)
        : chunkBytes;
      this.#window = await this.#file.read(byteOffset, wanted);
      this.#windowOffset = byteOffset;
    }
    this.#lastEnd = byteOffset + chunkBytes;
    return this.#window.subarray(byteOffset - this.#windowOffset, byteOffset - this.#windowOffset + chunkBytes);
  }

  /** What its header says of a private chunk, payload digest checked. Errors: those of a damaged chunk. */
  async header(place: ChunkPlace): Promise<ChunkHeader> {
    return checkStoredChunk(await this.chunk(place));
  }

  /** The bytes of a map page, checked against its digest. Errors: those of a damaged chunk. */
  async page(digest: Digest, place: ChunkPlace): Promise<Buffer> {
    return decodeChunk(await this.chunk(place), { digest, plainBytesMax: MAP_PAGE_BYTES_MAX });
  }

  /**
   * Every chunk is whole: a public one is a page under its digest, a private one has its payload digest. `visit` gets
   * each header. Errors: those of a damaged chunk.
   */
  async verify(visit: (digest: Digest, header: ChunkHeader) => void = () => undefined): Promise<void> {
    for (const [digest, place] of this.index.inFileOrder()) {
      const header = await this.header(place);
      if (header.cipher === 'none') await this.page(digest, place);
      visit(digest, header);
    }
  }
}
