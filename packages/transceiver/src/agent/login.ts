/**
 * Login (DESIGN §7, docs/formats/keys.md): accept an invitation, enrol this device for an existing account, or open the
 * device that this home holds, with or without a network. The server is checked before anything is sent, and nothing of
 * the home changes before everything has been accepted.
 */
import { hostname } from 'node:os';
import {
  CollectiveError,
  checkPasswordParameters,
  derivePasswordKeys,
  derivePersonKeys,
  formatRecoveryCode,
  hasCode,
  keyId,
  newPasswordParameters,
  newPersonSecret,
  newRecoveryCode,
  newSigningKeySeed,
  parseJoinLink,
  parseRecoveryCode,
  recoveryKey,
  signDeviceCertificate,
  signingKeyFromSeed,
  unwrap,
  wrap,
  type JoinLink,
  type KeysFile,
  type PasswordKeys,
  type PasswordParameters,
} from '@collective/shared';
import { RepositoryClient } from '../repository/repository-client.js';
import type { RepositoryAddress } from '../repository/pinned-connector.js';
import type { LoginPrepareReply, LoginRequest } from './agent-types.js';
import { writeDeviceFile, type DeviceFile } from './device-file.js';
import type { Home } from '../home.js';
import { isAway, trustSource } from './repository-access.js';
import type { SessionKeys } from './session-file.js';
import { TrustClient } from './trust-client.js';

/** Where a login goes, from what the person gave and what the home holds. */
type Target =
  | { readonly kind: 'device'; readonly device: DeviceFile; readonly link: JoinLink | undefined }
  | { readonly kind: 'invitation' | 'account'; readonly link: JoinLink };

/** Says what a login to `target` needs. Checks the server. Errors: `usage`, `exists`, `wrong-server`, `repository-unreachable`. */
export async function prepareLogin(
  target: string | undefined,
  device: DeviceFile | undefined,
): Promise<LoginPrepareReply> {
  const found = readTarget(target, device);
  if (found.kind === 'device') {
    if (found.link !== undefined) await introduce(addressOf(found.link), found.link.identity).catch(unlessAway);
    return { kind: 'device', origin: found.device.repository.origin, account: found.device.account };
  }
  await introduce(addressOf(found.link), found.link.identity);
  return {
    kind: found.kind,
    origin: found.link.origin,
    ...(found.kind === 'invitation' ? { recoveryCode: formatRecoveryCode(newRecoveryCode()) } : {}),
  };
}

export type LoginResult = { readonly device: DeviceFile; readonly keys: SessionKeys; readonly isNewDevice: boolean };

/**
 * Logs in; a new device is registered and kept in the home. Errors: `wrong-password`, `wrong-server`,
 * `weak-password-parameters`, `not-allowed` (an invitation that was used), `usage`, `repository-unreachable`.
 */
export async function logIn(request: LoginRequest, device: DeviceFile | undefined, home: Home): Promise<LoginResult> {
  const target = readTarget(request.target, device);
  if (target.kind === 'device') return openDevice(request, target.device, target.link, home);
  const account = accountOf(request);
  const { link } = target;
  const client = new RepositoryClient(addressOf(link));
  try {
    // Nothing is sent to a server that is not ours.
    const { files } = await TrustClient.introduce(trustSource(client), link.identity);
    if (target.kind === 'invitation') await acceptInvitation(client, link, account, request);
    const enrolled = await enrol(client, link, account, request);
    await TrustClient.keep(home, files);
    await writeDeviceFile(home.deviceFile, enrolled.device);
    return { ...enrolled, isNewDevice: true };
  } finally {
    await client.close();
  }
}

function readTarget(target: string | undefined, device: DeviceFile | undefined): Target {
  if (target === undefined) {
    if (device === undefined)
      throw new CollectiveError('usage', 'This home has no account yet: give the join link of your invitation.');
    return { kind: 'device', device, link: undefined };
  }
  if (!target.includes('#')) {
    const origin = originOf(target);
    if (device?.repository.origin === origin) return { kind: 'device', device, link: undefined };
    throw new CollectiveError(
      'usage',
      `This home does not know ${origin}: give the whole join link (with everything behind the #), which says who the server must be.`,
    );
  }
  const link = parseJoinLink(target);
  if (device === undefined) return { kind: link.invite === undefined ? 'account' : 'invitation', link };
  if (device.repository.identity !== link.identity || link.invite !== undefined) {
    throw new CollectiveError(
      'exists',
      `This home belongs to ${device.account} at ${device.repository.origin}: use another one with --home DIR.`,
      {
        data: { account: device.account, origin: device.repository.origin },
      },
    );
  }
  return { kind: 'device', device, link };
}

function originOf(text: string): string {
  try {
    return new URL(text).origin;
  } catch {
    throw new CollectiveError('usage', `"${text}" is neither a join link nor a web address.`);
  }
}

async function introduce(address: RepositoryAddress, identity: JoinLink['identity']): Promise<void> {
  const client = new RepositoryClient(address);
  try {
    await TrustClient.introduce(trustSource(client), identity);
  } finally {
    await client.close();
  }
}

async function acceptInvitation(
  client: RepositoryClient,
  link: JoinLink,
  account: string,
  request: LoginRequest,
): Promise<void> {
  if (link.invite === undefined) throw new CollectiveError('usage', 'The join link has no invitation.');
  const recoveryCode = parseRecoveryCode(request.recoveryCode ?? formatRecoveryCode(newRecoveryCode()));
  const passwordParameters = newPasswordParameters();
  const keys = await derivePasswordKeys(request.password, passwordParameters);
  const secret = newPersonSecret();
  const keysFile: KeysFile = {
    format: 1,
    identityKey: derivePersonKeys(secret).identity.publicKey,
    byPassword: wrap(keys.wrappingKey, secret).toString('base64url'),
    byRecoveryCode: wrap(recoveryKey(recoveryCode), secret).toString('base64url'),
  };
  const loginSecret = keys.loginSecret.toString('base64url');
  await client.call('acceptInvitation', {
    body: { token: link.invite, account, passwordParameters, loginSecret, keys: keysFile },
  });
  erase(keys, secret);
}

/** Password login, the wrapped secret, a device key with its certificate: all of it in memory. */
async function enrol(
  client: RepositoryClient,
  link: JoinLink,
  account: string,
  request: LoginRequest,
): Promise<{ readonly device: DeviceFile; readonly keys: SessionKeys }> {
  const passwordParameters: PasswordParameters = checkPasswordParameters(
    await client.call('passwordParameters', { params: { account } }).catch(weakParameters),
  );
  const passwordKeys = await derivePasswordKeys(request.password, passwordParameters);
  const login = await client.call('loginPassword', {
    body: { account, loginSecret: passwordKeys.loginSecret.toString('base64url') },
  });
  const secret = unwrap(passwordKeys.wrappingKey, Buffer.from(login.keys.byPassword, 'base64url'));
  const person = derivePersonKeys(secret);
  if (person.identity.publicKey !== login.keys.identityKey) {
    throw new CollectiveError(
      'untrusted',
      `The server shows another identity key for ${account} than the one in the wrapped secret.`,
    );
  }
  const deviceSeed = newSigningKeySeed();
  const deviceKey = signingKeyFromSeed(deviceSeed).publicKey;
  const deviceName = deviceNameOf(request);
  const createdAt = Math.floor(Date.now() / 1000);
  const certificate = signDeviceCertificate(
    { format: 1, account, repository: link.identity, deviceKey, deviceName, createdAt },
    person.identity,
  );
  await client.call('registerDevice', { token: login.token, body: { certificate: certificate.toString('base64') } });
  const device: DeviceFile = {
    format: 1,
    account,
    repository: { origin: link.origin, identity: link.identity, pin: link.pin ?? null },
    device: keyId(deviceKey),
    deviceName,
    identityKey: person.identity.publicKey,
    passwordParameters,
    box: wrap(passwordKeys.wrappingKey, Buffer.concat([deviceSeed, secret])).toString('base64url'),
  };
  erase(passwordKeys);
  return { device, keys: { account, deviceSeed, personSecret: secret, since: createdAt } };
}

/** Opens the device of this home; the join link may say that the server has moved, and must name the same repository. */
async function openDevice(
  request: LoginRequest,
  device: DeviceFile,
  link: JoinLink | undefined,
  home: Home,
): Promise<LoginResult> {
  if (request.account !== undefined && request.account !== device.account) {
    throw new CollectiveError(
      'exists',
      `This home belongs to ${device.account}: use another one for ${request.account} with --home DIR.`,
    );
  }
  const passwordKeys = await derivePasswordKeys(request.password, device.passwordParameters);
  const opened = unwrap(passwordKeys.wrappingKey, Buffer.from(device.box, 'base64url'));
  const keys: SessionKeys = {
    account: device.account,
    deviceSeed: Buffer.from(opened.subarray(0, 32)),
    personSecret: Buffer.from(opened.subarray(32, 64)),
    since: Math.floor(Date.now() / 1000),
  };
  erase(passwordKeys, opened);
  const hasMoved =
    link !== undefined && (link.origin !== device.repository.origin || (link.pin ?? null) !== device.repository.pin);
  if (!hasMoved) return { device, keys, isNewDevice: false };
  await introduce(addressOf(link), link.identity);
  const moved: DeviceFile = {
    ...device,
    repository: { ...device.repository, origin: link.origin, pin: link.pin ?? null },
  };
  await writeDeviceFile(home.deviceFile, moved);
  return { device: moved, keys, isNewDevice: false };
}

function accountOf(request: LoginRequest): string {
  if (request.account === undefined || request.account === '')
    throw new CollectiveError('usage', 'Say which account with --account NAME.');
  return request.account;
}

function deviceNameOf(request: LoginRequest): string {
  const name = (request.deviceName ?? hostname()).replace(/[\u0000-\u001f\u007f-\u009f]/g, '').slice(0, 100);
  return name === '' ? 'device' : name;
}

const addressOf = (link: JoinLink): RepositoryAddress => ({
  origin: link.origin,
  ...(link.pin === undefined ? {} : { pin: link.pin }),
});

const unlessAway = (error: unknown): void => {
  if (!isAway(error)) throw error;
};

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

const erase = (keys: PasswordKeys, ...others: Buffer[]): void => {
  for (const buffer of [keys.loginSecret, keys.wrappingKey, ...others]) buffer.fill(0);
};
