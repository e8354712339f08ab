/**
 * A running session: whose it is, the repository it talks to, and what this machine trusts of that repository. Made by a
 * login, or from the session file after a restart of the agent; ended by a logout.
 */
import { CollectiveError, hasCode } from '@collective/shared';
import { RepositoryClient } from '../repository/repository-client.js';
import type { DeviceFile } from './device-file.js';
import type { Home } from '../home.js';
import type { ObjectCache } from './object-cache.js';
import { DeviceTokens, isAway, trustSource } from './repository-access.js';
import type { SessionKeys } from './session-file.js';
import { TrustClient, type TrustSource } from './trust-client.js';

export class Session {
  readonly device: DeviceFile;
  readonly keys: SessionKeys;
  readonly client: RepositoryClient;
  readonly tokens: DeviceTokens;
  readonly trust: TrustClient;
  /** Whether the last exchange with the repository succeeded; undefined before the first. */
  #isConnected: boolean | undefined;

  private constructor(parts: {
    device: DeviceFile;
    keys: SessionKeys;
    client: RepositoryClient;
    tokens: DeviceTokens;
    trust: TrustClient;
  }) {
    this.device = parts.device;
    this.keys = parts.keys;
    this.client = parts.client;
    this.tokens = parts.tokens;
    this.trust = parts.trust;
  }

  /** Needs no network. Errors: those of TrustClient.open. */
  static async open(options: {
    readonly device: DeviceFile;
    readonly keys: SessionKeys;
    readonly home: Home;
    readonly objects: ObjectCache;
  }): Promise<Session> {
    const { device, keys, home, objects } = options;
    const { origin, identity, pin } = device.repository;
    const trust = await TrustClient.open(home, objects, identity);
    const client = new RepositoryClient({ origin, ...(pin === null ? {} : { pin }) });
    const tokens = new DeviceTokens(client, { identity, deviceSeed: keys.deviceSeed });
    client.useTokens(tokens);
    return new Session({ device, keys, client, tokens, trust });
  }

  get isConnected(): boolean | undefined {
    return this.#isConnected;
  }

  /** What the trust client asks of this repository. */
  source(signal?: AbortSignal): TrustSource {
    return trustSource(this.client, signal);
  }

  /**
   * Takes the news of the repository. Undefined when it cannot be reached, with a note for the person instead: what is on
   * this machine can still be used. Errors: `rollback`, `untrusted`, `wrong-server`, `revoked`.
   */
  async refresh(signal?: AbortSignal): Promise<{ readonly source: TrustSource | undefined; readonly note?: string }> {
    const source = this.source(signal);
    try {
      await this.#assertIdentity(signal);
      await this.trust.refresh(source);
      this.#isConnected = true;
      return { source };
    } catch (error) {
      this.#isConnected = false;
      if (!isAway(error)) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      return { source: undefined, note: `Working without the repository: ${reason}` };
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
