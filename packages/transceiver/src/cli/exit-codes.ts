/**
 * The exit codes of `collective`, in one table. docs/cli.md shows the same table; a test compares them. Scripts may rely
 * on the number: a code never changes its meaning.
 */
import type { ErrorCode } from '@collective/shared';

export const EXIT_CODES = {
  0: 'done',
  1: 'failed for a reason that has no code of its own; the message says which',
  2: 'the command is not used correctly',
  3: 'not logged in, wrong password, or the session has been revoked',
  4: 'not allowed',
  5: 'there is no such appliance, version, disk or machine',
  6: 'somebody else was faster, or it is in use or exists already',
  7: 'the repository or the agent cannot be reached',
  8: 'not to be trusted: wrong server, wrong signature, older than seen, weak password parameters',
  9: 'the image or the machine description cannot be used, or did not boot',
  10: 'this machine lacks something: a program, disk space, a working local disk',
  130: 'interrupted with Ctrl-C',
} as const satisfies Record<number, string>;

export type ExitCode = keyof typeof EXIT_CODES;

/** Which exit code an error leads to; a test fails when an error code has no row. */
const EXIT_CODE_OF: Partial<Readonly<Record<ErrorCode, ExitCode>>> = {
  malformed: 8,
  'too-large': 8,
  'unknown-format': 8,
  'bad-signature': 8,
  'digest-mismatch': 8,
  'block-corrupt': 8,
  'block-missing': 1,
  'block-unavailable': 7,
  'repository-unreachable': 7,
  'read-only': 4,
  'disk-full': 10,
  'local-io': 10,
  'wrong-key': 3,
  'no-tmpfs': 10,
  'in-use': 6,
  'shutting-down': 7,
  'wrong-password': 3,
  'not-logged-in': 3,
  'token-expired': 3,
  revoked: 3,
  'device-revoked': 3,
  'not-allowed': 4,
  'not-found': 5,
  conflict: 6,
  'lease-held': 6,
  'lease-lost': 6,
  apart: 6,
  'base-lost': 1,
  unsaved: 6,
  'wrong-offset': 1,
  exists: 6,
  'rate-limited': 7,
  'bad-request': 2,
  internal: 1,
  'wrong-server': 8,
  untrusted: 8,
  rollback: 8,
  'weak-password-parameters': 8,
  outdated: 8,
  'bad-machine': 9,
  'bad-image': 9,
  'no-boot': 9,
  'other-software': 7,
  suspended: 6,
  'cannot-resume': 9,
  'missing-program': 10,
  'agent-unreachable': 7,
  usage: 2,
};

export const exitCodeOf = (code: ErrorCode): ExitCode => EXIT_CODE_OF[code] ?? 1;
export const codesWithExitCode = (): string[] => Object.keys(EXIT_CODE_OF);
