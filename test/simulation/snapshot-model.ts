/**
 * What must hold of persons' data in the simulated repository: which snapshots were acknowledged or shown, what each names,
 * and that all of it is on the disk with exactly its bytes. It knows contents by itself; nothing of the product decides
 * what is right. Private chunks are made without a key, so that a seed gives the same bytes each time.
 */
import {
  decodeSnapshotObject,
  type Digest,
  DiskMap,
  encodeChunk,
  joinChunk,
  sha256,
  type SnapshotManifest,
} from '@collective/shared';
import { type Subscriptions } from '@collective/repository-server';
import { BLOCK_BYTES, blockOf, buildOf, chunkOf, fileOf } from './repository-model.js';
import { FOLDER, type RepositoryWorld } from './repository-world.js';

/** Two leaves: blocks by position, `i` inherits. */
export type UserPlan = readonly (number | 'i')[];
export const USER_BLOCKS = 130;
/** The initial user disk. */
export const INITIAL = Array.from({ length: USER_BLOCKS }, (_, index) => [3, 4, 0, 5][index % 4] ?? 0);
export const OF = { account: 'alice', subscription: '7'.repeat(32) };

export type Stored = { readonly digest: Digest; readonly chunk: Buffer };
const privateChunks = new Map<number, Stored>();
/** What a server without the key takes for a private chunk of a block that only this seed has. */
export const privateChunkOf = (seed: number): Stored => {
  const known = privateChunks.get(seed);
  if (known !== undefined) return known;
  const header = { codec: 'raw', cipher: 'aes-256-gcm', epoch: 1, plainBytes: BLOCK_BYTES } as const;
  const made = {
    digest: sha256(Buffer.from(`private block ${seed}`)),
    chunk: joinChunk(header, Buffer.alloc(BLOCK_BYTES + 28, seed)),
  };
  privateChunks.set(seed, made);
  return made;
};

/** The root, and every chunk and page of the person's own that a snapshot with this disk names. */
export const ownChunksOf = (
  plan: UserPlan,
): { readonly root: Digest; readonly chunks: ReadonlyMap<Digest, Buffer> } => {
  const map = DiskMap.empty({ diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  const chunks = new Map<Digest, Buffer>();
  plan.forEach((entry, index) => {
    if (entry === 'i') return map.set(index, { kind: 'inherit' });
    if (entry === 0) return;
    const { digest, chunk } = privateChunkOf(entry);
    chunks.set(digest, chunk);
    map.set(index, { kind: 'private', digest });
  });
  const { root, pages } = map.build();
  for (const [digest, page] of pages) chunks.set(digest, encodeChunk(page));
  return { root, chunks };
};

export type SnapshotAttempt = {
  readonly manifest: SnapshotManifest;
  readonly bytes: Buffer;
  readonly digest: Digest;
  readonly plan: UserPlan;
  readonly data: Buffer;
};
type Known = SnapshotAttempt & { isSure: boolean };

export class SnapshotModel {
  #known: Known[] = [];
  readonly tally = { acknowledged: 0, found: 0, snapshotsChecked: 0, chunksChecked: 0, basesChecked: 0 };

  /** Before the commit is asked for. */
  attempt(attempt: SnapshotAttempt): Known {
    const same = this.#known.find(({ digest }) => digest === attempt.digest);
    if (same !== undefined) return same;
    const known = { ...attempt, isSure: false };
    this.#known.push(known);
    return known;
  }

  acknowledge(known: Known): void {
    if (!known.isSure) this.tally.acknowledged += 1;
    this.#makeSure(known);
  }

  /** The server has said that this did not happen. */
  refused(known: Known): void {
    if (known.isSure) throw new Error(`snapshot ${known.manifest.number} was acknowledged and is refused now`);
    this.#known = this.#known.filter((other) => other !== known);
  }

  /** What somebody was shown is there from now on. Error: it was never asked for, or another one was acknowledged. */
  shown(number: number, digest: Digest): SnapshotAttempt {
    const found = this.#known.find((known) => known.digest === digest);
    if (found?.manifest.number !== number)
      throw new Error(`snapshot ${number} (${digest}) was never asked for, or refused`);
    if (!found.isSure) this.tally.found += 1;
    this.#makeSure(found);
    return found;
  }

  /** Everything at once, read from the simulated disk without the product. The server has healed what it had to. */
  async check(world: RepositoryWorld, rows: Subscriptions): Promise<void> {
    const records = await rows.snapshots(OF, ['kept', 'deleted', 'forgotten']);
    for (const { number, manifest } of records) this.shown(number, manifest);
    for (const { number } of await rows.deviceBases(OF)) {
      const state = records.find((row) => row.number === number)?.state;
      if (state !== 'kept')
        throw new Error(`a device is based on snapshot ${number}, which is ${state ?? 'not there'}`);
      this.tally.basesChecked += 1;
    }
    if ((await rows.pendingSnapshots()).length > 0) throw new Error('a commit is pending after a start');
    const sure = this.#sure();
    for (const [at, known] of sure.entries()) {
      const { number, parent } = known.manifest;
      const record = records.find((row) => row.number === number);
      if (record === undefined)
        throw new Error(`snapshot ${number} was acknowledged or shown and is not in the catalogue`);
      if (parent?.manifest !== sure[at - 1]?.digest)
        throw new Error(`snapshot ${number} does not follow the one before`);
      if (at === sure.length - 1 && record.state !== 'kept') throw new Error(`the head, ${number}, is ${record.state}`);
      const manifest = fileOf(world, `${folderOf(number)}/manifest`);
      if (manifest?.equals(known.bytes) !== true)
        throw new Error(`snapshot ${number}: its manifest is missing or another`);
      this.tally.snapshotsChecked += 1;
      if (record.state !== 'forgotten') this.#checkChunks(world, known);
    }
  }

  /** Objects and uploads that are there, at rest: none that no kept snapshot lists. */
  async checkNothingElse(world: RepositoryWorld, rows: Subscriptions): Promise<void> {
    const kept = new Set((await rows.snapshots(OF, ['kept', 'deleted'])).map(({ number }) => number));
    const listed = new Set(
      this.#sure()
        .filter(({ manifest }) => kept.has(manifest.number))
        .flatMap(({ manifest }) => manifest.objects),
    );
    for (const path of world.disk.tree().keys()) {
      if (/\/uploads\/./.test(path)) throw new Error(`${path} is of no upload and was not collected`);
      const number = /\/users\/.*\/([0-9]+)\/data$/.exec(path)?.[1];
      const isCommitted = this.#sure().some(({ manifest }) => manifest.number === Number(number));
      if (number !== undefined && isCommitted && !listed.has(Number(number)))
        throw new Error(`the object of snapshot ${number} is listed by nothing and was not collected`);
    }
  }

  #checkChunks(world: RepositoryWorld, { manifest, plan }: Known): void {
    const stored = new Map<Digest, Buffer>();
    for (const number of manifest.objects) {
      const data = fileOf(world, `${folderOf(number)}/data`);
      if (data === undefined)
        throw new Error(`snapshot ${manifest.number} lists the object ${number}, which is missing`);
      for (const { digest, chunk } of decodeSnapshotObject(data)) stored.set(digest, chunk);
    }
    for (const [digest, chunk] of ownChunksOf(plan).chunks) {
      if (stored.get(digest)?.equals(chunk) !== true)
        throw new Error(`snapshot ${manifest.number} names ${digest}, which is missing or has other bytes`);
      this.tally.chunksChecked += 1;
    }
    for (const [digest, chunk] of buildOf(INITIAL).chunks)
      if (chunkOf(world, digest)?.equals(chunk) !== true)
        throw new Error(`snapshot ${manifest.number} inherits ${digest}, which is missing or has other bytes`);
  }

  #makeSure(known: Known): void {
    const other = this.#sure().find(({ manifest }) => manifest.number === known.manifest.number);
    if (other !== undefined && other !== known)
      throw new Error(`snapshot ${known.manifest.number} is there twice, with different bytes`);
    known.isSure = true;
  }

  #sure(): Known[] {
    return this.#known.filter(({ isSure }) => isSure).sort((a, b) => a.manifest.number - b.manifest.number);
  }
}

export const initialBlocks = (): Stored[] => [1, ...new Set(INITIAL)].filter((seed) => seed !== 0).map(blockOf);
const folderOf = (number: number): string => `${FOLDER}/users/${OF.account}/${OF.subscription}/${number}`;
