/**
 * collective login [JOINLINK|URL]: asks for the password (twice for a new account), shows the recovery code once and has
 * its last group typed back. The server is checked before a password is typed.
 */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type LoginPrepareReply, type LoginReply } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { note, printResult, type GlobalOptions } from '../output.js';
import { askHidden, askLine, readPasswordLine } from '../prompt.js';

export type LoginOptions = GlobalOptions & {
  readonly account?: string;
  readonly passwordStdin?: boolean;
  readonly recoveryCodeCheck: boolean;
  readonly deviceName?: string;
};

const PASSWORD_BYTES_MIN = 8;
const TRIES = 3;

export async function login(target: string | undefined, options: LoginOptions): Promise<void> {
  const { client } = await findAgent(options);
  const prepared = (await client.post(AGENT_PATHS.loginPrepare, {
    ...(target === undefined ? {} : { target }),
  })) as LoginPrepareReply;
  const account = options.account ?? prepared.account ?? (await askAccount(prepared, options));
  const password =
    options.passwordStdin === true ? await readPasswordLine() : await askPassword(prepared.kind, account);
  if (prepared.recoveryCode !== undefined) await showRecoveryCode(prepared.recoveryCode, options);
  const reply = (await client.post(AGENT_PATHS.login, {
    ...(target === undefined ? {} : { target }),
    account,
    password,
    ...(prepared.recoveryCode === undefined ? {} : { recoveryCode: prepared.recoveryCode }),
    ...(options.deviceName === undefined ? {} : { deviceName: options.deviceName }),
  })) as LoginReply;
  const value = prepared.recoveryCode === undefined ? reply : { ...reply, recoveryCode: prepared.recoveryCode };
  const where = reply.connected ? `at ${reply.origin}` : `without the repository ${reply.origin}`;
  printResult(
    options,
    value,
    [`Logged in as ${reply.account} ${where}.`, ...(reply.note === undefined ? [] : [reply.note])].join('\n'),
  );
}

async function askAccount(prepared: LoginPrepareReply, options: LoginOptions): Promise<string> {
  if (options.passwordStdin === true) throw new CollectiveError('usage', 'Say which account with --account NAME.');
  return askLine(prepared.kind === 'invitation' ? 'Account name (as in your invitation): ' : 'Account name: ');
}

async function askPassword(kind: LoginPrepareReply['kind'], account: string): Promise<string> {
  if (kind !== 'invitation') return askHidden(`Password of ${account}: `);
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const first = await askHidden(`New password for ${account} (at least ${String(PASSWORD_BYTES_MIN)} characters): `);
    if (Buffer.byteLength(first.normalize('NFC')) < PASSWORD_BYTES_MIN) {
      note(`That is too short: at least ${String(PASSWORD_BYTES_MIN)}.`);
      continue;
    }
    if ((await askHidden('The same again: ')) === first) return first;
    note('The two are not the same.');
  }
  throw new CollectiveError('usage', 'No password was chosen; nothing was changed.');
}

async function showRecoveryCode(code: string, options: LoginOptions): Promise<void> {
  if (!options.recoveryCodeCheck) {
    if (!options.json) note(`Your recovery code: ${code}`);
    return;
  }
  note(
    `\nYour recovery code is shown only once. Write it down and keep it where nobody finds it: with it you get back in\nwhen you forget your password. Nobody else can help, not even the administrator.\n\n    ${code}\n`,
  );
  const last = code.split('-').at(-1) ?? '';
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const typed = await askLine('Type its last group: ');
    if (typed.replace(/[\s-]/g, '').toUpperCase().endsWith(last)) return;
    note('That is not the last group.');
  }
  throw new CollectiveError('usage', 'The recovery code was not confirmed; nothing was changed.');
}
