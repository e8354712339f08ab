/** The schemas of the agent's requests (agent-types.ts has their meaning). Unknown fields are refused. */
import { Type, type TSchema } from 'typebox';

const strict = <P extends Record<string, TSchema>>(properties: P) =>
  Type.Object(properties, { additionalProperties: false });
const text = (maxLength: number) => Type.String({ maxLength });
const path = text(4096);
const reference = Type.String({ minLength: 1, maxLength: 80 });
const names = Type.Array(reference, { maxItems: 64 });

export const loginPrepareBody = strict({ target: Type.Optional(text(2000)) });
export const loginBody = strict({
  target: Type.Optional(text(2000)),
  account: Type.Optional(text(100)),
  password: text(4096),
  recoveryCode: Type.Optional(text(100)),
  deviceName: Type.Optional(text(100)),
});
export const startBody = strict({
  names,
  waitFor: Type.Optional(text(200)),
  waitMs: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000 })),
  accel: Type.Optional(Type.Union([Type.Literal('auto'), Type.Literal('kvm'), Type.Literal('tcg')])),
});
export const stopBody = strict({
  names,
  all: Type.Optional(Type.Boolean()),
  force: Type.Optional(Type.Boolean()),
  wait: Type.Optional(Type.Boolean()),
});
export const consoleQuery = strict({ name: reference });
export const publishBody = strict({
  name: reference,
  disks: Type.Array(strict({ name: reference, file: path, format: Type.Optional(text(20)) }), {
    minItems: 1,
    maxItems: 8,
  }),
  machine: Type.Optional(text(65_536)),
  title: Type.Optional(text(200)),
  notes: Type.Optional(text(4000)),
  bootTest: Type.Boolean(),
  bootText: Type.Optional(text(200)),
  bootTimeoutMs: Type.Optional(Type.Integer({ minimum: 1000, maximum: 86_400_000 })),
});
export const exportBody = strict({
  name: reference,
  version: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 })),
  disk: reference,
  socket: path,
  writable: Type.Boolean(),
});
