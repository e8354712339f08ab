/** Asks for a new password, twice. */
import { CollectiveError } from '@collective/shared/errors';
import { note } from './output.js';
import { askHidden } from './prompt.js';

const PASSWORD_BYTES_MIN = 8;
const TRIES = 3;

/** Errors: `usage` without a terminal, and when the two are never the same. */
export async function askNewPassword(account: string): Promise<string> {
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
