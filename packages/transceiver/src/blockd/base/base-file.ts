/**
 * Base file, format 1 (docs/formats/base-file.md): the committed state of a disk as a transceiver finds it on its own disk. It is named by its
 * SHA-256, so `overlay.json` and a source of `attach` name its content. The maps that it lists hold changed pairs, named by the SHA-256 of their
 * bytes; nothing in them is believed that does not lead to `root`. The agent writes them (backup/base-file.ts), blockd opens them (open-base.ts).
 */
import {
  checkDiskShape,
  CollectiveError,
  digestField,
  documentCodec,
  integerField,
  nameField,
  nullable,
  numberField,
  strictObject,
  subscriptionField,
  type Digest,
} from '@collective/shared';
import { type Static, Type } from '@collective/schema';

export const BASE_FILE_BYTES_MAX = 256 << 10;
/** More lists than this are not applied one after the other: the state is written anew. */
export const BASE_MAPS_MAX = 64;

const baseFileSchema = strictObject({
  format: Type.Literal(1),
  /** Whose objects hold the private blocks. */
  subscription: subscriptionField,
  /** Of the snapshot. */
  number: numberField,
  diskBytes: integerField({ min: 512, max: 2 ** 44 }),
  blockBytes: integerField({ min: 4096, max: 1 << 20 }),
  root: digestField,
  /** Applied in order, from *inherit* everywhere, or from zeroes where there is no base. */
  maps: Type.Array(digestField, { maxItems: BASE_MAPS_MAX }),
  /** The initial user disk that blocks inherit from; `map` from all blocks zero. */
  base: nullable(strictObject({ appliance: nameField, version: numberField, root: digestField, map: digestField })),
  /** Snapshots whose objects hold the private blocks. */
  objects: Type.Array(numberField, { maxItems: 10_000 }),
});
export type BaseFile = Static<typeof baseFileSchema>;

const codec = documentCodec(baseFileSchema, {
  what: 'base file',
  bytesMax: BASE_FILE_BYTES_MAX,
  rules: ({ diskBytes, blockBytes, objects, number }) => {
    checkDiskShape({ diskBytes, blockBytes });
    if (objects.some((object, at) => object <= (objects[at - 1] ?? 0) || object > number))
      throw new CollectiveError('malformed', 'base file: objects do not ascend, or one is of a later snapshot');
  },
});

/** Errors: `malformed`. */
export const encodeBaseFile = (base: BaseFile): Buffer => codec.encode(base);

/** Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeBaseFile = (bytes: Uint8Array): BaseFile => codec.decode(bytes);

export const baseFilePath = (folder: string, name: Digest): string => `${folder}/bases/${name}.json`;
export const baseMapPath = (folder: string, name: Digest): string => `${folder}/maps/${name}`;
