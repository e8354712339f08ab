/**
 * What must hold of the simulated repository: what was acknowledged, what may have happened, what readers have seen.
 * It knows contents by itself and compares bytes; nothing of the product decides what is right.
 */
import {
  compareHeads,
  type Digest,
  DiskMap,
  encodeChunk,
  openHeads,
  type SeenHeads,
  sha256,
  type SigningKey,
  type TrustFile,
  type VersionManifest,
} from '@collective/shared';
import { signManifest, systemManifest, type VersionRecord } from '@collective/repository-server';
import { FOLDER, type RepositoryWorld } from './repository-world.js';

export const BLOCK_BYTES = 4_096;
/** Blocks by position, by seed; 0 is a zero block. */
export type Plan = readonly number[];
export type Content = { readonly digest: Digest; readonly chunk: Buffer };

const blocks = new Map<number, Content>();
/** A block that says which it is. Not that of the doubles: with other sizes each seed would be another history. */
export const blockOf = (seed: number): Content => {
  const known = blocks.get(seed);
  if (known !== undefined) return known;
  const block = Buffer.alloc(BLOCK_BYTES, seed);
  block.writeUInt32LE(seed, 0);
  const content = { digest: sha256(block), chunk: encodeChunk(block, { level: 1 }) };
  blocks.set(seed, content);
  return content;
};

export const mapOf = (plan: Plan): DiskMap => {
  const map = DiskMap.empty({ diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  plan.forEach((seed, index) => {
    if (seed !== 0) map.set(index, { kind: 'public', digest: blockOf(seed).digest });
  });
  return map;
};

type Built = { readonly root: Digest | null; readonly chunks: ReadonlyMap<Digest, Buffer> };
const built = new Map<string, Built>();
/** The root and every chunk that a version with this disk names, pages and blocks. */
export const buildOf = (plan: Plan): Built => {
  const key = plan.join();
  const known = built.get(key);
  if (known !== undefined) return known;
  const { root, pages } = mapOf(plan).build();
  const chunks = new Map([...pages].map(([digest, page]) => [digest, encodeChunk(page)] as const));
  for (const seed of plan) if (seed !== 0) chunks.set(blockOf(seed).digest, blockOf(seed).chunk);
  const value = { root, chunks };
  if (built.size > 5_000) built.clear();
  built.set(key, value);
  return value;
};

export type Attempt = {
  readonly appliance: string;
  readonly version: number;
  readonly plan: Plan;
  readonly bytes: Buffer;
  readonly digest: Digest;
};

export const attemptOf = (
  options: { readonly appliance: string; readonly version: number; readonly plan: Plan; readonly title: string },
  parent: VersionManifest['parent'],
  key: SigningKey,
): Attempt => {
  const { appliance, version, plan, title } = options;
  const disk = { diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES, root: buildOf(plan).root };
  const bytes = signManifest(systemManifest({ appliance, version, parent, title, disk }), key);
  return { appliance, version, plan, bytes, digest: sha256(bytes) };
};

type State = VersionRecord['state'];
const RANKS: readonly State[] = ['live', 'withdrawn', 'deleted', 'forgotten'];
export const rankOf = (state: State): number => RANKS.indexOf(state);

type Known = Attempt & {
  /** Acknowledged, or shown once: it must stay. */
  isSure: boolean;
  /** What has been acknowledged of its end, and what may have happened. */
  rank: number;
  rankMax: number;
};

export class RepositoryModel {
  readonly #known = new Map<string, Known[]>();
  readonly tally = { acknowledged: 0, found: 0, versionsChecked: 0, chunksChecked: 0, headsChecked: 0 };

  /** Before the commit is asked for. */
  attempt(attempt: Attempt): Known {
    const key = `${attempt.appliance}@${attempt.version}`;
    const all = this.#known.get(key) ?? [];
    this.#known.set(key, all);
    const same = all.find(({ digest }) => digest === attempt.digest);
    if (same !== undefined) return same;
    const known = { ...attempt, isSure: false, rank: 0, rankMax: 0 };
    all.push(known);
    return known;
  }

  acknowledge(known: Known): void {
    const other = this.sure(known.appliance, known.version);
    if (other !== undefined && other !== known)
      throw new Error(`${known.appliance}@${known.version} was acknowledged twice, with different bytes`);
    if (!known.isSure) this.tally.acknowledged += 1;
    known.isSure = true;
  }

  /** The server has said that this did not happen. */
  refused(known: Known): void {
    if (known.isSure) throw new Error(`${known.appliance}@${known.version} was acknowledged and is refused now`);
    const key = `${known.appliance}@${known.version}`;
    this.#known.set(
      key,
      (this.#known.get(key) ?? []).filter((other) => other !== known),
    );
  }

  sure(appliance: string, version: number): Known | undefined {
    return this.#known.get(`${appliance}@${version}`)?.find(({ isSure }) => isSure);
  }

  versionsOf(appliance: string): Known[] {
    return this.#allSure().filter((known) => known.appliance === appliance);
  }

  /** What somebody was shown is there from now on. Error: it was never published, or another one was acknowledged. */
  shown(appliance: string, version: number, digest: Digest): Known {
    const sure = this.sure(appliance, version);
    if (sure !== undefined && sure.digest !== digest)
      throw new Error(`${appliance}@${version} was ${sure.digest} and is ${digest}`);
    if (sure !== undefined) return sure;
    const found = this.#known.get(`${appliance}@${version}`)?.find((known) => known.digest === digest);
    if (found === undefined) throw new Error(`${appliance}@${version} (${digest}) was never asked for, or refused`);
    found.isSure = true;
    this.tally.found += 1;
    return found;
  }

  /** Everything at once, read from the simulated disk without the product. The server has healed what it had to. */
  async check(world: RepositoryWorld, rows: VersionRows): Promise<void> {
    const records = new Map<string, VersionRecord>();
    for (const appliance of await rows.appliances())
      for (const record of await rows.versions(appliance)) {
        records.set(`${appliance}@${record.version}`, record);
        this.shown(appliance, record.version, record.manifest);
      }
    for (const known of this.#allSure()) {
      const name = `${known.appliance}@${known.version}`;
      const record = records.get(name);
      if (record === undefined) throw new Error(`${name} was acknowledged or shown and is not in the catalogue`);
      const rank = rankOf(record.state);
      if (rank < known.rank) throw new Error(`${name} was ${RANKS[known.rank] ?? ''} and is ${record.state} again`);
      if (rank > known.rankMax) throw new Error(`${name} is ${record.state}, and nobody asked for that`);
      known.rank = rank;
      const manifest = fileOf(world, `${FOLDER}/appliances/${known.appliance}/${known.version}/manifest`);
      if (manifest?.equals(known.bytes) !== true) throw new Error(`${name}: its manifest is missing or another one`);
      this.tally.versionsChecked += 1;
      if (record.state === 'forgotten') continue;
      for (const [digest, chunk] of buildOf(known.plan).chunks)
        this.checkChunk(name, digest, chunk, chunkOf(world, digest));
    }
  }

  checkChunk(name: string, digest: Digest, expected: Buffer, found: Buffer | undefined): void {
    if (found === undefined) throw new Error(`${name} names the chunk ${digest}, which is missing`);
    if (!found.equals(expected)) throw new Error(`${name} names the chunk ${digest}, which has other bytes`);
    this.tally.chunksChecked += 1;
  }

  /** Chunk files that are there and those that versions name, at rest. */
  async checkNothingElse(world: RepositoryWorld, rows: VersionRows): Promise<void> {
    const named = new Set<string>();
    for (const known of this.#allSure()) {
      const record = (await rows.versions(known.appliance)).find(({ version }) => version === known.version);
      if (record?.state === 'forgotten') continue;
      for (const digest of buildOf(known.plan).chunks.keys()) named.add(digest);
    }
    for (const path of world.disk.tree().keys()) {
      const digest = /\/chunks\/[0-9a-f]{2}\/([0-9a-f]{64})$/.exec(path)?.[1];
      if (digest !== undefined && !named.has(digest))
        throw new Error(`the chunk ${digest} is named by nothing and was not collected`);
    }
  }

  #allSure(): Known[] {
    return [...this.#known.values()].flat().filter(({ isSure }) => isSure);
  }
}

type VersionRows = { appliances(): Promise<string[]>; versions(appliance: string): Promise<VersionRecord[]> };

export const fileOf = (world: RepositoryWorld, path: string): Buffer | undefined => {
  if (world.disk.nodeAt(path) === undefined) return undefined;
  const process = world.disk.newProcess();
  const handle = process.open(path);
  const bytes = Buffer.alloc(handle.stat().byteLength);
  handle.pread(bytes, 0);
  process.kill();
  return bytes;
};
export const chunkOf = (world: RepositoryWorld, digest: Digest): Buffer | undefined =>
  fileOf(world, `${FOLDER}/chunks/${digest.slice(0, 2)}/${digest}`);

/** A client: what it has seen of the heads only grows. */
export class HeadsReader {
  #seen: SeenHeads | undefined;

  read(bytes: Uint8Array | undefined, trust: TrustFile, model: RepositoryModel): SeenHeads['heads'] {
    if (bytes === undefined) throw new Error('the heads are missing');
    const heads = openHeads(bytes, trust);
    this.#seen = compareHeads(this.#seen, heads, trust);
    for (const { appliance, version, manifest } of heads.heads) model.shown(appliance, version, manifest);
    model.tally.headsChecked += 1;
    return heads.heads;
  }
}
