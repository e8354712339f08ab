/**
 * The candidates that this account may take: the letters that the repository sent, as far as they are in order. A letter
 * counts when the heads name its candidate with that manifest, and a key that may publish the appliance signed it for
 * this very account. What does not count is not used; the version for all is.
 */
import { Type } from '@collective/schema';
import {
  documentCodec,
  letterTextField,
  nameField,
  numberField,
  publisherKeys,
  requireLetter,
  strictObject,
  CollectiveError,
  HEADS_MAX,
  type Digest,
  type Heads,
  type TrustFile,
} from '@collective/shared';

export type SentLetter = { readonly appliance: string; readonly version: number; readonly letter: Buffer };
export type Candidate = { readonly appliance: string; readonly version: number; readonly manifest: Digest };

const schema = strictObject({
  format: Type.Literal(1),
  letters: Type.Array(strictObject({ appliance: nameField, version: numberField, letter: letterTextField }), {
    maxItems: HEADS_MAX,
  }),
});
const codec = documentCodec(schema, { what: 'letters', bytesMax: 8 * 1024 * 1024 });

export const encodeLetters = (letters: readonly SentLetter[]): Buffer =>
  codec.encode({ format: 1, letters: letters.map((each) => ({ ...each, letter: each.letter.toString('base64') })) });

/** What cannot be read is none: it can be asked for again. */
export const decodeLetters = (bytes: Buffer | undefined): SentLetter[] => {
  if (bytes === undefined) return [];
  try {
    return codec.decode(bytes).letters.map((each) => ({ ...each, letter: Buffer.from(each.letter, 'base64') }));
  } catch (error) {
    if (error instanceof CollectiveError) return [];
    throw error;
  }
};

/** `own`: what this account may take, ascending. `refused`: a letter that somebody made who may not, or for somebody else. */
export const candidatesOf = (
  appliance: string,
  letters: readonly SentLetter[],
  by: { readonly heads: Heads; readonly trust: TrustFile; readonly account: string },
): { readonly own: readonly Candidate[]; readonly refused: CollectiveError | undefined } => {
  const keys = publisherKeys(by.trust, appliance);
  const own: Candidate[] = [];
  let refused: CollectiveError | undefined;
  for (const { version, letter } of letters.filter((each) => each.appliance === appliance)) {
    const named = by.heads.candidates?.find((each) => each.appliance === appliance && each.version === version);
    // It has been promoted or withdrawn meanwhile.
    if (named === undefined) continue;
    const { manifest } = named;
    try {
      requireLetter(letter, keys, { appliance, version, manifest, account: by.account });
      own.push({ appliance, version, manifest });
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      refused = error;
    }
  }
  return { own: own.sort((a, b) => a.version - b.version), refused };
};
