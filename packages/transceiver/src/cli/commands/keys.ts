/** collective password, recovery-code, devices and unlock: what a person does with their keys. */
import { CollectiveError } from '@collective/shared/errors';
import {
  AGENT_PATHS,
  type AgentStatus,
  type DevicesReply,
  type PasswordReply,
  type RecoveryCodeReply,
  type RevokeReply,
  type UnlockReply,
} from '../../agent/agent-types.js';
import type { AgentClient } from '../agent-client.js';
import { findAgent } from '../agent-process.js';
import { askNewPassword } from '../new-password.js';
import { note, printResult, timeOf, type GlobalOptions } from '../output.js';
import { askHidden, isInteractive, readSecretLines } from '../prompt.js';
import { confirmRecoveryCode, type RecoveryCodeOptions } from '../recovery-code.js';
import { table } from '../table.js';

export type PasswordOptions = GlobalOptions & { readonly passwordStdin?: boolean; readonly compromised?: boolean };

export async function password(options: PasswordOptions): Promise<void> {
  const { client } = await findAgent(options);
  const account = await accountOf(client);
  const [now = '', next = ''] =
    options.passwordStdin === true
      ? await readSecretLines(2)
      : [await askHidden(`Present password of ${account}: `), await askNewPassword(account)];
  const compromised = options.compromised === true;
  const request = { password: now, newPassword: next, ...(compromised ? { compromised } : {}) };
  const reply = (await client.post(AGENT_PATHS.password, request)) as PasswordReply;
  const lines = [
    'The password is changed. Your other devices ask for the new one when they next reach the repository.',
    ...(compromised ? ['A new key epoch has begun. Look at collective devices, and revoke what you do not know.'] : []),
  ];
  printResult(options, reply, lines.join('\n'));
}

export async function newRecoveryCode(options: GlobalOptions & RecoveryCodeOptions): Promise<void> {
  const { client } = await findAgent(options);
  const { recoveryCode } = (await client.post(AGENT_PATHS.recoveryCode)) as RecoveryCodeReply;
  const isAsked = options.recoveryCodeCheck && options.lastGroup === undefined;
  if (isAsked && (options.json || !isInteractive())) {
    printResult(
      options,
      { recoveryCode, confirmed: false },
      `Your new recovery code: ${recoveryCode}\nIt is not good yet: run collective recovery-code new --last-group GROUP within 15 minutes.`,
    );
    return;
  }
  await confirmRecoveryCode(recoveryCode, options);
  const lastGroup = recoveryCode.split('-').at(-1) ?? '';
  await client.post(AGENT_PATHS.recoveryCodeConfirm, { lastGroup });
  printResult(
    options,
    { recoveryCode, confirmed: true },
    'The new recovery code is good from now on; the one before opens nothing any more.',
  );
}

export async function devices(options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.get(AGENT_PATHS.devices)) as DevicesReply;
  if (!reply.connected && !options.json)
    note('The repository cannot be reached; these are the devices that were known last.');
  const rows = reply.devices.map(({ device, name, createdAt, lastSeenAt, revoked, isThis }) => [
    `${name}${isThis ? ' (this one)' : ''}`,
    device.slice(0, 16),
    timeOf(createdAt),
    lastSeenAt === null ? '-' : timeOf(lastSeenAt),
    revoked ? 'revoked' : '',
  ]);
  printResult(options, reply, table(['DEVICE', 'ID', 'SINCE', 'LAST SEEN', ''], rows));
}

export async function revokeDevice(device: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.post(AGENT_PATHS.devicesRevoke, { device })) as RevokeReply;
  printResult(
    options,
    reply,
    `"${reply.name}" is revoked. What is saved from now on it cannot read, also when somebody has it (key epoch ${String(reply.epoch)}).`,
  );
}

export type UnlockOptions = GlobalOptions & { readonly oldPassword?: boolean; readonly codeStdin?: boolean };

export async function unlock(options: UnlockOptions): Promise<void> {
  const { client } = await findAgent(options);
  const isCode = options.oldPassword !== true;
  const question = isCode ? 'Recovery code of before the reset: ' : 'Password of before the reset: ';
  const [typed = ''] = options.codeStdin === true ? await readSecretLines(1) : [await askHidden(question)];
  const request = isCode ? { recoveryCode: typed } : { oldPassword: typed };
  const reply = (await client.post(AGENT_PATHS.unlock, request)) as UnlockReply;
  const left = reply.locked === 0 ? 'Nothing is locked any more.' : 'Something of an earlier reset is still locked.';
  printResult(options, reply, `Unlocked. ${left}`);
}

async function accountOf(client: AgentClient): Promise<string> {
  const { session } = (await client.get(AGENT_PATHS.status)) as AgentStatus;
  if (session === null) throw new CollectiveError('not-logged-in');
  return session.account;
}
