/**
 * A running session: whose it is, the repository it talks to, what this machine trusts of that repository, and the
 * person's profile with the ring of key epochs. Made by a login, or from the session file after a restart of the agent;
 * ended by a logout.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  CollectiveError,
  currentEpoch,
  derivePersonKeys,
  hasCode,
  keysOfEpoch,
  ringOf,
  type EpochKeys,
  type PersonKeys,
} from '@collective/shared';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import { RepositoryClient } from '../repository/repository-client.js';
import type { DeviceFile } from './device-file.js';
import type { DiskKeyRing } from './disk-key-ring.js';
import type { Home } from '../home.js';
import type { ObjectCache } from './object-cache.js';
import type { BlockOrigin } from './machine-port.js';
import { ProfileClient } from './profile-client.js';
import { DeviceTokens, isAway, trustSource } from './repository-access.js';
import { saveSession, type SessionKeys } from './session-file.js';
import { TrustClient, type TrustSource } from './trust-client.js';

const TOKEN_WAIT_MS = 3_000;

type SessionParts = {
  readonly home: Home;
  readonly device: DeviceFile;
  readonly keys: SessionKeys;
  readonly person: PersonKeys;
  readonly client: RepositoryClient;
  readonly tokens: DeviceTokens;
  readonly trust: TrustClient;
  readonly profile: ProfileClient;
};

export class Session {
  readonly person: PersonKeys;
  readonly client: RepositoryClient;
  readonly tokens: DeviceTokens;
  readonly trust: TrustClient;
  readonly profile: ProfileClient;
  /** Where this person's files lie. */
  readonly home: Home;
  #device: DeviceFile;
  #keys: SessionKeys;
  /** The session file is there, and follows the ring. */
  #isKept = false;
  #saved: Promise<unknown> = Promise.resolve();
  /** Whether the last exchange with the repository succeeded; undefined before the first. */
  #isConnected: boolean | undefined;
  #isRevoked = false;
  #profileNote: string | undefined;

  private constructor(parts: SessionParts) {
    this.person = parts.person;
    this.client = parts.client;
    this.tokens = parts.tokens;
    this.trust = parts.trust;
    this.profile = parts.profile;
    this.home = parts.home;
    this.#device = parts.device;
    this.#keys = parts.keys;
  }

  /** Needs no network. Errors: those of TrustClient.open and ProfileClient.open. */
  static async open(options: {
    readonly device: DeviceFile;
    readonly keys: SessionKeys;
    readonly home: Home;
    readonly objects: ObjectCache;
  }): Promise<Session> {
    const { device, keys, home, objects } = options;
    const { origin, identity, pin } = device.repository;
    const trust = await TrustClient.open(home, objects, { identity, account: device.account });
    const client = new RepositoryClient({ origin, ...(pin === null ? {} : { pin }) });
    const tokens = new DeviceTokens(client, { identity, deviceSeed: keys.deviceSeed });
    client.useTokens(tokens);
    const person = derivePersonKeys(keys.personSecret);
    const { account } = device;
    const profile = await ProfileClient.open({ home, objects, client, person, account, repository: identity });
    const session = new Session({ home, device, keys, person, client, tokens, trust, profile });
    if (profile.profile !== undefined) session.#keys = { ...keys, ring: ringOf(profile.profile) };
    profile.onChange(async (changed) => {
      session.#keys = { ...session.#keys, ring: ringOf(changed) };
      if (session.#isKept) await session.keep();
    });
    return session;
  }

  get device(): DeviceFile {
    return this.#device;
  }

  get keys(): SessionKeys {
    return this.#keys;
  }

  /** With the first one is encrypted what comes to lie of the person on the local disk, with the others what lay there before a reset. */
  get diskKeys(): DiskKeyRing {
    return [this.person.diskKey.toString('base64url'), ...(this.profile.profile?.formerDiskKeys ?? [])];
  }

  /**
   * Where missing blocks come from: for private ones with a token, when there is one to be had. Never fails: without it they are waited
   * for like those of a repository that is away.
   */
  async blocks(): Promise<BlockOrigin> {
    // Whoever asks may be resuming a machine in an outage: the token that comes later is brought by itself (token-courier.ts).
    const given = new AbortController();
    const token = await Promise.race([
      this.tokens.token().catch(() => undefined),
      delay(TOKEN_WAIT_MS, undefined, { signal: given.signal }).catch(() => undefined),
    ]);
    given.abort();
    return { ...this.client.address, ...(token === undefined ? {} : { token }) };
  }

  /** As blockd wants them: of every epoch that this device knows. */
  get blockKeys(): BlockKeys {
    const epochs = new Set([1, ...this.#keys.ring.map(({ epoch }) => epoch)]);
    return [...epochs].flatMap((epoch) => {
      const keys = this.#knownKeys(epoch);
      if (keys === undefined) return [];
      const [blockNameKey, chunkKey] = [keys.blockNameKey.toString('base64url'), keys.chunkKey.toString('base64url')];
      return [{ epoch, blockNameKey, chunkKey }];
    });
  }

  /** After a reset the first epoch of before may still be locked. */
  #knownKeys(epoch: number): EpochKeys | undefined {
    try {
      return this.epochKeys(epoch);
    } catch (error) {
      if (hasCode(error, 'not-found')) return undefined;
      throw error;
    }
  }

  get isConnected(): boolean | undefined {
    return this.#isConnected;
  }

  /** The repository has said that this device is revoked. */
  get isRevoked(): boolean {
    return this.#isRevoked;
  }

  /** What the person should know of their profile: it is another one than this device can open. */
  get profileNote(): string | undefined {
    return this.#profileNote;
  }

  /** The epoch that new private blocks use. */
  get epoch(): number {
    return currentEpoch(this.#keys.ring);
  }

  /** The keys that name and encrypt private blocks of an epoch; works without a network. Errors: `not-found`. */
  epochKeys(epoch: number): EpochKeys {
    return keysOfEpoch(epoch, this.#keys.ring, this.person);
  }

  /** The home's device under another password. */
  useDevice(device: DeviceFile): void {
    this.#device = device;
  }

  /** Writes the session file, and again whenever the ring changes. */
  async keep(): Promise<void> {
    this.#isKept = true;
    const saved = this.#saved.then(async () => (this.#isKept ? saveSession(this.home, this.#keys) : undefined));
    this.#saved = saved.catch(() => undefined);
    await saved;
  }

  /** The session file is no longer written; when it resolves, it can be erased. */
  async release(): Promise<void> {
    this.#isKept = false;
    await this.#saved;
  }

  /** What the trust client asks of this repository. */
  source(signal?: AbortSignal): TrustSource {
    return trustSource(this.client, signal);
  }

  /**
   * Takes the news of the repository. Undefined when it cannot be reached, with a note for the person instead: what is on
   * this machine can still be used. Errors: `rollback`, `untrusted`, `wrong-server`, `revoked`, `device-revoked`.
   */
  async refresh(signal?: AbortSignal): Promise<{ readonly source: TrustSource | undefined; readonly note?: string }> {
    const source = this.source(signal);
    try {
      await this.#assertIdentity(signal);
      await this.trust.refresh(source);
      await this.#refreshProfile(signal);
      this.#isConnected = true;
      this.#isRevoked = false;
      return { source };
    } catch (error) {
      this.#isConnected = false;
      if (hasCode(error, 'device-revoked')) this.#isRevoked = true;
      if (!isAway(error)) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      return { source: undefined, note: `Working without the repository: ${reason}` };
    }
  }

  /** After a reset the account has another identity: what this device has goes on, and the person is told. */
  async #refreshProfile(signal?: AbortSignal): Promise<void> {
    try {
      await this.profile.refresh(signal);
      this.#profileNote = undefined;
    } catch (error) {
      if (!hasCode(error, 'untrusted')) throw error;
      this.#profileNote = `The profile of ${this.#device.account} is by another identity than this device's: the account was reset. Log out and in again.`;
    }
  }

  /** Errors: `wrong-server` when another repository answers at the origin. */
  async #assertIdentity(signal?: AbortSignal): Promise<void> {
    const wanted = this.device.repository.identity;
    const found = await this.client.call('identity', signal === undefined ? {} : { signal }).catch((error: unknown) => {
      if (hasCode(error, 'malformed') || hasCode(error, 'bad-request') || hasCode(error, 'not-found')) return undefined;
      throw error;
    });
    if (found?.identity === wanted) return;
    throw new CollectiveError(
      'wrong-server',
      `${this.device.repository.origin} is ${found === undefined ? 'no repository' : `the repository ${found.identity}`}, not ${wanted}.`,
    );
  }

  /** Tells the server, when it can be reached, and closes. */
  async end(): Promise<void> {
    const token = this.tokens.held;
    if (token !== undefined) await this.client.call('logout', { token }).catch(() => undefined);
    await this.client.close();
  }

  async close(): Promise<void> {
    await this.client.close();
  }
}
