/**
 * One repository as the agent uses it: the HTTP client with the device's token, and what the trust client asks. The
 * token is renewed by the device key; lifetimes are counted on this machine's own clock, never compared with the server's.
 */
import {
  CollectiveError,
  deviceLoginMessage,
  hasCode,
  keyId,
  signingKeyFromSeed,
  type Digest,
  type SigningKey,
} from '@collective/shared';
import type { RepositoryAddress } from '../repository/pinned-connector.js';
import type { RepositoryClient } from '../repository/repository-client.js';
import { type TokenSource } from '../repository/repository-client.js';
import type { TrustSource } from './trust-client.js';

/** A token is good for an hour; it is renewed before that. */
const TOKEN_LIFETIME_MS = 50 * 60 * 1000;

/** Logs the device in, and keeps the token for most of its hour. Joined: many callers cause one login. */
export class DeviceTokens implements TokenSource {
  readonly #client: RepositoryClient;
  readonly #identity: Digest;
  readonly #key: SigningKey;
  #current:
    { readonly token: string; readonly takenAtMs: number; readonly account: string; readonly role: string } | undefined;
  #login: Promise<string> | undefined;

  constructor(client: RepositoryClient, options: { readonly identity: Digest; readonly deviceSeed: Buffer }) {
    this.#client = client;
    this.#identity = options.identity;
    this.#key = signingKeyFromSeed(options.deviceSeed);
  }

  get role(): string | undefined {
    return this.#current?.role;
  }

  async token(refused?: string): Promise<string> {
    const current = this.#current;
    if (current !== undefined && current.token !== refused && performance.now() - current.takenAtMs < TOKEN_LIFETIME_MS)
      return current.token;
    this.#login ??= this.#logIn().finally(() => (this.#login = undefined));
    return this.#login;
  }

  /** The token at hand, without asking for one. */
  get held(): string | undefined {
    return this.#current?.token;
  }

  async #logIn(): Promise<string> {
    const device = keyId(this.#key.publicKey);
    const { nonce } = await this.#client.call('loginChallenge', { body: { device } });
    const message = deviceLoginMessage({ identity: this.#identity, device, nonce: Buffer.from(nonce, 'base64url') });
    const signature = this.#key.sign(message).toString('base64url');
    const reply = await this.#client.call('loginDevice', { body: { device, nonce, signature } });
    this.#current = { token: reply.token, takenAtMs: performance.now(), account: reply.account, role: reply.role };
    return reply.token;
  }
}

/** What the trust client asks, over HTTP. */
export const trustSource = (client: RepositoryClient, signal?: AbortSignal): TrustSource => {
  const more = signal === undefined ? {} : { signal };
  return {
    async trustFile(number) {
      try {
        return await client.call('trust', { params: { number }, ...more });
      } catch (error) {
        if (hasCode(error, 'not-found')) return undefined;
        throw error;
      }
    },
    heads: async () => client.call('heads', more),
    letters: async () =>
      (await client.call('candidates', more)).map((each) => ({ ...each, letter: Buffer.from(each.letter, 'base64') })),
    promotion: async (name, version) => client.call('promotion', { params: { name, version }, ...more }),
    manifest: async (name, version) => client.call('versionManifest', { params: { name, version }, ...more }),
  };
};

export type { RepositoryAddress };

/** True when trying again later may help: the network or the server is away. */
export const isAway = (error: unknown): boolean =>
  error instanceof CollectiveError &&
  ['repository-unreachable', 'block-unavailable', 'internal', 'shutting-down', 'rate-limited'].includes(error.code);
