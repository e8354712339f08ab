/**
 * Sealed profile, format 1 (docs/formats/profile.md): what follows a person from device to device. The file is an
 * envelope that the identity key signs, so that whoever has only a bearer token cannot put another in its place; its
 * payload is `number 4 | nonce 24 | tag 16 | JSON` under the profile key. The number outside is what a server compares
 * and sets; the same number inside is what a reader believes.
 */
import { type Static, Type } from '@collective/schema';
import { ByteReader } from './byte-reader.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX, PAYLOAD_TYPES, openEnvelope, requireSignatures, signEnvelope } from './envelope.js';
import { CollectiveError, hasCode } from './errors.js';
import { DISK_KEY_BYTES, type PersonKeys } from './person-keys.js';
import {
  base64urlField,
  digestField,
  nameField,
  nullable,
  numberField,
  publicKeyField,
  secondsField,
  secretField,
  strictObject,
  textField,
} from './schema-fields.js';
import { BOX_OVERHEAD_BYTES, unwrap, wrap } from './secret-box.js';

/** Of the file; what it may hold is a quarter less, because an envelope writes its payload as base64. */
export const PROFILE_BYTES_MAX = ENVELOPE_BYTES_MAX;
export const PROFILE_DEVICES_MAX = 100;
export const PROFILE_EPOCHS_MAX = 256;
export const PROFILE_SUBSCRIPTIONS_MAX = 256;
export const PROFILE_FORMER_IDENTITIES_MAX = 16;
/** Deleted subscriptions that are remembered: more than anybody's devices will ever still have at hand. */
export const PROFILE_DELETED_MAX = 512;
/** Of the newest of them it is kept what they were: they can be brought back. */
export const PROFILE_DELETED_WHOLE_MAX = 32;

const NUMBER_BYTES = 4;

export const subscriptionIdField = Type.String({ pattern: '^[0-9a-f]{32}$' });

const subscriptionFields = {
  appliance: nameField,
  name: textField({ min: 1, max: 100 }),
  /** The last snapshot that a device of the person committed. */
  head: nullable(
    strictObject({
      number: numberField,
      manifest: digestField,
      savedAt: secondsField,
      deviceName: textField({ min: 1, max: 100 }),
    }),
  ),
};

export const profileSchema = strictObject({
  format: Type.Literal(1),
  /** Grows by one with each change. */
  number: numberField,
  account: nameField,
  /** The pinned root of trust, and where and how its server was last reached. */
  repository: strictObject({
    identity: digestField,
    origin: textField({ min: 1, max: 300 }),
    pin: nullable(base64urlField(32)),
  }),
  devices: Type.Array(
    strictObject({ device: digestField, name: textField({ min: 1, max: 100 }), createdAt: secondsField }),
    { maxItems: PROFILE_DEVICES_MAX },
  ),
  /** The ring: ascending. Epoch 1 is derived from the person's secret when it is not listed. */
  epochs: Type.Array(strictObject({ epoch: numberField, secret: secretField, createdAt: secondsField }), {
    maxItems: PROFILE_EPOCHS_MAX,
  }),
  /** Identity keys of before a reset that was unlocked: certificates by them count as those by the present one. */
  formerIdentities: Type.Array(publicKeyField, { maxItems: PROFILE_FORMER_IDENTITIES_MAX }),
  /** Disk keys of before a reset that was unlocked: what the person's devices wrote to their disks then opens with them. */
  formerDiskKeys: Type.Optional(
    Type.Array(base64urlField(DISK_KEY_BYTES), { maxItems: PROFILE_FORMER_IDENTITIES_MAX }),
  ),
  subscriptions: Type.Array(strictObject({ id: subscriptionIdField, ...subscriptionFields }), {
    maxItems: PROFILE_SUBSCRIPTIONS_MAX,
  }),
  /** In the order in which they were deleted: no device lists one of them again. `was`: what it was, for bringing it back. */
  deletedSubscriptions: Type.Optional(
    Type.Array(
      strictObject({
        id: subscriptionIdField,
        deletedAt: secondsField,
        was: nullable(strictObject(subscriptionFields)),
      }),
      { maxItems: PROFILE_DELETED_MAX },
    ),
  ),
});
export type Profile = Static<typeof profileSchema>;
export type ProfileSubscription = Profile['subscriptions'][number];
export type ProfileEpoch = Profile['epochs'][number];

const codec = documentCodec(profileSchema, {
  what: 'profile',
  bytesMax: PROFILE_BYTES_MAX,
  rules: ({ devices, epochs, formerIdentities, formerDiskKeys = [], subscriptions, deletedSubscriptions = [] }) => {
    if (epochs.some(({ epoch }, at) => epoch <= (epochs[at - 1]?.epoch ?? 0))) throw malformed('epochs do not ascend');
    if (hasTwice(devices.map(({ device }) => device))) throw malformed('a device is listed twice');
    if (hasTwice([...subscriptions, ...deletedSubscriptions].map(({ id }) => id)))
      throw malformed('a subscription is listed twice');
    if (hasTwice(formerIdentities)) throw malformed('a former identity is listed twice');
    if (hasTwice(formerDiskKeys)) throw malformed('a former disk key is listed twice');
  },
});

type ProfileKeys = Pick<PersonKeys, 'identity' | 'profileKey'>;

/** The JSON in the box. */
export const encodeProfile = (profile: Profile): Buffer => codec.encode(profile);

/** Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeProfile = (bytes: Uint8Array): Profile => codec.decode(bytes);

/** The file. Errors: `malformed`; `too-large` above 262,144 bytes. */
export const sealProfile = (profile: Profile, { identity, profileKey }: ProfileKeys): Buffer => {
  const plain = encodeProfile(profile);
  const payload = Buffer.concat([Buffer.alloc(NUMBER_BYTES), wrap(profileKey, plain)]);
  payload.writeUInt32LE(profile.number, 0);
  plain.fill(0);
  return signEnvelope({ payloadType: PAYLOAD_TYPES.profile, payload, signers: [identity] });
};

/** What a server sees: whose it is and which number. Errors: `untrusted`, `bad-signature`, and those of the formats. */
export const readSealedProfile = (
  bytes: Uint8Array,
  identityKey: string,
): { readonly number: number; readonly box: Buffer } => {
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.profile });
  requireSignatures(envelope, [identityKey], { threshold: 1, what: 'profile' });
  const reader = new ByteReader(envelope.payload, 'profile');
  const number = reader.u32();
  const box = envelope.payload.subarray(NUMBER_BYTES);
  if (number === 0 || box.length <= BOX_OVERHEAD_BYTES) throw malformed(`number ${number}, box of ${box.length} bytes`);
  return { number, box };
};

/**
 * The profile, verified and opened. Errors: `untrusted` (another person's, or of before a reset), `bad-signature`;
 * `malformed` when the box does not open, or holds another number than the one outside.
 */
export const openProfile = (bytes: Uint8Array, { identity, profileKey }: ProfileKeys): Profile => {
  const { number, box } = readSealedProfile(bytes, identity.publicKey);
  const plain = openBox(profileKey, box);
  try {
    const profile = decodeProfile(plain);
    if (profile.number !== number) throw malformed(`number ${profile.number} inside, ${number} outside`);
    return profile;
  } finally {
    plain.fill(0);
  }
};

const openBox = (profileKey: Uint8Array, box: Uint8Array): Buffer => {
  try {
    return unwrap(profileKey, box);
  } catch (error) {
    if (hasCode(error, 'wrong-password')) throw malformed('the box does not open with the profile key');
    throw error;
  }
};

const hasTwice = (values: readonly string[]): boolean => new Set(values).size !== values.length;

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `profile: ${message}`);
