import { describe, expect, it } from 'vitest';
import { sha256 } from './digest.js';
import { encodeHeads, HEADS_MAX, MANDATORY_MAX, type Heads } from './heads.js';
import { PAYLOAD_TYPES, signEnvelope } from './envelope.js';
import { encodeLetter, requireLetter, signLetter } from './letter.js';
import { newSigningKeySeed, signingKeyFromSeed } from './signing-key.js';
import { codeOf } from './testing/code-of.js';

const key = signingKeyFromSeed(newSigningKeySeed());
const manifest = sha256(Buffer.from('manifest'));
const wanted = { appliance: 'debian', version: 2, manifest, account: 'ursula' };
const check = (bytes: Uint8Array, expected: Parameters<typeof requireLetter>[2] = wanted): void =>
  requireLetter(bytes, [key.publicKey], expected);

describe('a letter', () => {
  it('is for the version, the manifest and the account that it names, and for no other', () => {
    const bytes = signLetter(wanted, key);
    check(bytes);
    for (const other of [
      { ...wanted, appliance: 'arch' },
      { ...wanted, version: 3 },
      { ...wanted, manifest: sha256(Buffer.from('other')) },
      { ...wanted, account: 'otto' },
      { ...wanted, account: null },
    ]) {
      expect(codeOf(() => check(bytes, other))).toBe('untrusted');
    }
    expect(codeOf(() => check(signLetter({ ...wanted, account: null }, key)))).toBe('untrusted');
  });

  it('counts by a key that may publish the appliance only', () => {
    const thief = signingKeyFromSeed(newSigningKeySeed());
    expect(codeOf(() => check(signLetter(wanted, thief)))).toBe('untrusted');
    expect(codeOf(() => requireLetter(signLetter(wanted, key), [], wanted))).toBe('untrusted');
  });

  it('is not what was signed as something else', () => {
    const payload = encodeLetter({ format: 1, ...wanted });
    const bytes = signEnvelope({ payloadType: PAYLOAD_TYPES.version, payload, signers: [key] });
    expect(codeOf(() => check(bytes))).toBe('malformed');
  });
});

describe('heads with candidates and mandatory versions', () => {
  const head = (appliance: string, version: number) => ({ appliance, version, manifest });
  const heads = (change: Partial<Heads>): Heads => ({
    format: 1,
    number: 1,
    trust: 1,
    createdAt: 1,
    expiresAt: 2,
    heads: [head('a', 3)],
    ...change,
  });

  it('fit one envelope when they are as long as they may be', () => {
    const name = (at: number): string => String(at).padStart(63, '0');
    const largest = (at: number) => head(name(at), 2 ** 31 - 1);
    const all = Array.from({ length: HEADS_MAX }, (_none, at) => largest(at));
    const value = heads({
      number: 2 ** 31 - 1,
      trust: 2 ** 31 - 1,
      createdAt: Number.MAX_SAFE_INTEGER,
      expiresAt: Number.MAX_SAFE_INTEGER,
      heads: all.slice(0, HEADS_MAX / 2),
      candidates: all.slice(HEADS_MAX / 2),
      mandatory: all.slice(0, MANDATORY_MAX).map(({ appliance, version }) => ({
        appliance,
        version,
        from: Number.MAX_SAFE_INTEGER,
        graceDays: 3_650,
      })),
    });
    const payload = encodeHeads(value);
    expect(() => signEnvelope({ payloadType: PAYLOAD_TYPES.heads, payload, signers: [key] })).not.toThrow();
  });

  it.each<[string, Partial<Heads>]>([
    ['a candidate that is the version for all', { candidates: [head('a', 3)] }],
    ['candidates out of order', { candidates: [head('a', 5), head('a', 4)] }],
    ['a candidate twice', { candidates: [head('a', 4), head('a', 4)] }],
    ['candidates of appliances out of order', { candidates: [head('b', 4), head('a', 4)] }],
    ['no candidate at all', { candidates: [] }],
    [
      'two marks of an appliance',
      { mandatory: [1, 2].map((version) => ({ appliance: 'a', version, from: 1, graceDays: 0 })) },
    ],
  ])('are refused with %s', (_what, change) => {
    expect(codeOf(() => encodeHeads(heads(change)))).toBe('malformed');
  });
});
