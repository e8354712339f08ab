/** Vectors that others published, and numbers that Python's hashlib and hmac gave for the derivations of keys.md. */
import { scryptSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { deviceLoginMessage, publishingKeyMessage } from './device-certificate.js';
import { blockDigest, privateBlockDigest, sha256, zeroBlockDigest } from './digest.js';
import { preAuthenticationEncoding } from './envelope.js';
import { hkdf32 } from './hkdf.js';
import { derivePasswordKeys } from './password-keys.js';
import { deriveEpochKeys, derivePersonKeys } from './person-keys.js';
import { formatRecoveryCode, parseRecoveryCode, recoveryKey, recoverySecret } from './recovery-code.js';
import { signingKeyFromSeed, verifySignature } from './signing-key.js';
import { countingBytes } from './testing/golden-examples.js';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');

describe('Ed25519, RFC 8032 section 7.1', () => {
  const vectors = [
    {
      seed: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
      publicKey: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
      message: '',
      signature:
        'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
    },
    {
      seed: '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
      publicKey: '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
      message: '72',
      signature:
        '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
    },
    {
      seed: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
      publicKey: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
      message: 'af82',
      signature:
        '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
    },
  ];

  it.each(vectors)('the key with the seed $seed signs as published', ({ seed, publicKey, message, signature }) => {
    const key = signingKeyFromSeed(hex(seed));
    expect(Buffer.from(key.publicKey, 'base64url').toString('hex')).toBe(publicKey);
    expect(key.sign(hex(message)).toString('hex')).toBe(signature);
    expect(verifySignature(key.publicKey, hex(message), hex(signature))).toBe(true);
    expect(verifySignature(key.publicKey, hex(`${message}00`), hex(signature))).toBe(false);
  });

  it('a signature whose scalar is not reduced is refused, although the equation holds', () => {
    const [vector] = vectors;
    if (vector === undefined) throw new Error('no vector');
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    const scalar = hex(vector.signature).subarray(32).reverse();
    const unreduced = hex((BigInt(`0x${scalar.toString('hex')}`) + order).toString(16).padStart(64, '0')).reverse();
    const signature = Buffer.concat([hex(vector.signature).subarray(0, 32), unreduced]);
    const publicKey = hex(vector.publicKey).toString('base64url');
    expect(verifySignature(publicKey, Buffer.alloc(0), signature)).toBe(false);
  });

  it('a key that is no point of the curve, or no key at all, verifies nothing', () => {
    const noPoint = Buffer.alloc(32, 0xff).toString('base64url').slice(0, 42).concat('8');
    expect(verifySignature(noPoint, Buffer.alloc(0), Buffer.alloc(64))).toBe(false);
    const [vector] = vectors;
    const publicKey = hex(vector?.publicKey ?? '').toString('base64url');
    expect(verifySignature(publicKey, Buffer.alloc(0), hex(vector?.signature ?? ''))).toBe(true);
    // The same 32 bytes in another spelling: one key must not count as two.
    const respelled = publicKey.slice(0, 42) + 'p';
    expect(Buffer.from(respelled, 'base64url')).toEqual(hex(vector?.publicKey ?? ''));
    expect(verifySignature(respelled, Buffer.alloc(0), hex(vector?.signature ?? ''))).toBe(false);
    expect(verifySignature('short', Buffer.alloc(0), Buffer.alloc(64))).toBe(false);
    expect(verifySignature(noPoint, Buffer.alloc(0), Buffer.alloc(63))).toBe(false);
  });
});

describe('digests', () => {
  it('are SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 4231, case 2)', () => {
    expect(blockDigest(Buffer.from('abc'))).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
    expect(privateBlockDigest(Buffer.from('Jefe'), Buffer.from('what do ya want for nothing?'))).toBe(
      '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
    );
    expect(zeroBlockDigest(4_096)).toBe(sha256(Buffer.alloc(4_096)));
  });
});

describe('derivations', () => {
  it('HKDF is that of RFC 5869 (case 3: empty salt and info)', () => {
    expect(hkdf32(Buffer.alloc(22, 0x0b), '').toString('hex')).toBe(
      '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d',
    );
  });

  it('scrypt is that of RFC 7914', () => {
    const key = scryptSync('pleaseletmein', 'SodiumChloride', 64, { N: 16_384, r: 8, p: 1 });
    expect(key.toString('hex')).toBe(
      '7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887',
    );
  });

  it('a password gives the login secret and wrapping key that Python gets, however its umlauts were typed', async () => {
    const parameters = { kdf: 'scrypt', logN: 17, r: 8, p: 1, salt: countingBytes(16).toString('base64url') } as const;
    const expected = {
      loginSecret: hex('debf253a915c87d83555894a44d4b3cf87b8b639faa52e698a3e0e957bc3a496'),
      wrappingKey: hex('361fb6a5a98dd93097e0bf05a44c8256a5ce198965d668817f727bbe610de141'),
    };
    expect(await derivePasswordKeys('Grüße, Welt!', parameters)).toEqual(expected);
    expect(await derivePasswordKeys('Gru\u0308ße, Welt!', parameters)).toEqual(expected);
  });

  it("a person's secret gives the keys that Python gets", () => {
    const person = derivePersonKeys(countingBytes(32));
    const epoch = deriveEpochKeys(person.firstEpochSecret);
    expect(person.identity.publicKey).toBe(
      signingKeyFromSeed(hex('b191faef0433e622070a53cfd131e62b1470ae09394a9425fd8c9610ea2d90b8')).publicKey,
    );
    expect(person.publishing(0).publicKey).toBe(
      signingKeyFromSeed(hex('1a746bcde289a46119b1e4fca4d09a76c0ac0a047376ec89e27aede90f116409')).publicKey,
    );
    expect(person.profileKey.toString('hex')).toBe('1baba2cdb450f190103aea339c413b9e9c0902abbef0ed930685699c3ecf8a5a');
    expect(person.diskKey.toString('hex')).toBe(
      '674553ba8e58d0d3cc5671653baf52bba76616fe7de776d14057ecf3876402be20a557af563e617b96c5fa00f507cd66d5307a67a30b63ac796289db6555e181',
    );
    expect(person.firstEpochSecret.toString('hex')).toBe(
      '1dd0f1768fcd396f016dfdf79a26eca8f0584f51c25e2ab1fbdd1c88c175d139',
    );
    expect(epoch.blockNameKey.toString('hex')).toBe('f28a98dd1ca9da100a6c3ffaf829495f9ae40e6e6ce13fd59cae81866a4c9908');
    expect(epoch.chunkKey.toString('hex')).toBe('e90f90f9ee7545c213f7a5a8aaa5df55dac11ec13c2b5fb8e76c9594f555e916');
  });

  it('a recovery code is written as Python writes it, and gives its key', () => {
    expect(formatRecoveryCode(countingBytes(16))).toBe('000G-40R4-0M30-E209-185G-R38E-1WQS');
    expect(parseRecoveryCode('ooog 4Or4 0m30 e209 i85g-r38e-lwqs')).toEqual(countingBytes(16));
    expect(recoveryKey(countingBytes(16)).toString('hex')).toBe(
      '56e41461cd6dda2bd6ba6d121fb2612a7ba56dd79652bf5aab012b687189a644',
    );
    expect(recoverySecret(countingBytes(16)).toString('hex')).toBe(
      'c50ae8c2b5d2d47c519c26e1ecb20bffea152eb09994faebaa41c1408a07c792',
    );
  });
});

describe('signed bytes', () => {
  it("DSSE's pre-authentication encoding is that of its specification", () => {
    expect(preAuthenticationEncoding('http://example.com/HelloWorld', Buffer.from('hello world')).toString()).toBe(
      'DSSEv1 29 http://example.com/HelloWorld 11 hello world',
    );
  });

  it('a login and a publishing key are signed under different contexts', () => {
    const identity = sha256(Buffer.from('identity'));
    const login = deviceLoginMessage({ identity, device: sha256(Buffer.from('device')), nonce: countingBytes(32) });
    expect(login.subarray(0, 27).toString('latin1')).toBe('collective device login v1\0');
    expect(login.length).toBe(27 + 96);
    const proof = publishingKeyMessage({ identity, account: 'anna' });
    expect(proof.toString('latin1')).toBe(`collective publishing key v1\0${hex(identity).toString('latin1')}anna`);
  });
});
