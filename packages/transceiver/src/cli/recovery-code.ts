/** Shows a recovery code once and has its last group typed back, so that it was really written down. */
import { CollectiveError } from '@collective/shared/errors';
import { note, type GlobalOptions } from './output.js';
import { askLine, isInteractive } from './prompt.js';

export type RecoveryCodeOptions = {
  /** False: the code is printed, and that is that. */
  readonly recoveryCodeCheck: boolean;
  /** Typed already, of a code that an earlier command showed. */
  readonly lastGroup?: string;
};

const TRIES = 3;

/** Errors: `usage` when the group is not the one; without a terminal and a group, with the code in `data.recoveryCode`. */
export async function confirmRecoveryCode(code: string, options: GlobalOptions & RecoveryCodeOptions): Promise<void> {
  if (!options.recoveryCodeCheck) {
    if (!options.json) note(`Your recovery code: ${code}`);
    return;
  }
  if (options.lastGroup !== undefined) {
    if (isLastGroup(code, options.lastGroup)) return;
    throw new CollectiveError('usage', 'That is not the last group of the recovery code; nothing was changed.');
  }
  if (!isInteractive()) {
    throw new CollectiveError(
      'usage',
      `Your recovery code will be ${code}: write it down and run this again within 15 minutes with --last-group GROUP.`,
      { data: { recoveryCode: code } },
    );
  }
  note(
    `\nYour recovery code is shown only once. Write it down and keep it where nobody finds it: with it you get back in\nwhen you forget your password. Nobody else can help, not even the administrator.\n\n    ${code}\n`,
  );
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    if (isLastGroup(code, await askLine('Type its last group: '))) return;
    note('That is not the last group.');
  }
  throw new CollectiveError('usage', 'The recovery code was not confirmed; nothing was changed.');
}

const isLastGroup = (code: string, typed: string): boolean =>
  typed
    .replace(/[\s-]/g, '')
    .toUpperCase()
    .endsWith(code.split('-').at(-1) ?? code);
