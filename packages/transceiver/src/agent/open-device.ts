/**
 * Opens the device that this home holds: with the password and without a network; or, when the password was changed
 * elsewhere or recovered, with what the server now has. The device stays the same as long as the person's secret does.
 */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CollectiveError, derivePasswordKeys, hasCode, type JoinLink } from '@collective/shared';
import type { Home } from '../home.js';
import type { RepositoryAddress } from '../repository/pinned-connector.js';
import { RepositoryClient } from '../repository/repository-client.js';
import {
  openDeviceSecrets,
  openDeviceSeed,
  readDeviceFile,
  sealDeviceSecrets,
  writeDeviceFile,
  type DeviceFile,
} from './device-file.js';
import { erase, passwordLogin, passwordParametersOf, registerDevice, type Enrolled } from './enrol.js';
import { isAway, trustSource } from './repository-access.js';
import type { SessionKeys } from './session-file.js';
import { introduce } from './introduction.js';

export type OpenedDevice = Enrolled & { readonly isNewDevice: boolean };

/** The device with the password that it knows. Needs no network. Errors: `wrong-password`. */
export async function openWithPassword(device: DeviceFile, password: string): Promise<SessionKeys> {
  const passwordKeys = await derivePasswordKeys(password, device.passwordParameters);
  try {
    const secrets = openDeviceSecrets(device, passwordKeys.wrappingKey);
    return { account: device.account, ...secrets, since: Math.floor(Date.now() / 1000), ring: [] };
  } finally {
    erase(passwordKeys);
  }
}

/**
 * The device with a password that it does not know: asks the server, which must be the right one, and keeps the new
 * password here. Undefined when the server knows of no other password, or cannot be asked. Errors: `wrong-password`,
 * `weak-password-parameters`, `wrong-server`, `untrusted`.
 */
export async function openWithServer(
  device: DeviceFile,
  options: { readonly password: string; readonly home: Home; readonly link: JoinLink | undefined },
): Promise<OpenedDevice | undefined> {
  const { password, home } = options;
  const repository = repositoryOf(device, options.link);
  const client = new RepositoryClient(addressOf(repository));
  try {
    await introduce(trustSource(client), repository.identity);
    const { account, passwordParameters: pinned } = device;
    const parameters = await passwordParametersOf(client, account, pinned);
    if (parameters.salt === pinned.salt) return undefined;
    const login = await passwordLogin(client, { account, password, parameters });
    const deviceSeed = login.identityKey === device.identityKey ? openDeviceSeed(device, login.secret) : undefined;
    if (deviceSeed === undefined) {
      // After a reset: what this home holds opens only with the old password, and opens what is locked.
      if (login.identityKey !== device.identityKey) await writeDeviceFile(lockedDeviceFile(home, device), device);
      const enrolled = await registerDevice(client, login, { repository, deviceName: device.deviceName });
      await writeDeviceFile(home.deviceFile, enrolled.device);
      return { ...enrolled, isNewDevice: true };
    }
    const secrets = { deviceSeed, personSecret: login.secret };
    const renewed: DeviceFile = {
      ...device,
      repository,
      passwordParameters: parameters,
      ...sealDeviceSecrets(secrets, login.passwordKeys.wrappingKey),
    };
    erase(login.passwordKeys);
    await writeDeviceFile(home.deviceFile, renewed);
    const keys = { account, ...secrets, since: Math.floor(Date.now() / 1000), ring: [] };
    return { device: renewed, keys, isNewDevice: false };
  } catch (error) {
    if (isAway(error)) return undefined;
    throw error;
  } finally {
    await client.close();
  }
}

/** With the password, wherever it was set. The join link may say that the server has moved. */
export async function openDevice(
  device: DeviceFile,
  options: { readonly password: string; readonly home: Home; readonly link: JoinLink | undefined },
): Promise<OpenedDevice> {
  const { password, home, link } = options;
  let keys: SessionKeys;
  try {
    keys = await openWithPassword(device, password);
  } catch (error) {
    if (!hasCode(error, 'wrong-password')) throw error;
    const opened = await openWithServer(device, options);
    if (opened === undefined) throw error;
    return opened;
  }
  const repository = repositoryOf(device, link);
  const { origin, pin } = device.repository;
  if (repository.origin === origin && repository.pin === pin) return { device, keys, isNewDevice: false };
  const client = new RepositoryClient(addressOf(repository));
  try {
    await introduce(trustSource(client), repository.identity);
  } finally {
    await client.close();
  }
  const moved: DeviceFile = { ...device, repository };
  await writeDeviceFile(home.deviceFile, moved);
  return { device: moved, keys, isNewDevice: false };
}

/** What is locked in this home since a reset: devices with the secret of before. */
export async function lockedDevices(home: Home): Promise<DeviceFile[]> {
  const folder = dirname(home.deviceFile);
  const names = (await readdir(folder)).filter((name) => /^device-locked-[0-9a-f]{16}\.json$/.test(name));
  const files = await Promise.all(names.sort().map(async (name) => readDeviceFile(join(folder, name))));
  return files.filter((file) => file !== undefined);
}

const lockedDeviceFile = (home: Home, { device }: DeviceFile): string =>
  join(dirname(home.deviceFile), `device-locked-${device.slice(0, 16)}.json`);

export const repositoryOf = (device: DeviceFile, link: JoinLink | undefined): DeviceFile['repository'] =>
  link === undefined ? device.repository : { origin: link.origin, identity: link.identity, pin: link.pin ?? null };

export const addressOf = ({
  origin,
  pin,
}: {
  readonly origin: string;
  readonly pin?: string | null;
}): RepositoryAddress => ({ origin, ...(pin === undefined || pin === null ? {} : { pin }) });

/** For a password that the server no longer has: when it was changed. */
export const passwordChanged = (account: string, changedAt: number): CollectiveError =>
  new CollectiveError(
    'wrong-password',
    `The password of ${account} was changed on ${new Date(changedAt * 1000).toLocaleString()}, from another device: use the new one.`,
    { data: { changedAt } },
  );
