/**
 * The transceiver's cache of small objects (level): manifests and map pages by digest, the newest heads, letters and profile, boot traces and use by the root of their disk. It is only a
 * cache: what is read by digest is checked against it, and what does not match is dropped and counts as not there. It
 * grows with the versions that this machine has used, about 0.05 % of their disks.
 */
import { mkdir, rm } from 'node:fs/promises';
import { Level } from 'level';
import { CollectiveError, sha256, type Digest } from '@collective/shared';

type Kind = 'manifest' | 'page';

export class ObjectCache {
  readonly #directory: string;
  #level: Level<string, Buffer>;

  private constructor(directory: string, level: Level<string, Buffer>) {
    this.#directory = directory;
    this.#level = level;
  }

  /** A damaged store is made anew: everything in it can be fetched again. Errors: `in-use`. */
  static async open(directory: string): Promise<ObjectCache> {
    return new ObjectCache(directory, await openLevel(directory));
  }

  /** Closes it, runs `work`, which may remove its files, and opens it again; for the end of a person's stay. No other call meanwhile. */
  async away<T>(work: () => Promise<T>): Promise<T> {
    await this.#level.close();
    try {
      return await work();
    } finally {
      this.#level = await openLevel(this.#directory);
    }
  }

  /** The object of that digest, or undefined. */
  get(kind: Kind, digest: Digest): Buffer | undefined {
    const bytes = this.#level.getSync(`${kind}/${digest}`);
    return bytes !== undefined && sha256(bytes) === digest ? bytes : undefined;
  }

  async put(kind: Kind, objects: Iterable<readonly [Digest, Buffer]>): Promise<void> {
    const batch = Array.from(objects, ([digest, value]) => ({ type: 'put' as const, key: `${kind}/${digest}`, value }));
    if (batch.length > 0) await this.#level.batch(batch);
  }

  /** The newest heads file as it came; the reader verifies it again. */
  heads(): Buffer | undefined {
    return this.#level.getSync('heads');
  }

  async putHeads(bytes: Buffer): Promise<void> {
    await this.#level.put('heads', bytes, { sync: true });
  }

  /** The letters of the last time (candidate-letters.ts); the reader verifies them again. */
  letters(): Buffer | undefined {
    return this.#level.getSync('letters');
  }

  async putLetters(bytes: Buffer): Promise<void> {
    await this.#level.put('letters', bytes);
  }

  /** The letter for all of a version, by its manifest; the reader verifies it again. */
  promotion(manifest: Digest): Buffer | undefined {
    return this.#level.getSync(`promotion/${manifest}`);
  }

  async putPromotion(manifest: Digest, bytes: Buffer): Promise<void> {
    await this.#level.put(`promotion/${manifest}`, bytes);
  }

  /** What boots of that disk touch (boot-traces.ts). */
  trace(root: Digest): Buffer | undefined {
    return this.#level.getSync(`trace/${root}`);
  }

  async putTrace(root: Digest, bytes: Buffer): Promise<void> {
    await this.#level.put(`trace/${root}`, bytes);
  }

  /** What sessions touch of that disk. */
  use(root: Digest): Buffer | undefined {
    return this.#level.getSync(`use/${root}`);
  }

  async putUse(root: Digest, bytes: Buffer): Promise<void> {
    await this.#level.put(`use/${root}`, bytes);
  }

  /** The person's newest sealed profile as it came; the reader verifies it again. */
  profile(): Buffer | undefined {
    return this.#level.getSync('profile');
  }

  async putProfile(bytes: Buffer): Promise<void> {
    await this.#level.put('profile', bytes, { sync: true });
  }

  /** Which manifest a version had when it was verified here. */
  verifiedManifest(appliance: string, version: number): Digest | undefined {
    return this.#level.getSync(`version/${appliance}/${String(version)}`)?.toString('utf8') as Digest | undefined;
  }

  async putVerifiedManifest(appliance: string, version: number, digest: Digest): Promise<void> {
    await this.#level.put(`version/${appliance}/${String(version)}`, Buffer.from(digest));
  }

  /** Versions of which a manifest was verified here, ascending. */
  async verifiedVersions(appliance: string): Promise<number[]> {
    const prefix = `version/${appliance}/`;
    // 0 follows the slash.
    const keys = await this.#level.keys({ gt: prefix, lt: `version/${appliance}0` }).all();
    return keys.map((key) => Number(key.slice(prefix.length))).sort((a, b) => a - b);
  }

  /** Forgets that manifests of this and later versions were verified; durable when it resolves. */
  async forgetVerified(appliance: string, firstVersion: number): Promise<void> {
    const versions = (await this.verifiedVersions(appliance)).filter((version) => version >= firstVersion);
    const batch = versions.map((version) => ({ type: 'del' as const, key: `version/${appliance}/${String(version)}` }));
    if (batch.length > 0) await this.#level.batch(batch, { sync: true });
  }

  async close(): Promise<void> {
    await this.#level.close();
  }
}

async function openLevel(directory: string): Promise<Level<string, Buffer>> {
  const level = new Level<string, Buffer>(directory, { keyEncoding: 'utf8', valueEncoding: 'buffer' });
  try {
    await level.open();
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    if (cause instanceof Error && 'code' in cause && cause.code === 'LEVEL_LOCKED') {
      throw new CollectiveError('in-use', `Another agent is using ${directory}.`, { cause: error });
    }
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { mode: 0o700 });
    await level.open();
  }
  return level;
}
