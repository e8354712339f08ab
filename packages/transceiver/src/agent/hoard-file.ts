/** HOME/hoard.json: which versions are kept whole on this machine (hoard.ts). Written before the first block is asked for. */
import { Type, type Static } from '@collective/schema';
import { documentCodec, nameField, numberField, strictObject } from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const hoarded = strictObject({ appliance: nameField, version: numberField });
const codec = documentCodec(
  strictObject({ format: Type.Literal(1), versions: Type.Array(hoarded, { maxItems: 1_000 }) }),
  {
    what: 'hoard.json',
    bytesMax: 262_144,
  },
);

export type Hoarded = Static<typeof hoarded>;

/** Errors: `malformed`. */
export async function readHoard(path: string): Promise<readonly Hoarded[]> {
  const bytes = await readIfThere(path);
  return bytes === undefined ? [] : codec.decode(bytes).versions;
}

export const writeHoard = async (path: string, versions: readonly Hoarded[]): Promise<void> =>
  writeDurably(path, codec.encode({ format: 1, versions: [...versions] }));
