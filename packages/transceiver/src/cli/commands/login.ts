/**
 * collective login [JOINLINK|URL]: asks for the password (twice for a new account), shows the recovery code once and has
 * its last group typed back. The server is checked before a password is typed. With --recover, and after a reset if the
 * person has it, the recovery code opens the account and sets a new password. On a machine that does not know the person it
 * asks whose the machine is.
 */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type LoginPrepareReply, type LoginReply, type Stay } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { askNewPassword } from '../new-password.js';
import { note, printResult, type GlobalOptions } from '../output.js';
import { askHidden, askLine, isInteractive, readSecretLines } from '../prompt.js';
import { confirmRecoveryCode, type RecoveryCodeOptions } from '../recovery-code.js';

const TRIES = 3;

export type LoginOptions = GlobalOptions &
  RecoveryCodeOptions & {
    readonly account?: string;
    readonly passwordStdin?: boolean;
    readonly deviceName?: string;
    readonly recover?: boolean;
    readonly mine?: boolean;
    readonly onlyForNow?: boolean;
  };

export async function login(target: string | undefined, options: LoginOptions): Promise<void> {
  if (options.mine === true && options.onlyForNow === true)
    throw new CollectiveError('usage', 'Say either --mine or --only-for-now.');
  const { client } = await findAgent(options);
  const prepared = (await client.post(AGENT_PATHS.loginPrepare, {
    ...(target === undefined ? {} : { target }),
  })) as LoginPrepareReply;
  const account = options.account ?? prepared.account ?? (await askAccount(options));
  const stay = await stayOf(prepared.kind, options);
  const { password, oldCode } = await secrets(prepared.kind, account, options);
  const newCode = oldCode === undefined ? prepared.recoveryCode : undefined;
  if (newCode !== undefined) await confirmRecoveryCode(newCode, options);
  const recoveryCode = oldCode ?? newCode;
  const reply = (await client.post(AGENT_PATHS.login, {
    ...(target === undefined ? {} : { target }),
    account,
    password,
    ...(recoveryCode === undefined ? {} : { recoveryCode }),
    ...(oldCode === undefined ? {} : { recover: true }),
    ...(stay === undefined ? {} : { stay }),
    ...(options.deviceName === undefined ? {} : { deviceName: options.deviceName }),
  })) as LoginReply;
  const value = newCode === undefined ? reply : { ...reply, recoveryCode: newCode };
  const where = reply.connected ? `at ${reply.origin}` : `without the repository ${reply.origin}`;
  printResult(
    options,
    value,
    [`Logged in as ${reply.account} ${where}.`, ...(reply.note === undefined ? [] : [reply.note])].join('\n'),
  );
}

/** Undefined: as the home has it, and for scripts that do not say the person's. */
async function stayOf(kind: LoginPrepareReply['kind'], options: LoginOptions): Promise<Stay | undefined> {
  if (options.mine === true) return 'mine';
  if (options.onlyForNow === true) return 'now';
  if (kind === 'device' || options.passwordStdin === true || !isInteractive()) return undefined;
  note(
    '\nIs this machine yours? If it is, it keeps your disks, encrypted, and opens them with your password, also without a\nnetwork. If you are here only for now, no key of yours comes to lie on its disk, and logging out removes everything.\n',
  );
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const typed = (await askLine('Mine, or only for now? [m/n]: ')).toLowerCase();
    if (typed === 'm' || typed === 'mine') return 'mine';
    if (typed === 'n' || typed === 'now' || typed === 'only for now') return 'now';
  }
  throw new CollectiveError('usage', 'Say --mine or --only-for-now; nothing was changed.');
}

async function askAccount(options: LoginOptions): Promise<string> {
  if (options.passwordStdin === true) throw new CollectiveError('usage', 'Say which account with --account NAME.');
  return askLine('Account name: ');
}

/** `oldCode`: the recovery code with which the account is opened instead of the password. */
async function secrets(
  kind: LoginPrepareReply['kind'],
  account: string,
  options: LoginOptions,
): Promise<{ readonly password: string; readonly oldCode: string | undefined }> {
  const isRecovery = options.recover === true;
  if (options.passwordStdin === true) {
    const [password = '', oldCode = ''] = await readSecretLines(isRecovery ? 2 : 1);
    return { password, oldCode: isRecovery ? oldCode : undefined };
  }
  const oldCode = isRecovery
    ? await askHidden(`Recovery code of ${account}: `)
    : kind === 'reset'
      ? await askOldCode(account)
      : undefined;
  const isNew = oldCode !== undefined || kind === 'invitation' || kind === 'reset';
  return { password: isNew ? await askNewPassword(account) : await askHidden(`Password of ${account}: `), oldCode };
}

async function askOldCode(account: string): Promise<string | undefined> {
  note(
    `\nThe account ${account} was reset. With your recovery code you get everything back. Without it you can work, but your\ndisks of before stay locked until you find the code or another device opens them (collective unlock).\n`,
  );
  const typed = await askHidden('Your recovery code, or Enter to go on without it: ');
  return typed.trim() === '' ? undefined : typed;
}
