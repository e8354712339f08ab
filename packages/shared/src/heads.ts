/**
 * Heads (docs/formats/trust.md): the version for all of each appliance, its candidates and whether one is mandatory,
 * numbered and signed by the server's heads key. They are the same for everybody.
 * What a client has seen only grows: a lower number, a lower version or another manifest for a version is a rollback,
 * unless a trust file that the client has taken since says from where to count again.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX, PAYLOAD_TYPES, requireSignatures, openEnvelope } from './envelope.js';
import { CollectiveError } from './errors.js';
import { digestField, integerField, nameField, numberField, secondsField, strictObject } from './schema-fields.js';
import { type TrustFile } from './trust-file.js';

const headSchema = strictObject({ appliance: nameField, version: numberField, manifest: digestField });

/** Versions and candidates together: whatever their names are, they fit one envelope with all marks. */
export const HEADS_MAX = 1_000;
export const MANDATORY_MAX = 100;

export const mandatorySchema = strictObject({
  appliance: nameField,
  /** No older one is to be used. */
  version: numberField,
  from: secondsField,
  /** For so long after `from` an older one starts where the repository cannot be reached. */
  graceDays: integerField({ min: 0, max: 3_650 }),
});
export type MandatoryMark = Static<typeof mandatorySchema>;

export const headsSchema = strictObject({
  format: Type.Literal(1),
  number: numberField,
  /** Number of the newest trust file, so that keeping back a revocation needs the heads key. */
  trust: numberField,
  createdAt: secondsField,
  expiresAt: secondsField,
  heads: Type.Array(headSchema, { maxItems: HEADS_MAX }),
  /** Versions for named people only; a letter says for whom. Absent: there are none. */
  candidates: Type.Optional(Type.Array(headSchema, { minItems: 1, maxItems: HEADS_MAX })),
  /** Absent: there are none. */
  mandatory: Type.Optional(Type.Array(mandatorySchema, { minItems: 1, maxItems: MANDATORY_MAX })),
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
    const { candidates = [], mandatory = [] } = heads;
    if (!isSorted(heads.heads) || !isSorted(mandatory)) {
      throw new CollectiveError('malformed', 'heads: names are not sorted and distinct');
    }
    const isInOrder = candidates.every((next, at) => {
      const before = candidates[at - 1];
      if (before === undefined || before.appliance < next.appliance) return true;
      return before.appliance === next.appliance && before.version < next.version;
    });
    if (!isInOrder) throw new CollectiveError('malformed', 'heads: candidates are not sorted and distinct');
    const isForAll = ({ appliance, version }: Head): boolean =>
      heads.heads.some((head) => head.appliance === appliance && head.version === version);
    if (candidates.some(isForAll)) throw new CollectiveError('malformed', 'heads: a candidate is the version for all');
    if (heads.heads.length + candidates.length > HEADS_MAX)
      throw new CollectiveError('malformed', `heads: more than ${HEADS_MAX} versions`);
    if (heads.expiresAt < heads.createdAt) throw new CollectiveError('malformed', 'heads: expired before it was made');
  },
});

type Head = Static<typeof headSchema>;

/** Compared as code units: names are ASCII. */
const isSorted = (entries: readonly { readonly appliance: string }[]): boolean =>
  entries.every(({ appliance }, at) => at === 0 || appliance > (entries[at - 1]?.appliance ?? ''));

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
  const heads = new Map<string, SeenHead>(next.heads.map((head) => [head.appliance, head]));
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
