/**
 * The chain of trust files as the server sees it: verified from the first one on, followed when the command line has
 * added a file beside the running server (one look for the next number each time). The first file's digest is the
 * repository's identity.
 */
import { CollectiveError, type Digest, followTrust, openFirstTrust, sha256, type TrustFile } from '@collective/shared';
import { trustName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';

export class TrustStore {
  readonly identity: Digest;
  readonly #blobStore: BlobStore;
  #held: TrustFile;

  private constructor(blobStore: BlobStore, identity: Digest, first: TrustFile) {
    this.#blobStore = blobStore;
    this.identity = identity;
    this.#held = first;
  }

  /** Errors: `not-found` when the folder holds no repository; those of a bad trust file. */
  static async open(blobStore: BlobStore): Promise<TrustStore> {
    const first = await blobStore.read(trustName(1));
    if (first === undefined) throw new CollectiveError('not-found', 'there is no trust/1: this is not a repository');
    const identity = sha256(first);
    const store = new TrustStore(blobStore, identity, openFirstTrust(first, identity));
    await store.current();
    return store;
  }

  /** The newest trust file. Errors: those of a file that does not follow from the one before. */
  async current(): Promise<TrustFile> {
    for (;;) {
      // Held across the await: two callers may follow at the same time, and neither may go back.
      const held = this.#held;
      const next = await this.#blobStore.read(trustName(held.number + 1));
      if (next === undefined) return this.#held;
      const followed = followTrust(held, next);
      if (followed.number > this.#held.number) this.#held = followed;
    }
  }
}
