/**
 * Login (DESIGN §7, docs/formats/keys.md): accept an invitation, enrol this device for an existing account, open the
 * device that this home holds, with or without a network, or get back in with the recovery code. The server is checked
 * before anything is sent, and nothing of the home changes before everything has been accepted.
 */
import { CollectiveError, parseJoinLink, type JoinLink } from '@collective/shared';
import { RepositoryClient } from '../repository/repository-client.js';
import type { LoginPrepareReply, LoginRequest } from './agent-types.js';
import { writeDeviceFile, type DeviceFile } from './device-file.js';
import { acceptInvitation, passwordLogin, passwordParametersOf, registerDevice } from './enrol.js';
import type { Home } from '../home.js';
import type { OfferedCodes } from './offered-code.js';
import { addressOf, openDevice, openWithServer, repositoryOf, type OpenedDevice } from './open-device.js';
import { recoverAccount } from './recovery.js';
import { isAway, trustSource } from './repository-access.js';
import { introduce, keepTrustFiles } from './introduction.js';

/** Where a login goes, from what the person gave and what the home holds. */
type Target =
  | { readonly kind: 'device'; readonly device: DeviceFile; readonly link: JoinLink | undefined }
  | { readonly kind: 'invitation' | 'account'; readonly link: JoinLink };

/**
 * Says what a login to `target` needs. Checks the server. Errors: `usage`, `exists`, `wrong-server`, `not-found` (an
 * invitation that was used), `repository-unreachable`.
 */
export async function prepareLogin(
  target: string | undefined,
  device: DeviceFile | undefined,
  offers: OfferedCodes,
): Promise<LoginPrepareReply> {
  const found = readTarget(target, device);
  if (found.kind === 'device') {
    if (found.link !== undefined) await introduced(found.link, async () => undefined).catch(unlessAway);
    return { kind: 'device', origin: found.device.repository.origin, account: found.device.account };
  }
  const { origin, invite } = found.link;
  return introduced(found.link, async (client) => {
    if (invite === undefined) return { kind: 'account', origin };
    const { account, isReset } = await client.call('invitationKind', { body: { token: invite } });
    return { kind: isReset ? 'reset' : 'invitation', origin, account, recoveryCode: offers.offer(invite) };
  });
}

/**
 * Logs in; a new device is registered and kept in the home. Errors: `wrong-password`, `wrong-server`,
 * `weak-password-parameters`, `not-found` (an invitation that was used), `usage`, `repository-unreachable`.
 */
export async function logIn(
  request: LoginRequest,
  device: DeviceFile | undefined,
  options: { readonly home: Home; readonly offers: OfferedCodes },
): Promise<OpenedDevice> {
  const { home, offers } = options;
  const target = readTarget(request.target, device);
  if (target.kind === 'device') return logInHere(request, target, home);
  const account = accountOf(request);
  const { link } = target;
  const { password } = request;
  return introduced(link, async (client, files) => {
    if (request.recover === true) await recover(client, link.identity, account, request);
    else if (target.kind === 'invitation') {
      const { invite = '' } = link;
      const recoveryCode = request.recoveryCode ?? offers.offer(invite);
      await acceptInvitation(client, { invite, account, password, recoveryCode });
      offers.forget(invite);
    }
    const parameters = await passwordParametersOf(client, account);
    const login = await passwordLogin(client, { account, password, parameters });
    const repository = { origin: link.origin, identity: link.identity, pin: link.pin ?? null };
    const enrolled = await registerDevice(client, login, { repository, deviceName: request.deviceName });
    await keepTrustFiles(home.trustDirectory, files);
    await writeDeviceFile(home.deviceFile, enrolled.device);
    return { ...enrolled, isNewDevice: true };
  });
}

/** The device of this home; after a recovery it is the same one, under the new password. */
async function logInHere(
  request: LoginRequest,
  { device, link }: { readonly device: DeviceFile; readonly link: JoinLink | undefined },
  home: Home,
): Promise<OpenedDevice> {
  const { account } = device;
  if (request.account !== undefined && request.account !== account) {
    throw new CollectiveError(
      'exists',
      `This home belongs to ${account}: use another one for ${request.account} with --home DIR.`,
    );
  }
  const { password } = request;
  if (request.recover !== true) return openDevice(device, { password, home, link });
  const repository = repositoryOf(device, link);
  await introduced(repository, async (client) => recover(client, repository.identity, account, request));
  const opened = await openWithServer(device, { password, home, link });
  if (opened !== undefined) return opened;
  throw new CollectiveError(
    'repository-unreachable',
    'The new password counts, but the repository went away: log in with it.',
  );
}

async function recover(
  client: RepositoryClient,
  identity: JoinLink['identity'],
  account: string,
  { recoveryCode, password }: LoginRequest,
): Promise<void> {
  if (recoveryCode === undefined) throw new CollectiveError('usage', 'A recovery needs the recovery code.');
  await recoverAccount(client, { identity, account, recoveryCode, password });
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

/** Runs `work` with a client of the server, after that has shown that it is ours: nothing is sent before. */
async function introduced<T>(
  to: Pick<JoinLink, 'origin' | 'identity'> & { readonly pin?: string | null },
  work: (client: RepositoryClient, files: readonly Buffer[]) => Promise<T>,
): Promise<T> {
  const client = new RepositoryClient(addressOf(to));
  try {
    const { files } = await introduce(trustSource(client), to.identity);
    return await work(client, files);
  } finally {
    await client.close();
  }
}

function accountOf(request: LoginRequest): string {
  if (request.account === undefined || request.account === '')
    throw new CollectiveError('usage', 'Say which account with --account NAME.');
  return request.account;
}

const unlessAway = (error: unknown): void => {
  if (!isAway(error)) throw error;
};
