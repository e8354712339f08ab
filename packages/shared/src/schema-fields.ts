/**
 * The fields that documents and HTTP bodies are made of, as typebox schemas: one rule per kind of field, used by every
 * format and by the route table. Lengths of text are in code points, and are part of the pattern, because typebox
 * counts graphemes.
 */
import { type Static, type TProperties, type TSchema, Type } from '@collective/schema';
import { type Digest } from './brands.js';

export const NUMBER_MAX = 2_147_483_647;

/** An object whose fields are exactly these. */
export const strictObject = <P extends TProperties>(properties: P): Type.TObject<P> =>
  Type.Object(properties, { additionalProperties: false });

export const nullable = <T extends TSchema>(schema: T): Type.TUnion<[T, Type.TNull]> =>
  Type.Union([schema, Type.Null()]);

/** Text for people: no control characters. */
export const textField = (options: { readonly min?: number; readonly max: number }): Type.TString =>
  Type.String({ pattern: `^[^\\u0000-\\u001f\\u007f-\\u009f]{${options.min ?? 0},${options.max}}$` });

export const integerField = (options: { readonly min: number; readonly max: number }): Type.TInteger =>
  Type.Integer({ minimum: options.min, maximum: options.max });

/** Base64url without padding of exactly so many bytes: one text for one value, so the last character is limited. */
export const base64urlField = (byteLength: number): Type.TString => {
  const whole = Math.floor((byteLength * 4) / 3);
  const last = { 0: '', 1: '[AQgw]', 2: '[AEIMQUYcgkosw048]' }[byteLength % 3] ?? '';
  return Type.String({ pattern: `^[A-Za-z0-9_-]{${whole}}${last}$` });
};

export const digestField = Type.Unsafe<Digest>(Type.String({ pattern: '^[0-9a-f]{64}$' }));
export const publicKeyField = base64urlField(32);
export const signatureField = base64urlField(64);
export const secretField = base64urlField(32);
export const NAME_PATTERN = '^[a-z0-9][a-z0-9-]{0,62}$';
export const nameField = Type.String({ pattern: NAME_PATTERN });
export const DISK_NAME_PATTERN = '^[a-z][a-z0-9-]{0,30}$';
export const diskNameField = Type.String({ pattern: DISK_NAME_PATTERN });
export const numberField = integerField({ min: 1, max: NUMBER_MAX });
export const secondsField = integerField({ min: 0, max: Number.MAX_SAFE_INTEGER });
export const byteCountField = integerField({ min: 0, max: Number.MAX_SAFE_INTEGER });

/** One of these words. */
export const wordField = <const W extends readonly string[]>(...words: W): Type.TUnsafe<W[number]> =>
  Type.Unsafe<W[number]>(Type.String({ enum: [...words] }));

export type StaticOf<T extends TSchema> = Static<T>;
