/** The sealed profile and the ring in it: what a server, another person or an older state may try. */
import { describe, expect, it } from 'vitest';
import { PAYLOAD_TYPES, signEnvelope } from './envelope.js';
import { keyChangeMessage, type KeyChange } from './key-change.js';
import { currentEpoch, keysOfEpoch, newEpochSecret, ringOf, withNewEpoch } from './key-ring.js';
import { newPasswordParameters } from './password-parameters.js';
import { deriveEpochKeys, derivePersonKeys } from './person-keys.js';
import {
  PROFILE_EPOCHS_MAX,
  PROFILE_SUBSCRIPTIONS_MAX,
  type Profile,
  encodeProfile,
  openProfile,
  readSealedProfile,
  sealProfile,
} from './profile.js';
import { wrap } from './secret-box.js';
import { codeOf } from './testing/code-of.js';
import { countingBytes, goldenProfile } from './testing/golden-examples.js';
import { sha256 } from './digest.js';

const person = derivePersonKeys(countingBytes(32));
const stranger = derivePersonKeys(countingBytes(32, 1));

const sealed = (outside: number, box: Buffer, by = person): Buffer => {
  const payload = Buffer.concat([Buffer.alloc(4), box]);
  payload.writeUInt32LE(outside, 0);
  return signEnvelope({ payloadType: PAYLOAD_TYPES.profile, payload, signers: [by.identity] });
};

describe('sealed profile', () => {
  it('opens for the person, and shows a server nothing but its number', () => {
    const file = sealProfile(goldenProfile, person);
    expect(openProfile(file, person)).toEqual(goldenProfile);
    expect(readSealedProfile(file, person.identity.publicKey).number).toBe(4);
    const shown = file.toString('latin1') + readSealedProfile(file, person.identity.publicKey).box.toString('latin1');
    for (const secret of ['debian', 'laptop', goldenProfile.epochs[0]?.secret ?? ''])
      expect(shown).not.toContain(secret);
  });

  it("another person's, one signed by a stranger, and one of another box are refused", () => {
    const file = sealProfile(goldenProfile, person);
    expect(codeOf(() => openProfile(file, stranger))).toBe('untrusted');
    const plain = encodeProfile(goldenProfile);
    expect(codeOf(() => openProfile(sealed(4, wrap(person.profileKey, plain), stranger), person))).toBe('untrusted');
    expect(codeOf(() => openProfile(sealed(4, wrap(stranger.profileKey, plain)), person))).toBe('malformed');
  });

  it('one whose number outside is not the one inside is refused', () => {
    const box = wrap(person.profileKey, encodeProfile(goldenProfile));
    expect(codeOf(() => openProfile(sealed(4, box), person))).toBe('value');
    expect(codeOf(() => openProfile(sealed(5, box), person))).toBe('malformed');
    expect(codeOf(() => openProfile(sealed(0, box), person))).toBe('malformed');
    expect(codeOf(() => openProfile(sealed(4, Buffer.alloc(40)), person))).toBe('malformed');
  });

  it.each<[string, Partial<Profile>]>([
    [
      'epochs that do not ascend',
      { epochs: [3, 2].map((epoch) => ({ epoch, secret: newEpochSecret(), createdAt: 1 })) },
    ],
    ['an epoch twice', { epochs: [2, 2].map((epoch) => ({ epoch, secret: newEpochSecret(), createdAt: 1 })) }],
    ['a former disk key twice', { formerDiskKeys: [1, 1].map((byte) => Buffer.alloc(64, byte).toString('base64url')) }],
    ['a former disk key that is too short', { formerDiskKeys: [Buffer.alloc(32).toString('base64url')] }],
    ['a device twice', { devices: [...goldenProfile.devices, ...goldenProfile.devices] }],
    ['a subscription twice', { subscriptions: goldenProfile.subscriptions.flatMap((one) => [one, one]) }],
    [
      'a subscription that is listed and deleted',
      { deletedSubscriptions: goldenProfile.subscriptions.map(({ id }) => ({ id, deletedAt: 1, was: null })) },
    ],
    ['number 0', { number: 0 }],
    ['a device without a name', { devices: goldenProfile.devices.map((device) => ({ ...device, name: '' })) }],
  ])('with %s is refused', (_name, change) => {
    expect(codeOf(() => encodeProfile({ ...goldenProfile, ...change }))).toBe('malformed');
  });

  it('that does not fit its file is refused before it is sent', () => {
    const subscriptions = Array.from({ length: PROFILE_SUBSCRIPTIONS_MAX }, (_unused, at) => ({
      id: at.toString(16).padStart(32, '0'),
      appliance: 'a'.repeat(63),
      name: '\u{1f600}'.repeat(100),
      head: { number: 1, manifest: sha256(Buffer.alloc(0)), savedAt: 1, deviceName: '\u{1f600}'.repeat(100) },
    }));
    expect(codeOf(() => sealProfile({ ...goldenProfile, subscriptions }, person))).toBe('too-large');
  });
});

describe('ring of epochs', () => {
  it('derives epoch 1 and takes every other one from the profile', () => {
    const ring = ringOf(goldenProfile);
    expect(currentEpoch(ring)).toBe(2);
    expect(currentEpoch([])).toBe(1);
    expect(keysOfEpoch(1, ring, person)).toEqual(deriveEpochKeys(person.firstEpochSecret));
    expect(keysOfEpoch(2, ring, person)).toEqual(deriveEpochKeys(countingBytes(32, 64)));
    expect(codeOf(() => keysOfEpoch(3, ring, person))).toBe('not-found');
  });

  it('an epoch 1 that is listed, of before a reset, counts instead of the derived one', () => {
    const ring = [{ epoch: 1, secret: countingBytes(32, 9) }];
    expect(keysOfEpoch(1, ring, person)).toEqual(deriveEpochKeys(countingBytes(32, 9)));
  });

  it('grows by one with a secret that it does not have, and not when the same change is tried again', () => {
    const secret = newEpochSecret();
    const grown = withNewEpoch(goldenProfile, secret, 5);
    expect(grown.epochs.at(-1)).toEqual({ epoch: 3, secret, createdAt: 5 });
    expect(withNewEpoch(grown, secret, 6)).toBe(grown);
    const full = Array.from({ length: PROFILE_EPOCHS_MAX }, (_unused, at) => ({
      epoch: at + 2,
      secret: newEpochSecret(),
      createdAt: 1,
    }));
    expect(codeOf(() => withNewEpoch({ ...goldenProfile, epochs: full }, secret, 1))).toBe('too-large');
  });
});

describe('key change', () => {
  const box = countingBytes(72).toString('base64url');
  const change: KeyChange = {
    format: 1,
    account: 'anna',
    recovery: { recoverySecret: countingBytes(32, 7).toString('base64url'), byRecoveryCode: box },
    password: {
      parameters: newPasswordParameters(),
      loginSecret: countingBytes(32).toString('base64url'),
      byPassword: box,
    },
  };
  const message = (
    by: Partial<KeyChange>,
    options: { readonly nonce?: Buffer; readonly repository?: string } = {},
  ): string =>
    keyChangeMessage({
      identity: sha256(Buffer.from(options.repository ?? 'repository')),
      nonce: options.nonce ?? countingBytes(32),
      change: { ...change, ...by },
    }).toString('hex');

  it('is signed with everything that it says, for one nonce of one repository', () => {
    const messages = [
      message({}),
      message({ account: 'bob' }),
      message({ recovery: null }),
      message({ password: null }),
      message({}, { nonce: countingBytes(32, 1) }),
      message({}, { repository: 'other' }),
    ];
    expect(new Set(messages).size).toBe(messages.length);
    const { format, account, recovery, password } = change;
    expect(message({ password, recovery, account, format })).toBe(messages[0]);
  });

  it('that changes nothing is refused', () => {
    expect(codeOf(() => message({ password: null, recovery: null }))).toBe('malformed');
  });
});
