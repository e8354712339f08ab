/**
 * How an account comes onto a device (docs/formats/keys.md): accepting an invitation, a login with the password that opens
 * the person's secret, and a device key with its certificate. All of it in memory; the caller keeps it.
 */
import { hostname } from 'node:os';
import {
  CollectiveError,
  checkPasswordParameters,
  derivePasswordKeys,
  derivePersonKeys,
  hasCode,
  keyId,
  newPasswordParameters,
  newPersonSecret,
  newSigningKeySeed,
  parseRecoveryCode,
  recoveryKey,
  recoverySecret,
  signDeviceCertificate,
  signingKeyFromSeed,
  unwrap,
  wrap,
  type KeysFile,
  type PasswordKeys,
  type PasswordParameters,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import { sealDeviceSecrets, type DeviceFile } from './device-file.js';
import type { SessionKeys } from './session-file.js';

export type Enrolled = { readonly device: DeviceFile; readonly keys: SessionKeys };

/** A person's secret that the password has opened. The caller erases the keys. */
export type PasswordLogin = {
  readonly account: string;
  /** Scope `enrol`. */
  readonly token: string;
  readonly parameters: PasswordParameters;
  readonly passwordKeys: PasswordKeys;
  readonly secret: Buffer;
  readonly identityKey: string;
};

/** Makes the account, or after a reset its new secret. Errors: `not-found` for an invitation that was used, `malformed` (recovery code). */
export async function acceptInvitation(
  client: RepositoryClient,
  options: {
    readonly invite: string | undefined;
    readonly account: string;
    readonly password: string;
    readonly recoveryCode: string;
  },
): Promise<void> {
  const { invite, account, password } = options;
  if (invite === undefined) throw new CollectiveError('usage', 'The join link has no invitation.');
  const recoveryCode = parseRecoveryCode(options.recoveryCode);
  const passwordParameters = newPasswordParameters();
  const keys = await derivePasswordKeys(password, passwordParameters);
  const secret = newPersonSecret();
  const keysFile: KeysFile = {
    format: 1,
    identityKey: derivePersonKeys(secret).identity.publicKey,
    byPassword: wrap(keys.wrappingKey, secret).toString('base64url'),
    byRecoveryCode: wrap(recoveryKey(recoveryCode), secret).toString('base64url'),
  };
  const loginSecret = keys.loginSecret.toString('base64url');
  await client.call('acceptInvitation', {
    body: {
      ...{ token: invite, account, passwordParameters, loginSecret, keys: keysFile },
      recoverySecret: recoverySecret(recoveryCode).toString('base64url'),
    },
  });
  erase(keys, secret, recoveryCode);
}

/** What the server now says of how the password becomes keys. Errors: `weak-password-parameters`, also for less than `pinned`. */
export async function passwordParametersOf(
  client: RepositoryClient,
  account: string,
  pinned?: PasswordParameters,
): Promise<PasswordParameters> {
  return checkPasswordParameters(
    await client.call('passwordParameters', { params: { account } }).catch(weakParameters),
    pinned,
  );
}

/** Errors: `wrong-password`; `untrusted` when the server shows another identity key than the one in the secret. */
export async function passwordLogin(
  client: RepositoryClient,
  options: { readonly account: string; readonly password: string; readonly parameters: PasswordParameters },
): Promise<PasswordLogin> {
  const { account, password, parameters } = options;
  const passwordKeys = await derivePasswordKeys(password, parameters);
  const login = await client.call('loginPassword', {
    body: { account, loginSecret: passwordKeys.loginSecret.toString('base64url') },
  });
  const secret = unwrap(passwordKeys.wrappingKey, Buffer.from(login.keys.byPassword, 'base64url'));
  const identityKey = derivePersonKeys(secret).identity.publicKey;
  if (identityKey !== login.keys.identityKey) {
    throw new CollectiveError(
      'untrusted',
      `The server shows another identity key for ${account} than the one in the wrapped secret.`,
    );
  }
  return { account, token: login.token, parameters, passwordKeys, secret, identityKey };
}

/** A new device key, certified and registered. Erases the password keys. */
export async function registerDevice(
  client: RepositoryClient,
  login: PasswordLogin,
  options: { readonly repository: DeviceFile['repository']; readonly deviceName: string | undefined },
): Promise<Enrolled> {
  const { account, secret } = login;
  const { repository } = options;
  const deviceSeed = newSigningKeySeed();
  const deviceKey = signingKeyFromSeed(deviceSeed).publicKey;
  const deviceName = deviceNameOf(options.deviceName);
  const createdAt = Math.floor(Date.now() / 1000);
  const certificate = signDeviceCertificate(
    { format: 1, account, repository: repository.identity, deviceKey, deviceName, createdAt },
    derivePersonKeys(secret).identity,
  );
  await client.call('registerDevice', { token: login.token, body: { certificate: certificate.toString('base64') } });
  const device: DeviceFile = {
    format: 1,
    account,
    repository,
    device: keyId(deviceKey),
    deviceName,
    identityKey: login.identityKey,
    passwordParameters: login.parameters,
    ...sealDeviceSecrets({ deviceSeed, personSecret: secret }, login.passwordKeys.wrappingKey),
  };
  erase(login.passwordKeys);
  return { device, keys: { account, deviceSeed, personSecret: secret, since: createdAt, ring: [] } };
}

function deviceNameOf(asked: string | undefined): string {
  const name = (asked ?? hostname()).replace(/[\u0000-\u001f\u007f-\u009f]/g, '').slice(0, 100);
  return name === '' ? 'device' : name;
}

/** An answer that breaks the schema of password parameters is one that asks for too little. */
const weakParameters = (error: unknown): never => {
  if (hasCode(error, 'malformed')) {
    throw new CollectiveError(
      'weak-password-parameters',
      'The server asks for password parameters outside the limits (scrypt, N at least 2^17).',
      { cause: error },
    );
  }
  throw error;
};

export const erase = (keys: PasswordKeys, ...others: Buffer[]): void => {
  for (const buffer of [keys.loginSecret, keys.wrappingKey, ...others]) buffer.fill(0);
};
