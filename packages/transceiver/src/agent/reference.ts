/** `NAME` or `NAME@VERSION`, as people write it. */
import { CollectiveError } from '@collective/shared/errors';

const REFERENCE = /^([a-z0-9][a-z0-9-]{0,62})(?:@([1-9][0-9]{0,9}))?$/;

export type Reference = { readonly name: string; readonly version?: number };

/** Errors: `usage`. */
export function parseReference(text: string): Reference {
  const match = REFERENCE.exec(text);
  const name = match?.[1];
  const version = match?.[2] === undefined ? undefined : Number(match[2]);
  if (name === undefined || (version !== undefined && version > 2 ** 31 - 1)) {
    throw new CollectiveError(
      'usage',
      `"${text}" is no appliance: write NAME or NAME@VERSION, lower-case letters, digits and dashes.`,
    );
  }
  return version === undefined ? { name } : { name, version };
}
