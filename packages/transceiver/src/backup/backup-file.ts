/**
 * HOME/machines/NAME/backup.json (docs/formats/backup-file.md): what a restarted agent must know of a machine's backup: the
 * subscription, its head, what is on its way there, the lease, and whether somebody else went on meanwhile. Replaced as a
 * whole and durably with each step; every step can be done again.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Type, type Static } from '@collective/schema';
import {
  CollectiveError,
  NUMBER_MAX,
  SNAPSHOT_REASONS,
  SNAPSHOT_USER_DISKS_MAX,
  digestField,
  diskNameField,
  documentCodec,
  integerField,
  leaseField,
  nameField,
  nullable,
  numberField,
  secondsField,
  strictObject,
  subscriptionField,
  textField,
  uploadField,
  wordField,
  writtenByField,
} from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import { localFailure } from './local-failure.js';

export const PERIOD_SECONDS_DEFAULT = 30;
export const PERIOD_SECONDS_MIN = 5;
export const PERIOD_SECONDS_MAX = 86_400;
/** Versions whose seals wait for one another; an overlay has no more layers. */
const NEXT_MAX = 64;
/** Snapshots that wait for their pin: those of `NEXT_MAX` versions, and what was pinned by nobody before. */
const TO_PIN_MAX = 128;

const objectsField = Type.Array(integerField({ min: 1, max: NUMBER_MAX }), { maxItems: 10_000 });
const headField = strictObject({ number: numberField, manifest: digestField });
const layersField = Type.Array(strictObject({ disk: diskNameField, layer: textField({ min: 1, max: 128 }) }), {
  minItems: 1,
  maxItems: SNAPSHOT_USER_DISKS_MAX,
});
/** Seals that are on their way: which layers of which disks, why and when. A disk without a layer stays as it is committed. */
const sealedFields = {
  reason: wordField(...SNAPSHOT_REASONS),
  createdAt: secondsField,
  layers: layersField,
  /** The version that wrote what is in the layers. */
  writtenBy: writtenByField,
  /** The last of that version before another one was started: the snapshot is pinned, and nothing later goes into it. */
  mustPin: Type.Boolean(),
};
const committedFields = {
  root: digestField,
  base: digestField,
  /** The private chunk with its boot trace, in one of the objects; absent: none. */
  trace: Type.Optional(digestField),
};
/** The state that it becomes: of each disk the root, and the base file that is written already. */
const statesField = Type.Array(strictObject({ disk: diskNameField, ...committedFields }), {
  minItems: 1,
  maxItems: SNAPSHOT_USER_DISKS_MAX,
});

/** It is another state than what was sealed (undo, another device's): the overlays begin anew over it. */
const isAnewField = Type.Boolean();

const sealedSchema = strictObject({ kind: Type.Literal('sealed'), ...sealedFields });
const packedSchema = strictObject({
  kind: Type.Literal('packed'),
  ...sealedFields,
  number: numberField,
  /** The signed manifest, base64. */
  manifest: Type.String({ pattern: '^[A-Za-z0-9+/]{4,349528}={0,2}$' }),
  /** Of the object file; 0: it adds nothing. */
  objectBytes: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  /** The upload that has what was sent of this object, and of no other. */
  upload: nullable(uploadField),
  objects: objectsField,
  states: statesField,
  isAnew: isAnewField,
});
const committedSchema = strictObject({
  kind: Type.Literal('committed'),
  ...sealedFields,
  objects: objectsField,
  states: statesField,
  isAnew: isAnewField,
});

export const APART_REASONS = ['lease-lost', 'lease-held', 'other-head'] as const;
export type ApartReason = (typeof APART_REASONS)[number];

const schema = strictObject({
  format: Type.Literal(1),
  subscription: subscriptionField,
  appliance: nameField,
  /** The repository knows the subscription. */
  isRegistered: Type.Boolean(),
  periodSeconds: integerField({ min: PERIOD_SECONDS_MIN, max: PERIOD_SECONDS_MAX }),
  /** The version that was started last, or that wrote the state that is here; null: none yet. */
  writer: nullable(writtenByField),
  /** Every user disk that any version of this subscription had, in the order in which they came. None ever leaves. */
  disks: Type.Array(
    strictObject({
      name: diskNameField,
      /** The version that was started last has it; else its last state is carried along. */
      isAttached: Type.Boolean(),
      bus: wordField('virtio', 'sata', 'ide'),
      diskBytes: integerField({ min: 512, max: 2 ** 44 }),
      blockBytes: integerField({ min: 4_096, max: 1_048_576 }),
      /** The initial user disk that blocks inherit from, and its map in the overlay's `maps`; null: all zero. */
      base: nullable(strictObject({ appliance: nameField, version: numberField, root: digestField, map: digestField })),
      /** What the layers lie over, or will when what is committed has been taken over: a base file; null: the beginning. */
      committed: nullable(strictObject(committedFields)),
      /** What its overlay here holds is something else of that name (begin-disks.ts); absent: it is the person's. */
      mustBegin: Type.Optional(Type.Literal(true)),
    }),
    { minItems: 1, maxItems: SNAPSHOT_USER_DISKS_MAX },
  ),
  /** The snapshot that the next one follows. */
  head: nullable(
    strictObject({
      number: numberField,
      manifest: digestField,
      committedAt: secondsField,
      deviceName: textField({ max: 100 }),
    }),
  ),
  /** Objects that hold the private blocks of the committed states. */
  objects: objectsField,
  /** Those objects are of another subscription, or gone: every private block is sent again. */
  mustResend: Type.Boolean(),
  /** The head is not the committed state: the next snapshot is made even if nothing has changed. */
  mustCommit: Type.Boolean(),
  lease: nullable(leaseField),
  pending: nullable(Type.Union([sealedSchema, packedSchema, committedSchema])),
  /** Sealed while another one was pending: comes after it, in this order, what one version wrote together. */
  next: Type.Array(strictObject(sealedFields), { maxItems: NEXT_MAX }),
  /** Committed snapshots that the repository is still to keep for good. */
  toPin: Type.Array(strictObject({ subscription: subscriptionField, number: numberField }), { maxItems: TO_PIN_MAX }),
  /** Another device went on: nothing is uploaded and nothing is dropped until the person has chosen. */
  apart: nullable(
    strictObject({
      why: wordField(...APART_REASONS),
      since: secondsField,
      /** The other head, as far as it is known. */
      head: nullable(headField),
      deviceName: textField({ max: 100 }),
    }),
  ),
  /** The machine's folder is to get this name (agent/moved-machine.ts); absent: it has its name. */
  movesTo: Type.Optional(nameField),
  /** An undo that was given up here before anybody knew whether it had reached the repository; absent: none. */
  givenUp: Type.Optional(headField),
});
export type BackupState = Static<typeof schema>;
export type BackupDisk = BackupState['disks'][number];
/** A disk as a version brings it, before anything of it is saved. */
export type DiskBeginning = Omit<BackupDisk, 'committed' | 'isAttached' | 'mustBegin'>;
export type Pending = NonNullable<BackupState['pending']>;
export type SealedPending = Extract<Pending, { kind: 'sealed' }>;
export type PackedPending = Extract<Pending, { kind: 'packed' }>;
export type CommittedPending = Extract<Pending, { kind: 'committed' }>;
export type Sealed = BackupState['next'][number];
export type Writer = Sealed['writtenBy'];
export type SavedHead = NonNullable<BackupState['head']>;
export type SealedLayers = Sealed['layers'];

const codec = documentCodec(schema, {
  what: 'backup.json',
  bytesMax: 2_097_152,
  rules: ({ disks, pending, next, head, objects }) => {
    const names = disks.map(({ name }) => name);
    if (new Set(names).size !== names.length) throw malformed('two disks have one name');
    const areOurs = (list: readonly { readonly disk: string }[]): boolean =>
      new Set(list.map(({ disk }) => disk)).size === list.length && list.every(({ disk }) => names.includes(disk));
    for (const sealed of pending === null ? next : [pending, ...next])
      if (!areOurs(sealed.layers)) throw malformed('the layers are not those of the disks');
    if (pending !== null && pending.kind !== 'sealed') {
      const { states, layers, isAnew } = pending;
      if (!areOurs(states)) throw malformed('the states are not those of the disks');
      const isLayered = layers.every(({ disk }) => states.some((state) => state.disk === disk));
      if (!isLayered || (!isAnew && states.length !== layers.length))
        throw malformed('the states are not those of the layers');
    }
    if (pending === null && next.length > 0) throw malformed('what comes next waits for nothing');
    if (pending?.kind === 'packed' && head !== null && pending.number <= head.number)
      throw malformed(`snapshot ${String(pending.number)} does not follow ${String(head.number)}`);
    for (const [at, object] of objects.entries())
      if (object <= (objects[at - 1] ?? 0)) throw malformed('the objects do not ascend');
  },
});

export const encodeBackupState = (state: BackupState): Buffer => codec.encode(state);
/** Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeBackupState = (bytes: Uint8Array): BackupState => codec.decode(bytes);

/** 128 random bits as hex. */
export const newSubscriptionId = (): string => randomBytes(16).toString('hex');

export class BackupFile {
  readonly #path: string;
  #state: BackupState;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(path: string, state: BackupState) {
    this.#path = path;
    this.#state = state;
  }

  /** Undefined when the machine has none yet. A damaged one is an error, never "nothing saved". Errors: `malformed`. */
  static async open(folder: string): Promise<BackupFile | undefined> {
    const path = pathIn(folder);
    const bytes = await readIfThere(path);
    return bytes === undefined ? undefined : new BackupFile(path, decodeBackupState(bytes));
  }

  /** Writes a first one, or in the place of one that was there. Durable when it resolves. */
  static async create(folder: string, state: BackupState): Promise<BackupFile> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const path = pathIn(folder);
    await writeDurably(path, encodeBackupState(state));
    return new BackupFile(path, state);
  }

  get state(): BackupState {
    return this.#state;
  }

  /** One change after the other; `change` sees the newest state, and the same object back writes nothing. Durable when it resolves. Errors: `malformed`, `disk-full`, `local-io`. */
  async update(change: (state: BackupState) => BackupState): Promise<BackupState> {
    const turn = this.#turn.then(async () => {
      const next = change(this.#state);
      if (next !== this.#state) {
        const bytes = encodeBackupState(next);
        await writeDurably(this.#path, bytes).catch((error: unknown) => {
          throw localFailure(error, this.#path);
        });
        this.#state = next;
      }
      return next;
    });
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}

export const backupFileName = 'backup.json';
const pathIn = (folder: string): string => join(folder, backupFileName);

/** The committed states of these disks, as they stand for what is pending. */
export const committedOf = (disks: readonly BackupDisk[]): CommittedPending['states'] =>
  disks.flatMap(({ name, committed }) => (committed === null ? [] : [{ disk: name, ...committed }]));

const malformed = (what: string): CollectiveError => new CollectiveError('malformed', `backup.json: ${what}`);
