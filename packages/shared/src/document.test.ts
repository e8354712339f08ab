import { Type } from '@collective/schema';
import { describe, expect, it } from 'vitest';
import { documentCodec } from './document.js';
import { nullable, strictObject } from './schema-fields.js';

describe('document codec', () => {
  it('writes fields in the order of the schema, and every one of them, whatever of several shapes a value has', () => {
    const schema = strictObject({
      rows: nullable(Type.Array(strictObject({ a: Type.Integer(), b: Type.Integer() }))),
      either: Type.Union([strictObject({ x: Type.Integer() }), strictObject({ y: Type.Integer(), x: Type.Integer() })]),
    });
    const codec = documentCodec(schema, { what: 'test', bytesMax: 1_000 });
    const value = { either: { x: 1, y: 2 }, rows: [{ b: 2, a: 1 }] };
    const bytes = codec.encode(value);
    expect(bytes.toString()).toBe('{"rows":[{"a":1,"b":2}],"either":{"y":2,"x":1}}');
    expect(codec.decode(bytes)).toEqual(value);
    expect(codec.encode({ rows: null, either: { x: 3 } }).toString()).toBe('{"rows":null,"either":{"x":3}}');
  });

  it('loses nothing of a union within a union: a nullable field of several shapes', () => {
    const schema = strictObject({
      field: nullable(Type.Union([strictObject({ x: Type.Integer() }), strictObject({ y: Type.Integer() })])),
    });
    const codec = documentCodec(schema, { what: 'test', bytesMax: 1_000 });
    for (const field of [{ x: 1 }, { y: 2 }, null]) expect(codec.decode(codec.encode({ field }))).toEqual({ field });
  });
});
