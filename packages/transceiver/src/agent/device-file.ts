/**
 * device.json: this device as the person's (docs/formats/keys.md, "On the transceiver's disk"). It opens with the
 * password and without a network: the device's seed and the person's secret lie in a secretbox under the wrapping key.
 */
import { type Static, Type } from '@collective/schema';
import {
  base64urlField,
  checkPasswordParameters,
  digestField,
  documentCodec,
  hkdf32,
  nameField,
  nullable,
  passwordParametersSchema,
  publicKeyField,
  strictObject,
  textField,
  unwrap,
  wrap,
  type PasswordParameters,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const SEED_BYTES = 32;
/** nonce 24, tag 16, device seed 32, person's secret 32 */
const BOX_BYTES = 24 + 16 + 2 * SEED_BYTES;
/** nonce 24, tag 16, device seed 32 */
const SEED_BOX_BYTES = 24 + 16 + SEED_BYTES;
const FILE_BYTES_MAX = 16_384;

const schema = strictObject({
  format: Type.Literal(1),
  account: nameField,
  repository: strictObject({
    origin: textField({ max: 300 }),
    identity: digestField,
    pin: nullable(base64urlField(32)),
  }),
  device: digestField,
  deviceName: textField({ max: 100 }),
  identityKey: publicKeyField,
  passwordParameters: passwordParametersSchema,
  box: base64urlField(BOX_BYTES),
  /** The seed again, under a key of the person's secret: it opens when the password was changed elsewhere. */
  seedBox: Type.Optional(base64urlField(SEED_BOX_BYTES)),
});
export type DeviceFile = Static<typeof schema>;

const codec = documentCodec(schema, {
  what: 'device.json',
  bytesMax: FILE_BYTES_MAX,
  rules: (file) => void checkPasswordParameters(file.passwordParameters),
});

/** Undefined when this home has no device yet. Errors: `malformed`, `weak-password-parameters`. */
export async function readDeviceFile(path: string): Promise<DeviceFile | undefined> {
  const bytes = await readIfThere(path);
  return bytes === undefined ? undefined : codec.decode(bytes);
}

export const writeDeviceFile = async (path: string, file: DeviceFile): Promise<void> =>
  writeDurably(path, codec.encode(file));

/** 32 bytes each; the caller erases them. */
export type DeviceSecrets = { readonly deviceSeed: Buffer; readonly personSecret: Buffer };

export const sealDeviceSecrets = (
  { deviceSeed, personSecret }: DeviceSecrets,
  wrappingKey: Uint8Array,
): { readonly box: string; readonly seedBox: string } => ({
  box: wrap(wrappingKey, Buffer.concat([deviceSeed, personSecret])).toString('base64url'),
  seedBox: wrap(seedKey(personSecret), deviceSeed).toString('base64url'),
});

/** Errors: `wrong-password`. */
export const openDeviceSecrets = ({ box }: DeviceFile, wrappingKey: Uint8Array): DeviceSecrets => {
  const opened = unwrap(wrappingKey, Buffer.from(box, 'base64url'));
  const secrets = {
    deviceSeed: Buffer.from(opened.subarray(0, SEED_BYTES)),
    personSecret: Buffer.from(opened.subarray(SEED_BYTES)),
  };
  opened.fill(0);
  return secrets;
};

/** Undefined for a file of before there was a second box. Errors: `wrong-password` when it is not this person's. */
export const openDeviceSeed = ({ seedBox }: DeviceFile, personSecret: Uint8Array): Buffer | undefined =>
  seedBox === undefined ? undefined : unwrap(seedKey(personSecret), Buffer.from(seedBox, 'base64url'));

const seedKey = (personSecret: Uint8Array): Buffer => hkdf32(personSecret, 'collective device file v1');

export type { PasswordParameters };
