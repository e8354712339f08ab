/**
 * seen.json: what this machine has seen of its repository: the number and digest of the heads, and each appliance's
 * highest version with its manifest. Written durably before anything that it allows is used; nothing older is accepted.
 */
import { Type } from '@collective/schema';
import {
  digestField,
  documentCodec,
  nameField,
  nullable,
  numberField,
  strictObject,
  type SeenHeads,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const schema = strictObject({
  format: Type.Literal(1),
  number: numberField,
  digest: digestField,
  trust: numberField,
  heads: Type.Array(strictObject({ appliance: nameField, version: numberField, manifest: nullable(digestField) })),
});

const codec = documentCodec(schema, { what: 'seen.json', bytesMax: 16 * 1024 * 1024 });

/** Undefined on a machine that has seen nothing. A damaged file is an error, never "nothing seen". Errors: `malformed`. */
export async function readSeen(path: string): Promise<SeenHeads | undefined> {
  const bytes = await readIfThere(path);
  return bytes === undefined ? undefined : codec.decode(bytes);
}

export const writeSeen = async (path: string, seen: SeenHeads): Promise<void> =>
  writeDurably(
    path,
    codec.encode({ format: 1, number: seen.number, digest: seen.digest, trust: seen.trust, heads: [...seen.heads] }),
  );
