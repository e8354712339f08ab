/** What a logged-in person changes of their keys: password, recovery code, and the epoch that a known password ends. */
import {
  hasCode,
  keyChangeMessage,
  newEpochSecret,
  withNewEpoch,
  CollectiveError,
  type KeyChange,
} from '@collective/shared';
import type { PasswordRequest } from './agent-types.js';
import { sealDeviceSecrets, writeDeviceFile } from './device-file.js';
import { erase } from './enrol.js';
import { openWithPassword } from './open-device.js';
import { changeOfPassword, changeOfRecoveryCode } from './recovery.js';
import type { Session } from './session.js';

/**
 * A new password: on the server, then in this home. Another device keeps its old one until it next asks the server.
 * Errors: `wrong-password` when the present one is not right; those of the network, then the old one still counts
 * unless only the answer was lost: the new one works then, too.
 */
export async function changePassword(session: Session, request: PasswordRequest): Promise<void> {
  const { keys, device } = session;
  // Who sits down at an open session must not be able to change it.
  const known = await openWithPassword(device, request.password);
  known.deviceSeed.fill(0);
  known.personSecret.fill(0);
  const { account, deviceSeed, personSecret } = keys;
  const { change, parameters, passwordKeys } = await changeOfPassword(account, {
    password: request.newPassword,
    secret: personSecret,
  });
  const boxes = sealDeviceSecrets({ deviceSeed, personSecret }, passwordKeys.wrappingKey);
  erase(passwordKeys);
  await sendKeyChange(session, change);
  const renewed = { ...device, passwordParameters: parameters, ...boxes };
  await writeDeviceFile(session.home.deviceFile, renewed);
  session.useDevice(renewed);
  if (request.compromised !== true) return;
  // After the password: before, whoever knows it could fetch the new ring.
  await beginEpoch(session).catch((error: unknown) => {
    if (!(error instanceof CollectiveError)) throw error;
    throw new CollectiveError(
      error.code,
      `The password was changed, but no new key epoch began: ${error.message} Run collective password --compromised again.`,
      { cause: error },
    );
  });
}

/** Errors: `malformed` for what is no code; those of the network. */
export const changeRecoveryCode = async (session: Session, recoveryCode: string): Promise<void> => {
  const { account, personSecret } = session.keys;
  await sendKeyChange(session, changeOfRecoveryCode(account, { recoveryCode, secret: personSecret }));
};

/** New blocks use new keys from now on; gives the epoch. */
export async function beginEpoch(session: Session): Promise<number> {
  const secret = newEpochSecret();
  const now = Math.floor(Date.now() / 1000);
  await session.profile.update((profile) => withNewEpoch(profile, secret, now));
  return session.epoch;
}

/** Signed by the identity key over a nonce of this device. */
async function sendKeyChange(session: Session, change: KeyChange): Promise<void> {
  const { client, device, person } = session;
  const { nonce } = await client.call('loginChallenge', { body: { device: device.device } });
  const message = keyChangeMessage({
    identity: device.repository.identity,
    nonce: Buffer.from(nonce, 'base64url'),
    change,
  });
  const signature = person.identity.sign(message).toString('base64url');
  try {
    await client.call('changeKeys', { body: { change, nonce, signature } });
  } catch (error) {
    if (!hasCode(error, 'bad-signature')) throw error;
    throw new CollectiveError(
      'untrusted',
      `The repository no longer knows the identity of ${change.account} on this device: the account was reset. Log in again.`,
      { cause: error },
    );
  }
}
