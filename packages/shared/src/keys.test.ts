/** Passwords, wrapped secrets, recovery codes, certificates and join links: what a person or a server gets wrong. */
import { describe, expect, it } from 'vitest';
import { type DeviceCertificate, openDeviceCertificate, signDeviceCertificate } from './device-certificate.js';
import { sha256 } from './digest.js';
import { hasCode } from './errors.js';
import { formatJoinLink, parseJoinLink } from './join-link.js';
import { decodeKeysFile, encodeKeysFile } from './keys-file.js';
import { derivePasswordKeys } from './password-keys.js';
import { checkPasswordParameters, newPasswordParameters } from './password-parameters.js';
import { derivePersonKeys, newPersonSecret } from './person-keys.js';
import { formatRecoveryCode, newRecoveryCode, parseRecoveryCode, recoveryKey } from './recovery-code.js';
import { unwrap, wrap } from './secret-box.js';
import { codeOf } from './testing/code-of.js';
import { countingBytes } from './testing/golden-examples.js';

describe('password parameters', () => {
  const good = newPasswordParameters();

  it('of a new account are accepted, with another salt each time', () => {
    expect(checkPasswordParameters(good)).toEqual(good);
    expect(newPasswordParameters().salt).not.toBe(good.salt);
  });

  it.each<[string, unknown]>([
    ['a cheaper logN', { ...good, logN: 16 }],
    ['a logN that fills the memory', { ...good, logN: 21 }],
    ['another r', { ...good, r: 1 }],
    ['no p', { ...good, p: 0 }],
    ['a p of 5', { ...good, p: 5 }],
    ['a short salt', { ...good, salt: 'AAAA' }],
    ['no salt', { ...good, salt: undefined }],
    ['another function', { ...good, kdf: 'md5' }],
    ['an unknown field', { ...good, iterations: 1 }],
    ['nothing', null],
  ])('with %s are refused, whatever the server says', (_name, value) => {
    expect(codeOf(() => checkPasswordParameters(value))).toBe('weak-password-parameters');
  });

  it('that are weaker than those seen before are refused, stronger ones are not', () => {
    const pinned = { ...good, logN: 18, p: 2 };
    expect(codeOf(() => checkPasswordParameters({ ...good, logN: 17, p: 2 }, pinned))).toBe('weak-password-parameters');
    expect(codeOf(() => checkPasswordParameters({ ...good, logN: 18, p: 1 }, pinned))).toBe('weak-password-parameters');
    expect(codeOf(() => checkPasswordParameters({ ...good, logN: 19, p: 2 }, pinned))).toBe('value');
  });

  it('are checked again before a password is put into them', async () => {
    await expect(derivePasswordKeys('long enough', { ...good, logN: 10 })).rejects.toSatisfy((error) =>
      hasCode(error, 'weak-password-parameters'),
    );
    await expect(derivePasswordKeys('short', good)).rejects.toSatisfy((error) => hasCode(error, 'bad-request'));
  });
});

describe('wrapped secret', () => {
  it('opens with its key, and with no other, and not when a bit of it was changed', () => {
    const key = countingBytes(32);
    const secret = newPersonSecret();
    const box = wrap(key, secret);
    expect(box.length).toBe(72);
    expect(unwrap(key, box)).toEqual(secret);
    expect(codeOf(() => unwrap(countingBytes(32, 1), box))).toBe('wrong-password');
    for (let at = 0; at < box.length; at += 1) {
      const changed = Buffer.from(box);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(codeOf(() => unwrap(key, changed))).toBe('wrong-password');
      expect(codeOf(() => unwrap(key, box.subarray(0, at)))).toBe('wrong-password');
    }
  });

  it('travels in a keys file and opens with the recovery code too', () => {
    const secret = newPersonSecret();
    const code = newRecoveryCode();
    const file = encodeKeysFile({
      format: 1,
      identityKey: derivePersonKeys(secret).identity.publicKey,
      byPassword: wrap(countingBytes(32), secret).toString('base64url'),
      byRecoveryCode: wrap(recoveryKey(code), secret).toString('base64url'),
    });
    const box = decodeKeysFile(file).byRecoveryCode ?? '';
    const typed = parseRecoveryCode(formatRecoveryCode(code).toLowerCase().replaceAll('-', ' '));
    expect(unwrap(recoveryKey(typed), Buffer.from(box, 'base64url'))).toEqual(secret);
  });
});

describe('recovery code', () => {
  it('has 7 groups of 4, and any single mistyped character but one in a thousand is found', () => {
    const text = formatRecoveryCode(countingBytes(16, 77));
    expect(text).toMatch(/^(?:[0-9A-HJKMNP-TV-Z]{4}-){6}[0-9A-HJKMNP-TV-Z]{4}$/);
    let missed = 0;
    let tried = 0;
    [...text].forEach((character, at) => {
      if (character === '-') return;
      for (const other of '0123456789ABCDEFGHJKMNPQRSTVWXYZ') {
        if (other === character) continue;
        tried += 1;
        if (codeOf(() => parseRecoveryCode(text.slice(0, at) + other + text.slice(at + 1))) === 'value') missed += 1;
      }
    });
    expect(tried).toBe(28 * 31);
    expect(missed).toBeLessThanOrEqual(5);
  });

  it('of another length or alphabet is refused', () => {
    for (const text of ['', 'ABCD', formatRecoveryCode(countingBytes(16)) + '0', 'U'.repeat(28)]) {
      expect(codeOf(() => parseRecoveryCode(text))).toBe('malformed');
    }
  });
});

describe('device certificate', () => {
  const person = derivePersonKeys(countingBytes(32));
  const certificate: DeviceCertificate = {
    format: 1,
    account: 'anna',
    repository: sha256(Buffer.from('repository')),
    deviceKey: person.publishing(7).publicKey,
    deviceName: 'laptop',
    createdAt: 1,
  };

  it('counts with the signature of the identity key, not with that of another key', () => {
    const file = signDeviceCertificate(certificate, person.identity);
    expect(openDeviceCertificate(file, person.identity.publicKey)).toEqual(certificate);
    expect(codeOf(() => openDeviceCertificate(file, person.publishing(0).publicKey))).toBe('untrusted');
  });

  it('has a device name without control characters', () => {
    for (const deviceName of ['', 'a\nb', 'x'.repeat(101)]) {
      expect(codeOf(() => signDeviceCertificate({ ...certificate, deviceName }, person.identity))).toBe('malformed');
    }
  });
});

describe('join link', () => {
  const identity = sha256(Buffer.from('identity'));
  const value = countingBytes(32).toString('base64url');

  it.each([
    { origin: 'https://repository.example', identity },
    { origin: 'https://repository.example:8443', identity, pin: value },
    { origin: 'https://[2001:db8::1]:8443', identity, invite: value },
    { origin: 'http://127.0.0.1:4000', identity, pin: value, invite: value },
    { origin: 'http://[::1]:4000', identity },
    { origin: 'http://localhost:4000', identity },
  ])('of $origin comes back as it was', (link) => {
    expect(parseJoinLink(formatJoinLink(link))).toEqual(link);
    expect(parseJoinLink(` ${formatJoinLink(link)}\n`)).toEqual(link);
  });

  const whole = formatJoinLink({ origin: 'https://a.example', identity, pin: value, invite: value });

  it.each([
    ['plain HTTP to another machine', whole.replace('https', 'http')],
    ['plain HTTP to a name that begins like loopback', whole.replace('https://a.example', 'http://127.0.0.1.example')],
    ['another scheme', whole.replace('https', 'ftp')],
    ['a path', whole.replace('/#', '/path#')],
    ['a query', whole.replace('/#', '/?a=b#')],
    ['a user', whole.replace('https://', 'https://user@')],
    ['no fragment', 'https://a.example/'],
    ['another version', whole.replace('#v1', '#v2')],
    ['the parts in another order', `https://a.example/#v1.${value}.invite.${value}.tls.${value}`],
    ['something behind', `${whole}.x`],
    ['a line break inside', whole.replace('#', '\n#')],
    ['an identity in another spelling', whole.replace(/v1\..{42}./, (text) => `${text.slice(0, -1)}B`)],
    ['a text that is no link', 'hello'],
    ['a very long text', `https://${'a'.repeat(2_000)}`],
  ])('with %s is refused', (_name, text) => {
    expect(codeOf(() => parseJoinLink(text))).toBe('usage');
  });
});
