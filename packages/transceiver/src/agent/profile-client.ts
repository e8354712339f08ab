/**
 * The person's sealed profile as the agent uses it: fetched, verified, never older than what this home has seen, changed
 * by pure functions with compare and set, and kept in the object cache for when there is no network.
 */
import {
  CollectiveError,
  hasCode,
  openProfile,
  PROFILE_BYTES_MAX,
  sealProfile,
  sha256,
  type Digest,
  type PersonKeys,
  type Profile,
} from '@collective/shared';
import type { Home } from '../home.js';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { ObjectCache } from './object-cache.js';
import { readSeenProfile, writeSeenProfile, type SeenProfile } from './seen-profile.js';

/** Each try lost against another device's change; so many in a row are no accident. */
const UPDATE_TRIES_MAX = 8;

/** The two calls that it makes of a repository. */
export type ProfileSource = Pick<RepositoryClient, 'call'>;

export type ProfileOptions = {
  readonly home: Pick<Home, 'seenProfileFile'>;
  readonly objects: Pick<ObjectCache, 'profile' | 'putProfile'>;
  readonly client: ProfileSource;
  readonly person: PersonKeys;
  readonly account: string;
  readonly repository: Digest;
};

export class ProfileClient {
  readonly #options: ProfileOptions;
  #seen: SeenProfile | undefined;
  #profile: Profile | undefined;
  #onChange: (profile: Profile) => Promise<void> = async () => undefined;
  /**
   * One exchange after the other: else updates of one agent would beat each other, and an answer that was overtaken by a
   * newer one would be taken for an older state.
   */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: ProfileOptions, seen: SeenProfile | undefined) {
    this.#options = options;
    this.#seen = seen;
    this.#profile = this.#heldProfile();
  }

  /** With what the cache holds; needs no network. Errors: `malformed` for a damaged seen-profile.json. */
  static async open(options: ProfileOptions): Promise<ProfileClient> {
    const { home, person } = options;
    return new ProfileClient(options, await readSeenProfile(home.seenProfileFile, person.identity.publicKey));
  }

  /** The newest that was verified; undefined when this home holds none. */
  get profile(): Profile | undefined {
    return this.#profile;
  }

  /** Called, and waited for, with each profile that is newer than the one before. */
  onChange(call: (profile: Profile) => Promise<void>): void {
    this.#onChange = call;
  }

  /**
   * Takes the newest profile of the server; undefined when the person has none yet. Errors: `rollback` when it is older
   * than what this home has seen, or gone; `untrusted`, `bad-signature`, `malformed`; those of the network.
   */
  async refresh(signal?: AbortSignal): Promise<Profile | undefined> {
    return this.#inTurn(async () => this.#refresh(signal));
  }

  async #refresh(signal?: AbortSignal): Promise<Profile | undefined> {
    const more = signal === undefined ? {} : { signal };
    try {
      return await this.#take(
        await this.#options.client.call('profile', { responseBytesMax: PROFILE_BYTES_MAX, ...more }),
      );
    } catch (error) {
      if (!hasCode(error, 'not-found')) throw error;
      if (this.#seen === undefined) return undefined;
      throw new CollectiveError(
        'rollback',
        `The repository has no profile of ${this.#options.account}; this machine has seen number ${String(this.#seen.number)}.`,
        { cause: error },
      );
    }
  }

  /**
   * Changes the profile; resolves when the change is durable on the server. `change` is pure and may be called again,
   * when another device was faster; it gives back the same object when there is nothing to do. `first` makes the profile
   * of a person who has none. Errors: those of refresh, `too-large`, `conflict` when others are always faster.
   */
  async update(
    change: (profile: Profile) => Profile,
    options: { readonly first?: () => Promise<Profile>; readonly signal?: AbortSignal } = {},
  ): Promise<Profile> {
    return this.#inTurn(async () => this.#update(change, options));
  }

  async #update(
    change: (profile: Profile) => Profile,
    { first, signal }: { readonly first?: () => Promise<Profile>; readonly signal?: AbortSignal },
  ): Promise<Profile> {
    const { client, person, account } = this.#options;
    for (let tries = 0; tries < UPDATE_TRIES_MAX; tries += 1) {
      const current = await this.#refresh(signal);
      const base = current ?? (await first?.());
      if (base === undefined) throw new CollectiveError('not-found', `${account} has no profile yet: log in again.`);
      const changed = change(base);
      if (changed === current) return current;
      const after = current?.number ?? 0;
      const bytes = sealProfile({ ...changed, number: after + 1 }, person);
      try {
        await client.call('setProfile', {
          query: { after },
          body: bytes,
          ...(signal === undefined ? {} : { signal }),
        });
      } catch (error) {
        if (hasCode(error, 'conflict')) continue;
        throw error;
      }
      return this.#take(bytes);
    }
    throw new CollectiveError('conflict', `The profile of ${account} changes all the time; nothing was changed here.`);
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** Verifies, and keeps what is new: in the cache first, so that what was seen can be read again without a network. */
  async #take(bytes: Buffer): Promise<Profile> {
    const { person, home, objects } = this.#options;
    const profile = this.#open(bytes);
    const digest = sha256(bytes);
    const { number } = profile;
    const seen = this.#seen;
    if (seen !== undefined && (number < seen.number || (number === seen.number && digest !== seen.digest))) {
      throw new CollectiveError(
        'rollback',
        `The repository shows number ${String(number)} of the profile; this machine has seen ${number === seen.number ? 'another one of that number' : `number ${String(seen.number)}`}.`,
        { data: { number, seen: seen.number } },
      );
    }
    if (seen?.number === number && this.#profile !== undefined) return this.#profile;
    await objects.putProfile(bytes);
    const next = { format: 1, identityKey: person.identity.publicKey, number, digest } as const;
    await writeSeenProfile(home.seenProfileFile, next);
    this.#seen = next;
    this.#profile = profile;
    await this.#onChange(profile);
    return profile;
  }

  /** Errors: `untrusted` for the profile of another account or repository. */
  #open(bytes: Buffer): Profile {
    const { person, account, repository } = this.#options;
    const profile = openProfile(bytes, person);
    if (profile.account === account && profile.repository.identity === repository) return profile;
    throw new CollectiveError('untrusted', `The profile is of ${profile.account} at another repository.`);
  }

  /** What the cache holds, if it is what this home has seen, or what it was just about to note down as seen. */
  #heldProfile(): Profile | undefined {
    const bytes = this.#options.objects.profile();
    if (bytes === undefined || this.#seen === undefined) return undefined;
    try {
      const profile = this.#open(bytes);
      return profile.number > this.#seen.number || sha256(bytes) === this.#seen.digest ? profile : undefined;
    } catch {
      // Only a cache: it is fetched again.
      return undefined;
    }
  }
}
