/**
 * Device certificate and device login (docs/formats/keys.md). The certificate is signed by the person's identity key: a
 * server cannot make a device of a person. The login message is signed by the device key and names server, device and
 * nonce, so that a signature is good for one login at one repository.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { digestBytes } from './digest.js';
import { documentCodec } from './document.js';
import { PAYLOAD_TYPES, requireSignatures, openEnvelope, signEnvelope } from './envelope.js';
import { digestField, nameField, publicKeyField, secondsField, strictObject, textField } from './schema-fields.js';
import { type SigningKey } from './signing-key.js';

export const DEVICE_CERTIFICATE_BYTES_MAX = 4_096;
export const LOGIN_NONCE_BYTES = 32;

export const deviceCertificateSchema = strictObject({
  format: Type.Literal(1),
  account: nameField,
  /** The repository's identity. */
  repository: digestField,
  deviceKey: publicKeyField,
  deviceName: textField({ min: 1, max: 100 }),
  createdAt: secondsField,
});
export type DeviceCertificate = Static<typeof deviceCertificateSchema>;

const codec = documentCodec(deviceCertificateSchema, {
  what: 'device certificate',
  bytesMax: DEVICE_CERTIFICATE_BYTES_MAX,
});

/** The envelope file, signed by the person's identity key. */
export const signDeviceCertificate = (certificate: DeviceCertificate, identity: SigningKey): Buffer =>
  signEnvelope({
    payloadType: PAYLOAD_TYPES.deviceCertificate,
    payload: codec.encode(certificate),
    signers: [identity],
  });

/**
 * The certificate, if the identity key (base64url, known from elsewhere) signed it. The caller compares account and
 * repository. Errors: `untrusted`, `bad-signature`, and those of the formats.
 */
export const openDeviceCertificate = (bytes: Uint8Array, identityKey: string): DeviceCertificate => {
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.deviceCertificate });
  requireSignatures(envelope, [identityKey], { threshold: 1, what: 'device certificate' });
  return codec.decode(envelope.payload);
};

/** What a device signs to log in: `"collective device login v1" 00 | identity 32 | device keyid 32 | nonce 32`. */
export const deviceLoginMessage = (options: {
  readonly identity: Digest;
  readonly device: Digest;
  readonly nonce: Uint8Array;
}): Buffer => {
  if (options.nonce.length !== LOGIN_NONCE_BYTES)
    throw new RangeError(`a nonce has 32 bytes, not ${options.nonce.length}`);
  return Buffer.concat([
    Buffer.from('collective device login v1\0', 'ascii'),
    digestBytes(options.identity),
    digestBytes(options.device),
    options.nonce,
  ]);
};

/** What a publishing key signs to prove whose it is: `"collective publishing key v1" 00 | identity 32 | account`. */
export const publishingKeyMessage = (options: { readonly identity: Digest; readonly account: string }): Buffer =>
  Buffer.concat([
    Buffer.from('collective publishing key v1\0', 'ascii'),
    digestBytes(options.identity),
    Buffer.from(options.account, 'utf8'),
  ]);
