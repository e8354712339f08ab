/**
 * What a password becomes (docs/formats/keys.md): scrypt, then one secret that is sent and one key that stays. The
 * password itself never leaves the machine where it was typed.
 */
import { scrypt } from 'node:crypto';
import { CollectiveError } from './errors.js';
import { hkdf32 } from './hkdf.js';
import { type PasswordParameters, checkPasswordParameters } from './password-parameters.js';

export const PASSWORD_BYTES_MIN = 8;
export const PASSWORD_BYTES_MAX = 1_024;

export type PasswordKeys = {
  /** Sent to the server, which keeps a hash of it. */
  readonly loginSecret: Buffer;
  /** Opens the wrapped secret and the device file; stays. */
  readonly wrappingKey: Buffer;
};

/**
 * Takes 128 MiB and about half a second on another thread (N = 2^17; each step of logN doubles both). The caller
 * erases the keys when done. Errors: `weak-password-parameters`; `bad-request` for a password of an impossible length.
 */
export const derivePasswordKeys = async (password: string, parameters: PasswordParameters): Promise<PasswordKeys> => {
  const checked = checkPasswordParameters(parameters);
  const passwordBytes = Buffer.from(password.normalize('NFC'), 'utf8');
  try {
    checkPasswordBytes(passwordBytes.length);
    const stretched = await runScrypt(passwordBytes, checked);
    const keys = {
      loginSecret: hkdf32(stretched, 'collective login secret v1'),
      wrappingKey: hkdf32(stretched, 'collective wrapping key v1'),
    };
    stretched.fill(0);
    return keys;
  } finally {
    passwordBytes.fill(0);
  }
};

const checkPasswordBytes = (passwordBytes: number): void => {
  if (passwordBytes < PASSWORD_BYTES_MIN || passwordBytes > PASSWORD_BYTES_MAX) {
    throw new CollectiveError('bad-request', `A password has ${PASSWORD_BYTES_MIN} to ${PASSWORD_BYTES_MAX} bytes.`);
  }
};

const runScrypt = (password: Buffer, { logN, r, p, salt }: PasswordParameters): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const cost = 2 ** logN;
    // Node's default of 32 MiB is below what N = 2^17 needs: 128 × r × (N + p) and a little.
    const options = { cost, blockSize: r, parallelization: p, maxmem: 128 * r * (cost + p) + 1_048_576 };
    scrypt(password, Buffer.from(salt, 'base64url'), 32, options, (error, key) => {
      if (error === null) resolve(key);
      else reject(error);
    });
  });
