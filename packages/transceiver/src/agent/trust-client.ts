/**
 * What this machine believes of its repository (DESIGN §6, docs/formats/trust.md): it walks the trust files up from the
 * one it holds, opens the heads, refuses whatever is older than it has seen, and verifies manifests. Which candidates its
 * account may take say letters (candidate-letters.ts), which promotion made a candidate the version for all says one, too.
 *
 * One class of more than 400 lines, because trust, heads, what was seen and letters change together, in one order.
 *
 * Order on disk: a trust file is kept once it is verified; what was seen is durable before the heads are used. So a crash
 * at any point leaves a machine that accepts no less and nothing older than before.
 */
import { join } from 'node:path';
import {
  CollectiveError,
  compareHeads,
  followTrust,
  hasCode,
  openFirstTrust,
  openHeads,
  publisherKeys,
  requireLetter,
  sha256,
  type Digest,
  type Heads,
  type MandatoryMark,
  type SeenHeads,
  type TrustFile,
  type VersionManifest,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import { candidatesOf, decodeLetters, encodeLetters, type Candidate, type SentLetter } from './candidate-letters.js';
import { TRUST_FILES_MAX } from './introduction.js';
import type { ObjectCache } from './object-cache.js';
import { openVersionManifest } from './version-manifest.js';
import { readSeen, writeSeen } from './seen-file.js';

/** What the trust client asks a repository; RepositoryClient does it over HTTP, tests have doubles. */
export interface TrustSource {
  /** Undefined when there is no such trust file. */
  trustFile(number: number): Promise<Buffer | undefined>;
  heads(): Promise<Buffer>;
  manifest(appliance: string, version: number): Promise<Buffer>;
  /** Those of this account. */
  letters(): Promise<readonly SentLetter[]>;
  /** The letter for all of a version that was a candidate. */
  promotion(appliance: string, version: number): Promise<Buffer>;
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
/** The newest version cannot be had, which says nothing against one that was verified here before. */
const NO_NEWEST: ReadonlySet<string> = new Set(['untrusted', 'bad-signature', 'repository-unreachable']);
/** A candidate that cannot be had: the version for all takes its place. */
const IS_KEPT_BACK: ReadonlySet<string> = new Set(['not-found', 'repository-unreachable', 'not-allowed']);

type Paths = { readonly trustDirectory: string; readonly seenFile: string };

export class TrustClient {
  readonly identity: Digest;
  readonly #paths: Paths;
  readonly #objects: ObjectCache;
  readonly #account: string;
  #letters: readonly SentLetter[];
  #trust: TrustFile;
  #seen: SeenHeads | undefined;
  #heads: (Heads & { readonly digest: Digest }) | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: {
    identity: Digest;
    paths: Paths;
    objects: ObjectCache;
    account: string;
    trust: TrustFile;
    seen: SeenHeads | undefined;
  }) {
    this.identity = options.identity;
    this.#paths = options.paths;
    this.#objects = options.objects;
    this.#account = options.account;
    this.#letters = decodeLetters(options.objects.letters());
    this.#trust = options.trust;
    this.#seen = options.seen;
    this.#heads = this.#heldHeads();
  }

  /** From what the home holds, verified again. Errors: `not-found` when it holds nothing, `wrong-server`, `untrusted`. */
  static async open(
    paths: Paths,
    objects: ObjectCache,
    { identity, account }: { readonly identity: Digest; readonly account: string },
  ): Promise<TrustClient> {
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
    return new TrustClient({ identity, paths, objects, account, trust, seen: await readSeen(paths.seenFile) });
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
      const wanted = this.#trust.number + 1;
      const next = await source.trustFile(wanted);
      if (next === undefined) break;
      await this.#inTurn(async () => {
        if (this.#trust.number >= wanted) return;
        const followed = followTrust(this.#trust, next);
        await writeDurably(join(this.#paths.trustDirectory, String(followed.number)), next);
        this.#trust = followed;
      });
    }
    for (let isTaken = false; !isTaken;) {
      const before = this.#heads;
      const bytes = await source.heads();
      isTaken = await this.#inTurn(async () => {
        // What another refresh took meanwhile may be newer: this answer would look like a rollback.
        if (this.#heads !== before) return false;
        await this.#takeHeads(bytes);
        return true;
      });
    }
    const letters = await source.letters();
    const kept = encodeLetters(letters);
    if (this.#objects.letters()?.equals(kept) !== true) await this.#objects.putLetters(kept);
    this.#letters = letters;
  }

  /** Refreshes may overlap, a start's and the prefetcher's: they ask beside each other, none waits for another one's line, and take one after the other. */
  async #inTurn<T>(take: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(take);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  async #takeHeads(bytes: Buffer): Promise<void> {
    const heads = openHeads(bytes, this.#trust);
    const seen = compareHeads(this.#seen, heads, this.#trust);
    if (this.#seen === undefined || JSON.stringify(seen) !== JSON.stringify(this.#seen)) {
      await this.#forgetRecounted();
      await writeSeen(this.#paths.seenFile, seen);
      this.#seen = seen;
    }
    if (this.#heads?.digest === heads.digest) return;
    await this.#objects.putHeads(bytes);
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

  /** What an administrator has made mandatory of the appliance, and the time that it must be by the newest heads. */
  mandatory(appliance: string): { readonly mark: MandatoryMark | undefined; readonly notBeforeSeconds: number } {
    const mark = this.#heads?.mandatory?.find((entry) => entry.appliance === appliance);
    return { mark, notBeforeSeconds: this.#heads?.createdAt ?? 0 };
  }

  /** The manifest that the heads name for a version, be it for all or a candidate. */
  announced(appliance: string, version: number): Digest | undefined {
    const all = [...(this.#heads?.heads ?? []), ...(this.#heads?.candidates ?? [])];
    return all.find((entry) => entry.appliance === appliance && entry.version === version)?.manifest;
  }

  /** The candidates that this account may take, ascending. */
  candidates(appliance: string): readonly Candidate[] {
    return this.#candidates(appliance).own;
  }

  /**
   * The newest version of an appliance for this account: a candidate above the version for all, else that one. `source`
   * undefined: from what is at hand. Errors: `not-found`, `untrusted`, `rollback`, `repository-unreachable`.
   */
  async newest(appliance: string, source: TrustSource | undefined): Promise<VerifiedVersion> {
    const { own, refused } = this.#candidates(appliance);
    const notes: string[] = [];
    if (refused !== undefined)
      notes.push(
        `The repository shows a candidate of ${appliance} that is not for you; it is not used: ${refused.message}`,
      );
    const candidate = own.at(-1);
    const forAll = this.#heads?.heads.find((entry) => entry.appliance === appliance)?.version ?? 0;
    if (candidate !== undefined && candidate.version > forAll) {
      try {
        const verified = await this.#candidate(candidate, source);
        return { ...verified, notes: [...verified.notes, ...notes] };
      } catch (error) {
        if (!(error instanceof CollectiveError) || !IS_KEPT_BACK.has(error.code) || forAll === 0) throw error;
        notes.push(`The candidate ${appliance}@${String(candidate.version)} cannot be had: ${error.message}`);
      }
    }
    const released = await this.released(appliance, source);
    return { ...released, notes: [...released.notes, ...notes] };
  }

  /**
   * A candidate for somebody who publishes the appliance, and needs no letter: named by the heads, signed as every version.
   * Errors: `not-found` when there is no such candidate, and those of `newest`.
   */
  async candidateAsPublisher(
    appliance: string,
    version: number,
    source: TrustSource | undefined,
  ): Promise<VerifiedVersion> {
    const named = this.#heads?.candidates?.find((each) => each.appliance === appliance && each.version === version);
    if (named === undefined)
      throw new CollectiveError('not-found', `${appliance} has no candidate ${String(version)}.`);
    return { ...(await this.#candidate(named, source)), notes: [] };
  }

  #candidates(appliance: string): ReturnType<typeof candidatesOf> {
    const heads = this.#heads;
    if (heads === undefined) return { own: [], refused: undefined };
    return candidatesOf(appliance, this.#letters, { heads, trust: this.#trust, account: this.#account });
  }

  async #candidate(
    { appliance, version, manifest: digest }: Candidate,
    source: TrustSource | undefined,
  ): Promise<VerifiedVersion> {
    const bytes = await this.#manifestBytes({ appliance, version, digest }, source);
    const { manifest } = openVersionManifest(bytes, { appliance, version, mustBeSigned: true }, this.#trust);
    await this.#keep(appliance, version, digest, bytes);
    const note = this.staleNote();
    const says = `${appliance}@${String(version)} is a candidate: you are among those who try it.`;
    return { manifest, digest, notes: note === undefined ? [says] : [says, note] };
  }

  /**
   * The version for all, named by the heads and signed by a key that the newest trust file allows; one that was a candidate
   * with its promotion, signed likewise. Errors: as `newest`.
   */
  async released(appliance: string, source: TrustSource | undefined): Promise<VerifiedVersion> {
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
    const manifest = openVersionManifest(
      bytes,
      { appliance, version: head.version, mustBeSigned: true },
      this.#trust,
    ).manifest;
    if (manifest.candidate === true) await this.#requirePromotion(head, source);
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
    if (this.#heads?.heads.some((head) => head.appliance === appliance && head.version === version) === true)
      return this.released(appliance, source);
    const candidate = this.candidates(appliance).find((each) => each.version === version);
    if (candidate !== undefined) return this.#candidate(candidate, source);
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
    const { manifest, isSigned } = openVersionManifest(bytes, { appliance, version, mustBeSigned: false }, this.#trust);
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
      manifest = openVersionManifest(
        bytes,
        { appliance, version: parent.version, mustBeSigned: false },
        this.#trust,
      ).manifest;
      await this.#keep(appliance, parent.version, parent.manifest, bytes);
    }
    throw new CollectiveError('not-found', `${appliance} has no version ${String(version)}.`, {
      data: { appliance, version },
    });
  }

  /** The publisher has made it the version for all: a server cannot. */
  async #requirePromotion(head: Heads['heads'][number], source: TrustSource | undefined): Promise<void> {
    const { appliance, version, manifest } = head;
    const held = this.#objects.promotion(manifest);
    if (held === undefined && source === undefined)
      throw new CollectiveError(
        'repository-unreachable',
        `The promotion of ${appliance}@${String(version)} is not on this machine, and the repository cannot be asked.`,
      );
    const bytes = held ?? (await source?.promotion(appliance, version)) ?? Buffer.alloc(0);
    requireLetter(bytes, publisherKeys(this.#trust, appliance), { appliance, version, manifest, account: null });
    if (held === undefined) await this.#objects.putPromotion(manifest, bytes);
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
