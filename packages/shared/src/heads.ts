/**
 * Heads (docs/formats/trust.md): the highest version of each appliance, numbered and signed by the server's heads key.
 * What a client has seen only grows: a lower number, a lower version or another manifest for a version is a rollback,
 * unless a trust file that the client has taken since says from where to count again.
 */
import { type Static, Type } from 'typebox';
import { type Digest } from './brands.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX, PAYLOAD_TYPES, requireSignatures, openEnvelope } from './envelope.js';
import { CollectiveError } from './errors.js';
import { digestField, nameField, numberField, secondsField, strictObject } from './schema-fields.js';
import { type TrustFile } from './trust-file.js';

export const headsSchema = strictObject({
  format: Type.Literal(1),
  number: numberField,
  /** Number of the newest trust file, so that keeping back a revocation needs the heads key. */
  trust: numberField,
  createdAt: secondsField,
  expiresAt: secondsField,
  heads: Type.Array(strictObject({ appliance: nameField, version: numberField, manifest: digestField }), {
    maxItems: 1_000,
  }),
});
export type Heads = Static<typeof headsSchema>;

/** What a client keeps of the heads it has seen; heads that were opened are such a state themselves. */
export type SeenHeads = {
  readonly number: number;
  /** SHA-256 of the heads file. */
  readonly digest: Digest;
  /** Number of the trust file under which it was seen. */
  readonly trust: number;
  /** Also of appliances that have disappeared since. `manifest` null: any manifest of this version will do. */
  readonly heads: readonly { readonly appliance: string; readonly version: number; readonly manifest: Digest | null }[];
};

const codec = documentCodec(headsSchema, {
  what: 'heads',
  bytesMax: ENVELOPE_BYTES_MAX,
  rules: (heads) => {
    // Compared as code units: names are ASCII.
    if (heads.heads.some(({ appliance }, at) => at > 0 && appliance <= (heads.heads[at - 1]?.appliance ?? ''))) {
      throw new CollectiveError('malformed', 'heads: names are not sorted and distinct');
    }
    if (heads.expiresAt < heads.createdAt) throw new CollectiveError('malformed', 'heads: expired before it was made');
  },
});

/** The payload to sign. Errors: as `decodeHeads`. */
export const encodeHeads = (heads: Heads): Buffer => codec.encode(heads);

/** The payload alone, no signature is checked. Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeHeads = (payload: Uint8Array): Heads => codec.decode(payload);

/**
 * The heads of a file that a heads key of `trust` (the newest trust file that the server has) signed. Expiry is left to
 * the caller: it never stops a start. Errors: `untrusted`, `bad-signature`, `rollback` when heads name a newer
 * trust file than `trust` (data.trust: its number), and those of the formats.
 */
export const openHeads = (bytes: Uint8Array, trust: TrustFile): Heads & { readonly digest: Digest } => {
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.heads });
  requireSignatures(envelope, trust.headsKeys, { threshold: 1, what: 'heads' });
  const heads = decodeHeads(envelope.payload);
  if (heads.trust > trust.number) {
    throw new CollectiveError('rollback', `heads name trust file ${heads.trust}, but only ${trust.number} is shown`, {
      data: { trust: heads.trust },
    });
  }
  return { ...heads, digest: envelope.digest };
};

/**
 * What the client has seen after `next`, to be kept; nothing is taken from heads that go back. `seen` is undefined on
 * a machine that has seen nothing. Errors: `rollback` (data.appliance: whose version went back).
 */
export const compareHeads = (
  seen: SeenHeads | undefined,
  next: SeenHeads,
  trust: Pick<TrustFile, 'number' | 'recount'>,
): SeenHeads => {
  if (seen === undefined) return { ...seenFields(next), trust: trust.number };
  if (next.number < seen.number)
    throw new CollectiveError('rollback', `heads ${next.number} after heads ${seen.number}`);
  if (next.number === seen.number && next.digest !== seen.digest) {
    throw new CollectiveError(
      'rollback',
      `heads ${next.number} have the digest ${next.digest}, seen was ${seen.digest}`,
    );
  }
  const heads = new Map(next.heads.map((head) => [head.appliance, head]));
  for (const before of seen.heads) {
    const floor = recounted(before, seen.trust, trust);
    const now = heads.get(floor.appliance);
    if (now === undefined) heads.set(floor.appliance, floor);
    else checkFloor(floor, now);
  }
  const sorted = [...heads.values()].sort((a, b) => (a.appliance < b.appliance ? -1 : 1));
  return { number: next.number, digest: next.digest, trust: trust.number, heads: sorted };
};

type SeenHead = SeenHeads['heads'][number];

const seenFields = ({ number, digest, trust, heads }: SeenHeads): SeenHeads => ({ number, digest, trust, heads });

/** A recount counts once: for what was seen before the trust file that brought it. */
const recounted = (seen: SeenHead, seenTrust: number, trust: Pick<TrustFile, 'recount'>): SeenHead => {
  const entry = trust.recount.find(({ appliance, since }) => appliance === seen.appliance && since > seenTrust);
  return entry === undefined || entry.version >= seen.version
    ? seen
    : { appliance: seen.appliance, version: entry.version, manifest: null };
};

const checkFloor = (floor: SeenHead, now: SeenHead): void => {
  const data = { appliance: floor.appliance };
  if (now.version < floor.version) {
    throw new CollectiveError('rollback', `${floor.appliance}: version ${now.version} after version ${floor.version}`, {
      data,
    });
  }
  if (now.version === floor.version && floor.manifest !== null && now.manifest !== floor.manifest) {
    throw new CollectiveError(
      'rollback',
      `${floor.appliance}: version ${now.version} has another manifest than before`,
      { data },
    );
  }
};
