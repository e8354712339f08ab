/**
 * The one table of errors and the one error class. Code matches on `code`, never on text. A code's row says what it
 * means everywhere: the sentence for people, whether trying again can help, the HTTP status, the NBD errno that a
 * guest's disk sees, and what the person can do.
 */
export type ErrorRow = {
  readonly sentence: string;
  readonly retryable: boolean;
  readonly httpStatus: number;
  /** Linux errno value for an NBD reply: 1 EPERM, 5 EIO, 22 EINVAL, 28 ENOSPC, 95 ENOTSUP, 108 ESHUTDOWN. */
  readonly nbdErrno: 1 | 5 | 12 | 22 | 28 | 75 | 95 | 108;
  /** What the person can do; empty when there is nothing. */
  readonly hint: string;
};

const row = (
  sentence: string,
  httpStatus: number,
  options: { retryable?: boolean; nbdErrno?: ErrorRow['nbdErrno']; hint?: string } = {},
): ErrorRow => ({
  sentence,
  httpStatus,
  retryable: options.retryable ?? false,
  nbdErrno: options.nbdErrno ?? 5,
  hint: options.hint ?? '',
});

export const ERROR_TABLE = {
  // formats
  malformed: row('The data is not in the documented format', 400),
  'too-large': row('The data is larger than the format or the server allows', 413),
  'unknown-format': row('The format version is not known to this program', 400, { hint: 'Update this program.' }),
  'bad-signature': row('The signature does not match', 400),
  'digest-mismatch': row('The content does not have the digest that names it', 400),
  // block path
  'block-corrupt': row('A fetched block does not have its digest', 502, { retryable: true }),
  'block-missing': row('The repository does not have this block', 404),
  'block-unavailable': row('The block did not arrive in time', 504, { retryable: true }),
  'repository-unreachable': row('The repository cannot be reached', 503, {
    retryable: true,
    hint: 'Check the network; it goes on by itself when the repository answers again.',
  }),
  'read-only': row('The disk is read-only', 403, { nbdErrno: 1 }),
  'disk-full': row('The disk is full', 507, {
    nbdErrno: 28,
    hint: 'Free some space; the machine goes on by itself.',
  }),
  'local-io': row('The disk failed', 500),
  'wrong-key': row('What lies on the local disk is encrypted with another key', 403, {
    hint: 'It belongs to another account, or nobody is logged in: log in as the person it belongs to. After a reset of your account collective unlock opens what was yours. Nothing was changed.',
  }),
  'no-tmpfs': row('This machine has no place in memory for keys', 500, {
    hint: 'Only for now means that no key comes to lie on a disk. If the machine is yours, log in with --mine.',
  }),
  'in-use': row('Another process is using it', 409, { hint: 'Stop the other one first.' }),
  'shutting-down': row('The service is shutting down', 503, { retryable: true, nbdErrno: 108 }),
  // accounts and access
  'wrong-password': row('The account or the password is wrong', 401),
  'not-logged-in': row('You are not logged in', 401, { hint: 'Run: collective login' }),
  'token-expired': row('The session has expired', 401, { retryable: true }),
  revoked: row('This account has been revoked', 401, { hint: 'Ask your administrator.' }),
  'device-revoked': row('This device has been revoked', 401, {
    hint: 'Somebody with your account did this, from another device. Nothing on this device was removed: collective logout --remove does that.',
  }),
  'not-allowed': row('You may not do this', 403, { hint: 'Ask your administrator for access.' }),
  'not-found': row('There is no such thing here', 404),
  conflict: row('Somebody else was faster', 409, { hint: 'Look at the newest version, then try again.' }),
  exists: row('It exists already', 409),
  'rate-limited': row('Too many attempts', 429, { retryable: true, hint: 'Wait a minute.' }),
  'bad-request': row('The request is not valid', 400),
  internal: row('The server failed', 500, { retryable: true }),
  // subscriptions
  'lease-held': row('The appliance is in use on another device', 409, {
    hint: 'Stop it there first, or take it over: what that device has not saved yet becomes a subscription of its own.',
  }),
  'lease-lost': row('Another device has taken over', 409, {
    hint: 'Nothing is lost: what was written here is kept here. Choose which of the two continues.',
  }),
  apart: row('Two devices went on from one state', 409, {
    hint: 'Choose: collective continue NAME --here (what is here goes on, the other stays among the snapshots) or --both (each goes on for itself). Nothing is lost.',
  }),
  'base-lost': row('The repository no longer has what your disk lies on', 409, {
    hint: 'Nothing of yours was dropped, and it is tried again. Stop it; then collective continue NAME --both makes what is here a subscription of its own, and NAME is what the repository has; or --here says how much of it cannot be read any more, and goes on without that with --discard.',
  }),
  unsaved: row('Something is not saved yet', 409, {
    hint: 'Wait until the repository can be reached and try again, or take it to another place. With --discard it is lost.',
  }),
  'wrong-offset': row('The upload goes on at another offset', 409),
  // trust
  'wrong-server': row('The server is not the one that the join link names', 502, {
    hint: 'Do not go on. Ask the administrator for a new join link.',
  }),
  untrusted: row('The signature is by a key that may not sign this', 403),
  rollback: row('The repository shows an older state than this machine has seen', 409, {
    hint: 'Tell the administrator; nothing was changed here.',
  }),
  outdated: row('A newer version is mandatory', 409, {
    hint: 'Start it without naming a version; when the repository cannot be reached, connect to it first.',
  }),
  'weak-password-parameters': row('The server asks for password parameters that are too weak', 400, {
    hint: 'Do not go on. Ask the administrator.',
  }),
  // machine
  'bad-machine': row('The machine description is not allowed', 400),
  'bad-image': row('The disk image cannot be used', 400),
  'no-boot': row('The image did not boot', 422, {
    hint: 'Look at the console output. A publish with --no-boot-test leaves the boot test out.',
  }),
  suspended: row('The machine is suspended', 409, {
    hint: 'Start it to resume it. With --discard (stop) or --fresh (start) its memory image is thrown away; its disks stay.',
  }),
  'cannot-resume': row('The suspended machine cannot be resumed here', 409, {
    hint: 'With --fresh it starts anew: its memory image is thrown away, its disks stay.',
  }),
  'missing-program': row('A program that is needed is not installed', 500),
  'agent-unreachable': row('The agent does not answer', 503, {
    hint: 'Run the command again: it starts the agent. Its log is log/agent.log in the home.',
  }),
  'other-software': row('What runs here is of another version of this software', 409, {
    hint: 'Run: collective upgrade. Machines go on meanwhile.',
  }),
  usage: row('The command is not used correctly', 400, { hint: 'See --help.' }),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERROR_TABLE;

export const isErrorCode = (text: string): text is ErrorCode => Object.hasOwn(ERROR_TABLE, text);

/** What went wrong, as a code of the table, with which, how much and where in `message` and `data`. */
export class CollectiveError extends Error {
  readonly code: ErrorCode;
  readonly data: Readonly<Record<string, string | number | boolean>>;

  constructor(
    code: ErrorCode,
    message?: string,
    options: { readonly cause?: unknown; readonly data?: Readonly<Record<string, string | number | boolean>> } = {},
  ) {
    super(message ?? ERROR_TABLE[code].sentence, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CollectiveError';
    this.code = code;
    this.data = options.data ?? {};
  }

  get row(): ErrorRow {
    return ERROR_TABLE[this.code];
  }
}

export const hasCode = (error: unknown, code: ErrorCode): error is CollectiveError =>
  error instanceof CollectiveError && error.code === code;
