/**
 * Signs `heads`: the version for all of each appliance, candidates and mandatory marks, numbered, expiring, naming the
 * newest trust file. Signing is
 * part of the exclusive step that changed something; a crash in between heals at the next `refresh`, because what heads
 * says is compared with the catalogue and not remembered. A number is taken durably before its heads are shown: readers
 * may see the renamed file before a power cut takes it back, and refuse other bytes under that number, or a lower one.
 */
import { isDeepStrictEqual } from 'node:util';
import {
  CollectiveError,
  encodeHeads,
  type Heads,
  openHeads,
  PAYLOAD_TYPES,
  signEnvelope,
  type SigningKey,
} from '@collective/shared';
import { type Catalogue } from '../catalogue/catalogue.js';
import { type Clock } from '../clock.js';
import { HEADS } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { readMandatory } from './mandatory-file.js';
import { type TrustStore } from './trust-store.js';

export type HeadsSignerOptions = {
  readonly blobStore: BlobStore;
  readonly catalogue: Catalogue;
  readonly trust: TrustStore;
  readonly key: SigningKey;
  readonly clock: Clock;
  readonly headsSeconds: number;
};

type Head = Heads['heads'][number];
type Named = Pick<Heads, 'heads' | 'candidates' | 'mandatory'>;

export class HeadsSigner {
  readonly #options: HeadsSignerOptions;

  constructor(options: HeadsSignerOptions) {
    this.#options = options;
  }

  /** Signs again when something changed or half of the time to expiry is over; takes the lock. */
  async refresh(): Promise<boolean> {
    return this.#options.catalogue.exclusively(() => this.signIfNeeded());
  }

  /**
   * The same for a caller that holds the lock. Whether it signed. Errors: `untrusted` when the newest trust file does
   * not name this server's heads key, `local-io` when a version that was announced is gone.
   */
  async signIfNeeded(): Promise<boolean> {
    const { blobStore, catalogue, trust, key, clock, headsSeconds } = this.#options;
    const now = clock.nowSeconds();
    const current = await trust.current();
    if (!current.headsKeys.includes(key.publicKey)) {
      throw new CollectiveError(
        'untrusted',
        `trust/${current.number} does not name the heads key ${key.publicKey} of this server`,
      );
    }
    const old = await this.#held(current);
    const named = await this.#named();
    if (old !== undefined) refuseGoingBack(old.heads, named.heads);
    const isFresh =
      old !== undefined &&
      old.number >= (await catalogue.versions.headsNumber()) &&
      old.trust === current.number &&
      old.expiresAt - now > headsSeconds / 2 &&
      old.createdAt <= now &&
      isDeepStrictEqual(namedIn(old), named);
    if (isFresh) return false;
    const payload = encodeHeads({
      format: 1,
      number: await catalogue.versions.takeHeadsNumber(old?.number ?? 0),
      trust: current.number,
      createdAt: now,
      expiresAt: now + headsSeconds,
      ...named,
    });
    await blobStore.replace(HEADS, signEnvelope({ payloadType: PAYLOAD_TYPES.heads, payload, signers: [key] }));
    return true;
  }

  async #named(): Promise<Named> {
    const { blobStore, catalogue } = this.#options;
    const heads = await this.#heads();
    const candidates = (await catalogue.versions.candidates()).map(headOf);
    const isThere = ({ appliance }: { readonly appliance: string }): boolean =>
      heads.some((head) => head.appliance === appliance);
    const mandatory = (await readMandatory(blobStore)).filter(isThere);
    return {
      heads,
      ...(candidates.length === 0 ? {} : { candidates }),
      ...(mandatory.length === 0 ? {} : { mandatory }),
    };
  }

  async #heads(): Promise<Head[]> {
    const { versions } = this.#options.catalogue;
    const heads: Head[] = [];
    for (const appliance of await versions.appliances()) {
      const head = await versions.head(appliance);
      if (head !== undefined) heads.push(headOf(head));
    }
    return heads.sort((a, b) => (a.appliance < b.appliance ? -1 : 1));
  }

  /** What was signed last. Damaged heads stop the server: a lower number than one that was shown must never go out. */
  async #held(current: Awaited<ReturnType<TrustStore['current']>>): Promise<Heads | undefined> {
    const bytes = await this.#options.blobStore.read(HEADS);
    return bytes === undefined ? undefined : openHeads(bytes, current);
  }
}

// A folder that was restored from an old backup, or is only half mounted, must not be announced: clients that have seen
// more would refuse it, clients that have not would be shown yesterday.
const refuseGoingBack = (old: readonly Head[], next: readonly Head[]): void => {
  for (const before of old) {
    const now = next.find((head) => head.appliance === before.appliance);
    if (now === undefined || now.version < before.version) {
      throw new CollectiveError(
        'local-io',
        `heads name ${before.appliance}@${before.version}, but the repository has ${now === undefined ? 'no version' : `only version ${now.version}`}: run check, restore the newest backup`,
      );
    }
  }
};

const headOf = ({ appliance, version, manifest }: Head): Head => ({ appliance, version, manifest });

const namedIn = ({ heads, candidates, mandatory }: Heads): Named => ({
  heads: heads.map(headOf),
  ...(candidates === undefined ? {} : { candidates: candidates.map(headOf) }),
  ...(mandatory === undefined ? {} : { mandatory }),
});
