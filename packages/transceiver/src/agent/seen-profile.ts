/**
 * seen-profile.json: the newest profile that this machine has seen of its person, by number and digest. Beside seen.json
 * because that is the repository's. Written durably before the profile is used; nothing older is accepted. After a reset
 * the person has another identity key, and counting begins again.
 */
import { Type, type Static } from '@collective/schema';
import { digestField, documentCodec, numberField, publicKeyField, strictObject } from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const schema = strictObject({
  format: Type.Literal(1),
  identityKey: publicKeyField,
  number: numberField,
  /** SHA-256 of the sealed file. */
  digest: digestField,
});
export type SeenProfile = Static<typeof schema>;

const codec = documentCodec(schema, { what: 'seen-profile.json', bytesMax: 1_024 });

/** Undefined when nothing of this identity was seen. A damaged file is an error, never "nothing seen". Errors: `malformed`. */
export async function readSeenProfile(path: string, identityKey: string): Promise<SeenProfile | undefined> {
  const bytes = await readIfThere(path);
  const seen = bytes === undefined ? undefined : codec.decode(bytes);
  return seen?.identityKey === identityKey ? seen : undefined;
}

export const writeSeenProfile = async (path: string, seen: SeenProfile): Promise<void> =>
  writeDurably(path, codec.encode(seen));
