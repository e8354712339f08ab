/**
 * A JSON document with a typebox schema: strict parse, then the schema, then what a schema cannot say. Every field of
 * every object is listed in its schema, so unknown fields are refused.
 */
import { type Static, type TSchema, Compile, type Validator } from '@collective/schema';
import { CollectiveError, type ErrorCode } from './errors.js';
import { encodeJson, parseStrictJson } from './strict-json.js';

export type DocumentCodec<T> = {
  /** Errors: the codec's error code for a value that is not such a document. */
  readonly check: (value: unknown) => T;
  /** Errors: `malformed`, `unknown-format`, `too-large`, and the codec's own code. */
  readonly decode: (bytes: Uint8Array) => T;
  /** Checks, then writes the fields in the order of the schema. */
  readonly encode: (value: T) => Buffer;
};

/**
 * `what` names the document in messages; `rules` throws for what the schema cannot say; `error` is the code for a
 * value that breaks the schema.
 */
export const documentCodec = <S extends TSchema>(
  schema: S,
  options: {
    readonly what: string;
    readonly bytesMax: number;
    /** Runs ahead of the schema, on a value of any shape. */
    readonly before?: (value: unknown) => void;
    readonly rules?: (value: Static<S>) => void;
    readonly error?: ErrorCode;
  },
): DocumentCodec<Static<S>> => {
  // Compiled when it is first needed: a program that starts does not pay for the documents that it never reads.
  let compiled: Validator | undefined;
  const check = (value: unknown): Static<S> => {
    refuseOtherFormat(value, schema, options.what);
    options.before?.(value);
    const validator = (compiled ??= Compile(schema));
    if (!validator.Check(value)) {
      const first = validator.Errors(value)[0];
      // Quoted and cut: a path holds field names that strangers chose.
      const where =
        first === undefined ? '' : ` (at ${JSON.stringify(first.instancePath.slice(0, 100))}: ${first.message})`;
      throw new CollectiveError(
        options.error ?? 'malformed',
        `${options.what}: a field is missing, unknown or out of range${where}`,
      );
    }
    const checked = value as Static<S>;
    options.rules?.(checked);
    return checked;
  };
  return {
    check,
    decode: (bytes) => check(parseStrictJson(bytes, { bytesMax: options.bytesMax })),
    encode: (value) => {
      const bytes = encodeJson(inSchemaOrder(check(value), schema));
      if (bytes.length > options.bytesMax) {
        throw new CollectiveError('too-large', `${options.what}: ${bytes.length} bytes, at most ${options.bytesMax}`);
      }
      return bytes;
    },
  };
};

type SchemaShape = {
  readonly properties?: Readonly<Record<string, SchemaShape>>;
  readonly items?: SchemaShape;
  readonly anyOf?: readonly SchemaShape[];
  readonly const?: unknown;
};

/** A document of a later format gets its own error, so that people learn that they need another program. */
const refuseOtherFormat = (value: unknown, schema: SchemaShape, what: string): void => {
  const known = schema.properties?.['format']?.const;
  if (typeof known !== 'number' || typeof value !== 'object' || value === null || !('format' in value)) return;
  const { format } = value;
  if (typeof format === 'number' && Number.isSafeInteger(format) && format >= 1 && format !== known) {
    throw new CollectiveError('unknown-format', `${what}: format ${format} is not known`);
  }
};

/** A schema and everything that it may be, also in a union within a union. */
const shapesOf = (schema: SchemaShape): SchemaShape[] => [schema, ...(schema.anyOf ?? []).flatMap(shapesOf)];

const inSchemaOrder = (value: unknown, schema: SchemaShape | undefined): unknown => {
  const options = schema === undefined ? [] : shapesOf(schema);
  if (Array.isArray(value)) {
    const items = options.find((option) => option.items !== undefined)?.items;
    return value.map((item) => inSchemaOrder(item, items));
  }
  if (typeof value !== 'object' || value === null) return value;
  const fields = new Map<string, unknown>(Object.entries(value));
  // Of several shapes the one that has them all: what another lacks would be left out.
  const properties =
    options.find((option) => [...fields.keys()].every((name) => Object.hasOwn(option.properties ?? {}, name)))
      ?.properties ?? {};
  return Object.fromEntries(
    Object.entries(properties)
      .filter(([name]) => fields.has(name))
      .map(([name, property]) => [name, inSchemaOrder(fields.get(name), property)]),
  );
};
