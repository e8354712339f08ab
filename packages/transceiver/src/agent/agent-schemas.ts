/** The schemas of the agent's requests (agent-types.ts has their meaning). Unknown fields are refused. */
import { Type, type TSchema } from '@collective/schema';

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
  recover: Type.Optional(Type.Boolean()),
  deviceName: Type.Optional(text(100)),
  stay: Type.Optional(Type.Union([Type.Literal('mine'), Type.Literal('now')])),
});
export const logoutBody = strict({
  stop: Type.Optional(Type.Boolean()),
  remove: Type.Optional(Type.Boolean()),
  discard: Type.Optional(Type.Boolean()),
});
export const passwordBody = strict({
  password: text(4096),
  newPassword: text(4096),
  compromised: Type.Optional(Type.Boolean()),
});
export const recoveryCodeConfirmBody = strict({ lastGroup: text(100) });
export const revokeBody = strict({ device: Type.String({ minLength: 1, maxLength: 100 }) });
export const unlockBody = strict({ recoveryCode: Type.Optional(text(100)), oldPassword: Type.Optional(text(4096)) });
export const startBody = strict({
  names,
  waitFor: Type.Optional(text(200)),
  waitMs: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000 })),
  fresh: Type.Optional(Type.Boolean()),
  takeOver: Type.Optional(Type.Boolean()),
  accel: Type.Optional(Type.Union([Type.Literal('auto'), Type.Literal('kvm'), Type.Literal('tcg')])),
});
export const stopBody = strict({
  names,
  all: Type.Optional(Type.Boolean()),
  force: Type.Optional(Type.Boolean()),
  wait: Type.Optional(Type.Boolean()),
  discard: Type.Optional(Type.Boolean()),
});
export const suspendBody = strict({ names });
export const hoardBody = strict({ name: reference, isOff: Type.Optional(Type.Boolean()) });
export const settingsBody = strict({
  tellTraces: Type.Optional(Type.Boolean()),
  metered: Type.Optional(Type.Union([Type.Literal('on'), Type.Literal('off'), Type.Literal('auto')])),
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
  candidateFor: Type.Optional(names),
});
export const scrubBody = strict({
  start: Type.Boolean(),
  everyDays: Type.Optional(Type.Integer({ minimum: 0, maximum: 3650 })),
});
export const exportBody = strict({
  name: reference,
  version: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 })),
  disk: reference,
  socket: path,
  writable: Type.Boolean(),
});

const snapshot = Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 });
export const snapshotsQuery = strict({
  name: reference,
  which: Type.Optional(Type.Union([Type.Literal('kept'), Type.Literal('deleted')])),
});
export const takeSnapshotBody = strict({ name: reference, wait: Type.Boolean() });
export const undoBody = strict({ name: reference, snapshot });
export const openSnapshotBody = strict({ name: reference, snapshot, disk: Type.Optional(reference), socket: path });
export const showSnapshotBody = strict({
  name: reference,
  snapshot,
  disk: Type.Optional(reference),
  close: Type.Optional(Type.Boolean()),
});
export const restoreSnapshotBody = strict({ name: reference, snapshot });
export const everyBody = strict({ name: reference, seconds: Type.Integer({ minimum: 5, maximum: 86_400 }) });
export const resetBody = strict({ name: reference });
export const deleteBody = strict({ name: reference, confirmation: reference });
export const restoreBody = strict({ name: reference });
export const continueBody = strict({
  name: reference,
  which: Type.Union([Type.Literal('here'), Type.Literal('both')]),
  discard: Type.Optional(Type.Boolean()),
});
const versionNumber = Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 });
const accelerator = Type.Union([Type.Literal('auto'), Type.Literal('kvm'), Type.Literal('tcg')]);
const waitMs = Type.Integer({ minimum: 1, maximum: 86_400_000 });

export const maintainBody = strict({
  name: reference,
  accel: Type.Optional(accelerator),
  waitFor: Type.Optional(text(200)),
  waitMs: Type.Optional(waitMs),
});
export const nameBody = strict({ name: reference });
export const publishMaintainedBody = strict({
  name: reference,
  title: Type.Optional(text(200)),
  notes: Type.Optional(text(4000)),
  cleanUp: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 16_384 }), { maxItems: 64 })),
  candidateFor: Type.Optional(names),
  bootTest: Type.Boolean(),
  bootText: Type.Optional(text(200)),
  bootTimeoutMs: Type.Optional(Type.Integer({ minimum: 1000, maximum: 86_400_000 })),
});
export const candidatesBody = strict({
  name: reference,
  version: Type.Optional(versionNumber),
  add: Type.Optional(names),
  remove: Type.Optional(names),
});
export const versionBody = strict({ name: reference, version: Type.Optional(versionNumber) });
export const mandatoryBody = strict({
  name: reference,
  mark: Type.Union([
    strict({
      version: versionNumber,
      from: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
      graceDays: Type.Integer({ minimum: 0, maximum: 3_650 }),
    }),
    Type.Null(),
  ]),
});
export const updatesBody = strict({ name: Type.Optional(reference) });
