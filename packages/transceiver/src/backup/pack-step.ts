/**
 * Step 2 of a snapshot (docs/adr/0020): what has been sealed becomes an object, base files and a signed manifest, all
 * durable, and then `pending: packed`. Done again from the beginning after a kill.
 */
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import {
  committedOf,
  type BackupDisk,
  type BackupFile,
  type BackupState,
  type PackedPending,
  type SealedPending,
} from './backup-file.js';
import type { MachineParts } from './backup-types.js';
import type { CommittedDisks } from './committed-disks.js';
import { isHere } from './begin-disks.js';
import { localFailure } from './local-failure.js';
import { planObjects, type ObjectPlan } from './object-plan.js';
import { packSnapshot, type PackFigures, type Packed } from './pack-snapshot.js';
import { isSealedLater, sealedOf, withCarried, withJoined, withPin } from './pending-seals.js';
import { manifestOf, signManifest } from './sign-snapshot.js';
import type { SnapshotObjects } from './snapshot-objects.js';

export type StepContext = {
  readonly parts: MachineParts;
  readonly file: BackupFile;
  readonly committed: CommittedDisks;
  readonly objects: SnapshotObjects;
  /** Whoever seals a disk, and notes that, does it in here: one after the other, so that what is noted is in the order of the layers. */
  readonly inSealTurn: <T>(work: () => Promise<T>) => Promise<T>;
};

export const objectPath = (folder: string): string => join(folder, 'snapshot-object');

/** Undefined when nothing has changed since the head: then what was sealed is to be forgotten, without a snapshot. */
export async function packPending(context: StepContext, signal: AbortSignal): Promise<PackFigures | undefined> {
  const { parts, file } = context;
  // What was sealed meanwhile lies above, and goes with it.
  await file.update(withJoined);
  // A disk that cannot be read now has nothing sent again for housekeeping; where everything must be sent again there is no way around it.
  const isAllHere = file.state.disks.every((disk) => disk.committed === null || isHere(disk));
  const plan: ObjectPlan =
    isAllHere || file.state.mustResend
      ? await planObjects(context, signal)
      : { objects: file.state.objects, givenUp: new Set() };
  await sealCarried(context, plan);
  const { state } = file;
  const { pending } = state;
  if (pending?.kind !== 'sealed') return undefined;
  const packed = await pack(context, { pending, plan }, signal);
  await parts.onStep?.('object-packed');
  if (isUnchanged(state, packed) && pending.reason !== 'update') {
    await file.update((now) => ({
      // The head is what the version has left.
      ...(pending.mustPin && now.head !== null ? withPin(now, now.head.number) : now),
      pending: {
        ...sealedOf(pending),
        kind: 'committed',
        objects: now.objects,
        isAnew: false,
        states: committedOf(layeredDisks(now, pending)),
      },
    }));
    return undefined;
  }
  await notePacked(context, { pending, plan, packed });
  await parts.onStep?.('pack-noted');
  return packed;
}

/** The disks that this snapshot looks at; the others of the subscription stay in it as they are committed. */
const layeredDisks = ({ disks }: BackupState, { layers }: SealedPending): BackupDisk[] =>
  disks.filter(({ name }) => layers.some(({ disk }) => disk === name));

/**
 * What is sent again though nobody wrote it is read through a layer: a disk that only an earlier version had gets one, or that
 * which it has got since, before another version was started (`endVersion`). Nothing later lies below it. In the turn of the seals: one
 * that was just sealing the same disk, and had not noted it, came to lie below and was noted above; its layer was gone when it was packed.
 */
async function sealCarried({ parts, file, inSealTurn }: StepContext, plan: ObjectPlan): Promise<void> {
  if (!file.state.mustResend && plan.givenUp.size === 0) return;
  await inSealTurn(async () => {
    const { pending } = file.state;
    if (pending?.kind !== 'sealed') return;
    const carried = new Map<string, string | undefined>();
    for (const disk of file.state.disks) {
      const { name, committed } = disk;
      if (committed === null || pending.layers.some((one) => one.disk === name)) continue;
      // Something else of its name is in use: it can be read through its overlay when the machine has stopped.
      if (!isHere(disk))
        throw new CollectiveError('in-use', `${parts.name} runs with another disk ${name} than yours.`);
      carried.set(name, isSealedLater(file.state, name) ? undefined : (await parts.disks.seal(name)).layer);
    }
    if (carried.size > 0) await file.update((now) => withCarried(now, carried));
  });
}

async function pack(
  { parts, file, committed }: StepContext,
  { pending, plan }: { readonly pending: SealedPending; readonly plan: ObjectPlan },
  signal: AbortSignal,
): Promise<Packed> {
  const { state } = file;
  const disks = [];
  for (const disk of layeredDisks(state, pending)) {
    const layer = pending.layers.find((one) => one.disk === disk.name)?.layer ?? '';
    const trace = { committed: disk.committed?.trace, local: await parts.traces?.read(disk.name) };
    disks.push({ name: disk.name, layer, committed: await committed.get(disk), trace });
  }
  return packSnapshot({
    ...{ disks, port: parts.disks, work: parts.work, keys: parts.person.packKeys },
    path: objectPath(parts.folder),
    mustResend: state.mustResend,
    givenUp: plan.givenUp,
    signal,
  });
}

const isUnchanged = (state: BackupState, packed: Packed): boolean =>
  state.head !== null &&
  !state.mustCommit &&
  !state.mustResend &&
  packed.objectBytes === 0 &&
  packed.disks.every(({ name, root }) => state.disks.find((disk) => disk.name === name)?.committed?.root === root);

async function notePacked(
  { parts, file, committed }: StepContext,
  { pending, plan, packed }: { readonly pending: SealedPending; readonly plan: ObjectPlan; readonly packed: Packed },
): Promise<void> {
  const { person } = parts;
  const { state } = file;
  const number = (state.head?.number ?? 0) + 1;
  const listed = state.mustResend ? [] : plan.objects;
  const objects = packed.objectBytes > 0 ? [...listed, number] : [...listed];
  const states: PackedPending['states'] = [];
  try {
    for (const disk of layeredDisks(state, pending)) {
      const next = packed.disks.find(({ name }) => name === disk.name);
      if (next === undefined) throw new RangeError(`disk ${disk.name} was not packed`);
      const base = await committed.write(disk, next, { subscription: state.subscription, number, objects });
      committed.remember(disk.name, base.name, next);
      const traced = next.trace === undefined ? {} : { trace: next.trace };
      states.push({ disk: disk.name, root: next.root, base: base.name, ...traced });
    }
  } catch (error) {
    throw localFailure(error, parts.folder);
  }
  await parts.onStep?.('bases-written');
  const manifest = manifestOf({
    ...{ state, number, parent: state.head, createdAt: pending.createdAt, reason: pending.reason },
    lease: state.lease ?? 0,
    device: person.device,
    epoch: person.packKeys.epoch,
    writtenBy: pending.writtenBy,
    states: new Map(states.map((state) => [state.disk, state])),
    objects,
  });
  const bytes = signManifest(manifest, person.deviceKey);
  await file.update((now) => ({
    ...now,
    pending: {
      ...sealedOf(pending),
      ...{ kind: 'packed', number, manifest: bytes.toString('base64'), upload: null },
      ...{ objectBytes: packed.objectBytes, objects, states, isAnew: false },
    },
  }));
}
