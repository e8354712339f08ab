/**
 * device.json: this device as the person's (docs/formats/keys.md, "On the transceiver's disk"). It opens with the
 * password and without a network: the device's seed and the person's secret lie in a secretbox under the wrapping key.
 */
import { type Static, Type } from 'typebox';
import {
  base64urlField,
  checkPasswordParameters,
  digestField,
  documentCodec,
  nameField,
  nullable,
  passwordParametersSchema,
  publicKeyField,
  strictObject,
  textField,
  type PasswordParameters,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const SEED_BYTES = 32;
/** nonce 24, tag 16, device seed 32, person's secret 32 */
const BOX_BYTES = 24 + 16 + 2 * SEED_BYTES;
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

export type { PasswordParameters };
