import { describe, expect, it } from 'vitest';
import { sha256 } from './digest.js';
import { PAYLOAD_TYPES, countValidSignatures, openEnvelope, requireSignatures, signEnvelope } from './envelope.js';
import { keyId, signingKeyFromSeed } from './signing-key.js';
import { codeOf } from './testing/code-of.js';
import { countingBytes } from './testing/golden-examples.js';

const [anna, bert, carl] = [1, 2, 3].map((first) => signingKeyFromSeed(countingBytes(32, first)));
if (anna === undefined || bert === undefined || carl === undefined) throw new Error('no keys');

const payload = Buffer.from('{"format":1}');
const payloadType = PAYLOAD_TYPES.heads;
const file = signEnvelope({ payloadType, payload, signers: [anna, bert] });
type EnvelopeFile = { payloadType: string; payload: string; signatures: { keyid: string; sig: string }[] };
const changed = (change: (envelope: EnvelopeFile) => void): Buffer => {
  const envelope = JSON.parse(file.toString()) as EnvelopeFile;
  change(envelope);
  return Buffer.from(JSON.stringify(envelope));
};
const open = (bytes: Uint8Array) => openEnvelope(bytes, { payloadType });
const require = (bytes: Uint8Array, threshold: number, ...keys: string[]) =>
  codeOf(() => requireSignatures(open(bytes), keys, { threshold, what: 'test' }));

describe('envelope', () => {
  it('is one line of JSON that gives back its payload and is named by the digest of the file', () => {
    expect(file.includes('\n')).toBe(false);
    expect(open(file).payload).toEqual(payload);
    expect(open(file).digest).toBe(sha256(file));
  });

  it('counts each trusted key that signed once, and no other', () => {
    const keys = [anna.publicKey, anna.publicKey, bert.publicKey, carl.publicKey];
    expect(countValidSignatures(open(file), keys)).toEqual([anna.publicKey, bert.publicKey]);
    expect(countValidSignatures(open(file), [])).toEqual([]);
  });

  it('tells a key that may not sign from a signature that does not match', () => {
    expect(require(file, 2, anna.publicKey, bert.publicKey, carl.publicKey)).toBe('value');
    expect(require(file, 1, carl.publicKey)).toBe('untrusted');
    expect(require(file, 2, anna.publicKey, carl.publicKey)).toBe('untrusted');
    const otherPayload = changed((envelope) => (envelope.payload = Buffer.from('{}').toString('base64')));
    expect(require(otherPayload, 1, anna.publicKey)).toBe('bad-signature');
  });

  it('does not take the signature of one payload type for another', () => {
    const asTrust = changed((envelope) => (envelope.payloadType = PAYLOAD_TYPES.trust));
    expect(codeOf(() => open(asTrust))).toBe('malformed');
    const envelope = openEnvelope(asTrust, { payloadType: PAYLOAD_TYPES.trust });
    expect(countValidSignatures(envelope, [anna.publicKey])).toEqual([]);
  });

  it('does not take a keyid as the source of a key', () => {
    const byCarl = changed((envelope) => {
      envelope.signatures = [{ keyid: keyId(anna.publicKey), sig: carl.sign(payload).toString('base64') }];
    });
    expect(require(byCarl, 1, anna.publicKey)).toBe('bad-signature');
  });

  it.each<[string, (envelope: EnvelopeFile) => unknown]>([
    ['no signature', (envelope) => (envelope.signatures = [])],
    [
      '17 signatures',
      (envelope) => (envelope.signatures = Array.from({ length: 17 }, () => ({ keyid: sha256(file), sig: '' }))),
    ],
    [
      'two signatures of one key',
      (envelope) => (envelope.signatures = envelope.signatures.concat(envelope.signatures)),
    ],
    [
      'a signature of 63 bytes',
      (envelope) => (envelope.signatures = [{ keyid: sha256(file), sig: Buffer.alloc(63).toString('base64') }]),
    ],
    ['base64url', (envelope) => (envelope.payload = '-_-_')],
    ['base64 without padding', (envelope) => (envelope.payload = 'YQ')],
    ['base64 with a line break', (envelope) => (envelope.payload = 'YWFh\n')],
    ['base64 with stray bits', (envelope) => (envelope.payload = 'YR==')],
    ['an unknown field', (envelope) => Object.assign(envelope, { extra: 1 })],
    [
      'a keyid in upper case',
      (envelope) =>
        (envelope.signatures = envelope.signatures.map((one) => ({ ...one, keyid: one.keyid.toUpperCase() }))),
    ],
  ])('refuses %s', (_name, change) => {
    expect(codeOf(() => open(changed(change)))).toBe('malformed');
  });

  it('refuses a payload type of tomorrow as an unknown format, and 256 KiB and a byte as too large', () => {
    const future = changed((envelope) => (envelope.payloadType = 'application/vnd.collective.heads.v2+json'));
    expect(codeOf(() => open(future))).toBe('unknown-format');
    expect(codeOf(() => open(Buffer.alloc(262_145, ' ')))).toBe('too-large');
    expect(codeOf(() => signEnvelope({ payloadType, payload: Buffer.alloc(200_000), signers: [anna] }))).toBe(
      'too-large',
    );
  });
});
