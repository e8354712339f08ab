/**
 * What this machine believes of its repository (DESIGN §6, docs/formats/trust.md): it walks the trust files up from the
 * one it holds, opens the heads, refuses whatever is older than it has seen, and verifies manifests.
 *
 * Order on disk: a trust file is kept once it is verified; what was seen is durable before the heads are used. So a crash
 * at any point leaves a machine that accepts no less and nothing older than before.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CollectiveError,
  PAYLOAD_TYPES,
  compareHeads,
  countValidSignatures,
  decodeVersionManifest,
  followTrust,
  hasCode,
  openEnvelope,
  openFirstTrust,
  openHeads,
  publisherKeys,
  requireSignatures,
  sha256,
  type Digest,
  type Heads,
  type SeenHeads,
  type TrustFile,
  type VersionManifest,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import type { ObjectCache } from './object-cache.js';
import { readSeen, writeSeen } from './seen-file.js';

/** What the trust client asks a repository; RepositoryClient does it over HTTP, tests have doubles. */
export interface TrustSource {
  /** Undefined when there is no such trust file. */
  trustFile(number: number): Promise<Buffer | undefined>;
  heads(): Promise<Buffer>;
  manifest(appliance: string, version: number): Promise<Buffer>;
}

export type VerifiedVersion = {
  readonly manifest: VersionManifest;
  /** SHA-256 of the manifest file. */
  readonly digest: Digest;
  /** Warnings for the person. */
  readonly notes: readonly string[];
};

/** A parent chain is walked at most so far; each step may be a request. */
const CHAIN_MAX = 10_000;
const TRUST_FILES_MAX = 100_000;
/** The newest version cannot be had, which says nothing against one that was verified here before. */
const NO_NEWEST: ReadonlySet<string> = new Set(['untrusted', 'bad-signature', 'repository-unreachable']);

type Paths = { readonly trustDirectory: string; readonly seenFile: string };

export class TrustClient {
  readonly identity: Digest;
  readonly #paths: Paths;
  readonly #objects: ObjectCache;
  #trust: TrustFile;
  #seen: SeenHeads | undefined;
  #heads: (Heads & { readonly digest: Digest }) | undefined;

  private constructor(options: {
    identity: Digest;
    paths: Paths;
    objects: ObjectCache;
    trust: TrustFile;
    seen: SeenHeads | undefined;
  }) {
    this.identity = options.identity;
    this.#paths = options.paths;
    this.#objects = options.objects;
    this.#trust = options.trust;
    this.#seen = options.seen;
    this.#heads = this.#heldHeads();
  }

  /** From what the home holds, verified again. Errors: `not-found` when it holds nothing, `wrong-server`, `untrusted`. */
  static async open(paths: Paths, objects: ObjectCache, identity: Digest): Promise<TrustClient> {
    const first = await readIfThere(join(paths.trustDirectory, '1'));
    if (first === undefined)
      throw new CollectiveError(
        'not-found',
        'This home has no trust file: run collective login with the join link again.',
      );
    let trust = openFirstTrust(first, identity);
    for (;;) {
      const next = await readIfThere(join(paths.trustDirectory, String(trust.number + 1)));
      if (next === undefined) break;
      trust = followTrust(trust, next);
    }
    return new TrustClient({ identity, paths, objects, trust, seen: await readSeen(paths.seenFile) });
  }

  /**
   * Verifies that the server is the one of the join link, without keeping anything: its trust files from 1 on.
   * Errors: `wrong-server`, `untrusted`, `repository-unreachable`.
   */
  static async introduce(
    source: Pick<TrustSource, 'trustFile'>,
    identity: Digest,
  ): Promise<{ readonly trust: TrustFile; readonly files: readonly Buffer[] }> {
    const first = await source.trustFile(1).catch((error: unknown) => {
      // Another server answers with anything: what it is not matters more than how it says so.
      if (
        error instanceof CollectiveError &&
        ['malformed', 'bad-request', 'too-large', 'not-allowed', 'not-logged-in'].includes(error.code)
      )
        return undefined;
      throw error;
    });
    if (first === undefined)
      throw new CollectiveError('wrong-server', 'The server has no trust file 1: it is no repository of ours.');
    let trust = openFirstTrust(first, identity);
    const files = [first];
    while (files.length < TRUST_FILES_MAX) {
      const next = await source.trustFile(trust.number + 1);
      if (next === undefined) break;
      trust = followTrust(trust, next);
      files.push(next);
    }
    return { trust, files };
  }

  /** Keeps the trust files of an introduction in the home. Those of another repository, left by a login that was broken off, go. */
  static async keep(paths: Pick<Paths, 'trustDirectory'>, files: readonly Buffer[]): Promise<void> {
    const held = await readIfThere(join(paths.trustDirectory, '1'));
    if (held !== undefined && files[0]?.equals(held) !== true)
      await rm(paths.trustDirectory, { recursive: true, force: true });
    await mkdir(paths.trustDirectory, { recursive: true, mode: 0o700 });
    for (const [at, bytes] of files.entries()) await writeDurably(join(paths.trustDirectory, String(at + 1)), bytes);
  }

  get trust(): TrustFile {
    return this.#trust;
  }

  /** The newest heads that were verified; undefined on a machine that has none. */
  get heads(): Heads | undefined {
    return this.#heads;
  }

  /** Highest version of an appliance that this machine has seen. */
  seenVersion(appliance: string): number | undefined {
    return this.#seen?.heads.find((head) => head.appliance === appliance)?.version;
  }

  /** A note for the person when the heads have expired: that never stops a start. */
  staleNote(now: Date = new Date()): string | undefined {
    const heads = this.#heads;
    if (heads === undefined || heads.expiresAt * 1000 >= now.getTime()) return undefined;
    return `No news from the repository since ${new Date(heads.createdAt * 1000).toLocaleString()}.`;
  }

  /** Takes the newest trust files and heads. Errors: `rollback`, `untrusted`, `repository-unreachable`; then nothing older was taken. */
  async refresh(source: TrustSource): Promise<void> {
    for (let steps = 0; steps < TRUST_FILES_MAX; steps += 1) {
      const next = await source.trustFile(this.#trust.number + 1);
      if (next === undefined) break;
      const followed = followTrust(this.#trust, next);
      await writeDurably(join(this.#paths.trustDirectory, String(followed.number)), next);
      this.#trust = followed;
    }
    const bytes = await source.heads();
    const heads = openHeads(bytes, this.#trust);
    const seen = compareHeads(this.#seen, heads, this.#trust);
    if (this.#seen === undefined || JSON.stringify(seen) !== JSON.stringify(this.#seen)) {
      await this.#forgetRecounted();
      await writeSeen(this.#paths.seenFile, seen);
      this.#seen = seen;
    }
    if (this.#heads?.digest !== heads.digest) await this.#objects.putHeads(bytes);
    this.#heads = heads;
  }

  /**
   * What a recount takes back is no longer "verified here" either: else a stolen key's version would be started by name
   * in the place of the one that the publisher has made since. Before seen.json, because a recount counts once.
   */
  async #forgetRecounted(): Promise<void> {
    const before = this.#seen?.trust ?? 0;
    for (const { appliance, version, since } of this.#trust.recount)
      if (since > before) await this.#objects.forgetVerified(appliance, version);
  }

  /**
   * The newest version of an appliance, named by the heads and signed by a key that the newest trust file allows.
   * `source` undefined: from what is at hand. Errors: `not-found`, `untrusted`, `rollback`, `repository-unreachable`.
   */
  async newest(appliance: string, source: TrustSource | undefined): Promise<VerifiedVersion> {
    if (this.#heads === undefined)
      throw new CollectiveError(
        'repository-unreachable',
        `What is the newest version of ${appliance} is not known on this machine, and the repository cannot be asked.`,
      );
    const head = this.#heads.heads.find((entry) => entry.appliance === appliance);
    if (head === undefined)
      throw new CollectiveError('not-found', `There is no appliance ${appliance}, or none that you may use.`, {
        data: { appliance },
      });
    const bytes = await this.#manifestBytes({ appliance, version: head.version, digest: head.manifest }, source);
    const manifest = this.#openManifest(bytes, { appliance, version: head.version, mustBeSigned: true }).manifest;
    await this.#keep(appliance, head.version, head.manifest, bytes);
    const note = this.staleNote();
    return { manifest, digest: head.manifest, notes: note === undefined ? [] : [note] };
  }

  /**
   * A version by number: the newest one, or an older one that is reached through the parent chain from the head, or that
   * was verified here before. An older one comes with a warning. Errors: as `newest`.
   */
  async version(appliance: string, version: number, source: TrustSource | undefined): Promise<VerifiedVersion> {
    const seen = this.#objects.verifiedManifest(appliance, version);
    let newest: VerifiedVersion;
    try {
      newest = await this.newest(appliance, source);
    } catch (error) {
      // A head that nobody may have signed, or that is not at hand, vouches for nothing before it; what was verified here
      // earlier still stands.
      if (seen === undefined || !(error instanceof CollectiveError) || !NO_NEWEST.has(error.code)) throw error;
      const notes = [
        error.code === 'repository-unreachable'
          ? `${appliance}@${String(version)} is what this machine holds; there may be a newer version.`
          : `The newest version of ${appliance} cannot be trusted: ${error.message}`,
      ];
      return this.#byName({ appliance, version, digest: seen, notes }, source);
    }
    const highest = newest.manifest.version;
    if (highest === version) return newest;
    if (version > highest)
      throw new CollectiveError(
        'not-found',
        `${appliance} has no version ${String(version)}; the newest is ${String(highest)}.`,
      );
    const digest = seen ?? (await this.#digestInChain(newest, version, source));
    const notes = [
      ...newest.notes,
      `${appliance}@${String(version)} is not the newest version (${String(highest)}): it may have known faults.`,
    ];
    return this.#byName({ appliance, version, digest, notes }, source);
  }

  /** A version whose digest is known to be right, whoever may publish today. */
  async #byName(
    wanted: {
      readonly appliance: string;
      readonly version: number;
      readonly digest: Digest;
      readonly notes: readonly string[];
    },
    source: TrustSource | undefined,
  ): Promise<VerifiedVersion> {
    const { appliance, version, digest } = wanted;
    const bytes = await this.#manifestBytes({ appliance, version, digest }, source);
    const { manifest, isSigned } = this.#openManifest(bytes, { appliance, version, mustBeSigned: false });
    await this.#keep(appliance, version, digest, bytes);
    const revoked = `The key that signed ${appliance}@${String(version)} may no longer publish it.`;
    return { manifest, digest, notes: isSigned ? wanted.notes : [...wanted.notes, revoked] };
  }

  async #digestInChain(newest: VerifiedVersion, version: number, source: TrustSource | undefined): Promise<Digest> {
    let { manifest } = newest;
    const { appliance } = manifest;
    for (let steps = 0; steps < CHAIN_MAX; steps += 1) {
      const { parent } = manifest;
      if (parent === null || parent.version < version) break;
      if (parent.version === version) return parent.manifest;
      const bytes = await this.#manifestBytes({ appliance, version: parent.version, digest: parent.manifest }, source);
      manifest = this.#openManifest(bytes, { appliance, version: parent.version, mustBeSigned: false }).manifest;
      await this.#keep(appliance, parent.version, parent.manifest, bytes);
    }
    throw new CollectiveError('not-found', `${appliance} has no version ${String(version)}.`, {
      data: { appliance, version },
    });
  }

  async #manifestBytes(
    wanted: { readonly appliance: string; readonly version: number; readonly digest: Digest },
    source: TrustSource | undefined,
  ): Promise<Buffer> {
    const { appliance, version, digest } = wanted;
    const held = this.#objects.get('manifest', digest);
    if (held !== undefined) return held;
    if (source === undefined) {
      throw new CollectiveError(
        'repository-unreachable',
        `The manifest of ${appliance}@${String(version)} is not on this machine, and the repository cannot be asked.`,
      );
    }
    const bytes = await source.manifest(appliance, version);
    const found = sha256(bytes);
    if (found !== digest) {
      throw new CollectiveError(
        'untrusted',
        `The repository shows another manifest of ${appliance}@${String(version)} (${found}) than its heads name (${digest}).`,
        {
          data: { appliance, version },
        },
      );
    }
    return bytes;
  }

  #openManifest(
    bytes: Buffer,
    expected: { readonly appliance: string; readonly version: number; readonly mustBeSigned: boolean },
  ): { readonly manifest: VersionManifest; readonly isSigned: boolean } {
    const { appliance, version } = expected;
    const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
    const keys = publisherKeys(this.#trust, appliance);
    const isSigned = countValidSignatures(envelope, keys).length > 0;
    if (expected.mustBeSigned && !isSigned) {
      const what = `${appliance}@${String(version)} is not signed by a key that trust file ${String(this.#trust.number)} allows to publish it`;
      requireSignatures(envelope, keys, { threshold: 1, what });
    }
    const manifest = decodeVersionManifest(envelope.payload);
    if (manifest.appliance !== appliance || manifest.version !== version) {
      throw new CollectiveError(
        'untrusted',
        `The manifest of ${appliance}@${String(version)} says that it is ${manifest.appliance}@${String(manifest.version)}.`,
      );
    }
    return { manifest, isSigned };
  }

  async #keep(appliance: string, version: number, digest: Digest, bytes: Buffer): Promise<void> {
    if (this.#objects.verifiedManifest(appliance, version) === digest) return;
    await this.#objects.put('manifest', [[digest, bytes]]);
    await this.#objects.putVerifiedManifest(appliance, version, digest);
  }

  /** The heads of the last time, when they still verify and are not older than what was seen. */
  #heldHeads(): (Heads & { readonly digest: Digest }) | undefined {
    const bytes = this.#objects.heads();
    if (bytes === undefined) return undefined;
    try {
      const heads = openHeads(bytes, this.#trust);
      compareHeads(this.#seen, heads, this.#trust);
      return heads;
    } catch (error) {
      // Written by a crash between seen.json and the cache, or signed by a key that was replaced: the next refresh brings new ones.
      if (hasCode(error, 'rollback') || hasCode(error, 'untrusted') || hasCode(error, 'malformed')) return undefined;
      throw error;
    }
  }
}
