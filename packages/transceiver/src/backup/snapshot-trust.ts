/**
 * Is this a snapshot that the person made? It counts when a device signed it that the person's identity key has certified,
 * the present one or one of before a reset, for this account at this repository; and when it is no older than what this
 * home, or the profile, has seen of the subscription. The server only passes things on.
 */
import {
  CollectiveError,
  PAYLOAD_TYPES,
  decodeSnapshotManifest,
  keyId,
  openDeviceCertificate,
  openEnvelope,
  requireSignatures,
  type DeviceCertificate,
  type Digest,
  type Envelope,
  type SnapshotManifest,
} from '@collective/shared';
import { signalOf, type BackupPerson } from './backup-person.js';

export type VerifiedSnapshot = {
  readonly manifest: SnapshotManifest;
  /** SHA-256 of the manifest file. */
  readonly digest: Digest;
  readonly deviceName: string;
};

export type SnapshotName = { readonly number: number; readonly manifest: Digest };

/** Manifests that are remembered; each has a few KiB. */
const VERIFIED_MAX = 512;

export class SnapshotTrust {
  readonly #person: BackupPerson;
  /** As the server gave them; checked at each use, because the profile may have learnt another identity. */
  #certificates: ReadonlyMap<Digest, Buffer> = new Map();
  /** By subscription and digest: a chain is walked more than once. */
  readonly #verified = new Map<string, VerifiedSnapshot>();

  constructor(person: BackupPerson) {
    this.#person = person;
  }

  /**
   * The snapshot of that number, verified. Errors: `untrusted`, `bad-signature`, `not-found`, those of the formats and of
   * the network.
   */
  async fetch(
    of: { readonly subscription: string; readonly number: number; readonly digest?: Digest },
    signal?: AbortSignal,
  ): Promise<VerifiedSnapshot> {
    const { subscription, number } = of;
    const known = of.digest === undefined ? undefined : this.#verified.get(`${subscription}/${of.digest}`);
    if (known?.manifest.number === number) return known;
    const bytes = await this.#person.client.call('snapshotManifest', {
      params: { subscription, number },
      ...signalOf(signal),
    });
    const snapshot = await this.verify(bytes, { subscription, number }, signal);
    if (of.digest === undefined || of.digest === snapshot.digest) {
      if (this.#verified.size >= VERIFIED_MAX) this.#verified.clear();
      this.#verified.set(`${subscription}/${snapshot.digest}`, snapshot);
      return snapshot;
    }
    throw new CollectiveError('untrusted', `Snapshot ${String(number)} is another one than it was said to be.`);
  }

  /** Errors: as `fetch`. */
  async verify(
    bytes: Uint8Array,
    of: { readonly subscription: string; readonly number: number },
    signal?: AbortSignal,
  ): Promise<VerifiedSnapshot> {
    const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot });
    const certificate = await this.#certificateOf(envelope, signal);
    requireSignatures(envelope, [certificate.deviceKey], { threshold: 1, what: 'snapshot' });
    const manifest = decodeSnapshotManifest(envelope.payload);
    if (manifest.device !== keyId(certificate.deviceKey))
      throw untrusted(`it is of device ${manifest.device}, but ${keyId(certificate.deviceKey)} signed it`);
    if (manifest.subscription !== of.subscription || manifest.number !== of.number)
      throw untrusted(
        `it is snapshot ${String(manifest.number)} of ${manifest.subscription}, not ${String(of.number)} of ${of.subscription}`,
      );
    return { manifest, digest: envelope.digest, deviceName: certificate.deviceName };
  }

  async #certificateOf(envelope: Envelope, signal: AbortSignal | undefined): Promise<DeviceCertificate> {
    const signers = envelope.signatures.map(({ keyid }) => keyid);
    if (!signers.some((keyid) => this.#certificates.has(keyid))) {
      const rows = await this.#person.client.call('myDeviceCertificates', signalOf(signal));
      this.#certificates = new Map(
        rows.map(({ device, certificate }) => [device, Buffer.from(certificate, 'base64')] as const),
      );
    }
    for (const keyid of signers) {
      const bytes = this.#certificates.get(keyid);
      if (bytes !== undefined) return this.#opened(bytes, keyid);
    }
    throw untrusted('no device of this account signed it');
  }

  #opened(bytes: Buffer, keyid: Digest): DeviceCertificate {
    const { account, repository, identityKeys } = this.#person;
    for (const identityKey of identityKeys) {
      let certificate: DeviceCertificate;
      try {
        certificate = openDeviceCertificate(bytes, identityKey);
      } catch (error) {
        if (error instanceof CollectiveError) continue;
        throw error;
      }
      if (certificate.account !== account || certificate.repository !== repository)
        throw untrusted(`the certificate of its device is for ${certificate.account} at another place`);
      if (keyId(certificate.deviceKey) !== keyid) throw untrusted('the certificate is of another device');
      return certificate;
    }
    throw untrusted(`this person's identity did not certify the device ${keyid}`);
  }
}

/**
 * Nothing older than what was seen. Pure. `seen`: what this home and the profile know of the subscription. Errors: `rollback`
 * (also for another snapshot of a number that was seen).
 */
export const requireNotOlder = (found: SnapshotName | undefined, seen: readonly (SnapshotName | undefined)[]): void => {
  for (const known of seen) {
    if (known === undefined) continue;
    const isOlder = found === undefined || found.number < known.number;
    if (!isOlder && (found.number > known.number || found.manifest === known.manifest)) continue;
    throw new CollectiveError(
      'rollback',
      `The repository shows ${found === undefined ? 'no snapshot' : `snapshot ${String(found.number)}`}; ${isOlder ? '' : 'another '}snapshot ${String(known.number)} was seen.`,
      { data: { seen: known.number, ...(found === undefined ? {} : { number: found.number }) } },
    );
  }
};

const untrusted = (why: string): CollectiveError =>
  new CollectiveError('untrusted', `The snapshot cannot be trusted: ${why}.`);
