/**
 * A stopped machine comes to another state: what another device has saved (`catchUp`), or what it was (`undo`). What is here
 * and not saved is saved first, or nothing happens; so an undo can be undone.
 */
import { CollectiveError, hasCode, type Digest } from '@collective/shared';
import type { BackupState, SealedLayers } from './backup-file.js';
import type { MachineBackup } from './machine-backup.js';
import type { StepContext } from './pack-step.js';
import { fetchNewest, fetchSnapshot, newestSnapshot, type RestoredSnapshot, type RestoreParts } from './restore.js';
import { signManifest } from './sign-snapshot.js';
import { openPending, sealedAgain } from './upload-step.js';

export type CaughtUp =
  /** The newest snapshot is what is here. */
  | 'current'
  /** It was another device's, and is here now. */
  | 'caught-up'
  /** Here is something that the other device does not have: the person chooses. */
  | 'apart';

/**
 * Before a start: the newest snapshot of the subscription is here afterwards, whoever made it. Errors: `in-use` while the
 * machine runs, `rollback`, `untrusted`; those of the network: then what is here can still be used.
 */
export async function catchUp(backup: MachineBackup, parts: RestoreParts): Promise<CaughtUp> {
  requireStopped(backup);
  const { state } = backup;
  if (state.apart !== null) return 'apart';
  if (await isCurrent(backup, parts)) return 'current';
  if (!(await saveHere(backup, parts.signal))) return 'apart';
  // What was saved just now is the newest, unless there was nothing to save.
  if (await isCurrent(backup, parts)) return 'current';
  await backup.alone(async (context) => {
    const found = await fetchNewest(parts, {
      subscription: state.subscription,
      seenHere: context.file.state.head ?? undefined,
    });
    const disks = disksOf(found, context.file.state);
    const layers = await sealAll(context);
    await context.file.update((now) => ({
      ...now,
      ...{ head: found.head, objects: found.snapshot.manifest.objects, disks, mustResend: false, mustCommit: false },
      pending: {
        ...{ kind: 'committed', reason: 'start', createdAt: context.parts.clock.nowSeconds(), layers },
        objects: found.snapshot.manifest.objects,
        states: statesOf(disks),
        isAnew: true,
      },
    }));
    await context.parts.onStep?.('commit-noted');
  });
  await drain(backup, parts.signal);
  backup.reload();
  return 'caught-up';
}

/**
 * Goes back to snapshot `number` by a new snapshot with its disks. Resolves when that is committed and is what is here.
 * Errors: `in-use` while the machine runs, `conflict` when another device went on, `not-found`, `untrusted`; those of the
 * network: then nothing has changed, or it goes on by itself.
 */
export async function undo(backup: MachineBackup, parts: RestoreParts, number: number): Promise<void> {
  requireStopped(backup);
  if (!(await saveHere(backup, parts.signal))) throw wentOn();
  await backup.alone(async (context) => {
    const { file, parts: machine } = context;
    const { head, subscription } = file.state;
    if (head === null || number >= head.number)
      throw new CollectiveError('not-found', `There is no snapshot ${String(number)} before the present one.`);
    const as = head.number + 1;
    const target = await fetchSnapshot(parts, { subscription, number, as });
    const disks = disksOf(target, file.state);
    const layers = await sealAll(context);
    const createdAt = machine.clock.nowSeconds();
    const manifest = {
      ...target.snapshot.manifest,
      ...{ number: as, parent: { number: head.number, manifest: head.manifest }, createdAt, reason: 'undo' as const },
      ...{ lease: file.state.lease ?? 0, device: machine.person.device, epoch: machine.person.packKeys.epoch },
    };
    const bytes = signManifest(manifest, machine.person.deviceKey);
    await file.update((now) => ({
      ...now,
      pending: {
        ...{ kind: 'packed', reason: 'undo', createdAt, layers, number: as, manifest: bytes.toString('base64') },
        ...{ objectBytes: 0, upload: null, objects: manifest.objects, states: statesOf(disks) },
        isAnew: true,
      },
    }));
    await machine.onStep?.('pack-noted');
  });
  if ((await drain(backup, parts.signal)) === 'apart') throw wentOn();
  backup.reload();
}

/**
 * Before a start, with or without a network: a state that is to be taken over is, and an undo that has not reached the
 * repository is dropped, because the machine is about to write to the state that it would have left. It may have got there
 * all the same, its answer lost: its name is kept, so that it is known as this device's own when it turns out to be the head
 * (upload-step.ts). Then `backup.state` says what each disk lies over. Errors: those of the block path, `block-unavailable` among them.
 */
export async function prepareStart(backup: MachineBackup, signal?: AbortSignal): Promise<void> {
  await backup.alone(async ({ file }) => {
    await file.update((state) => {
      const { pending } = state;
      if (pending?.kind !== 'packed' || !pending.isAnew) return state;
      const givenUp = { number: pending.number, manifest: openPending(pending).digest };
      return { ...state, givenUp, pending: sealedAgain(pending) };
    });
  });
  while (backup.state.pending?.kind === 'committed' && backup.state.pending.isAnew)
    await backup.step(signal ?? new AbortController().signal);
}

/** There is nothing newer than what is here. Errors: as newestSnapshot. */
async function isCurrent({ state }: MachineBackup, parts: RestoreParts): Promise<boolean> {
  if (!state.isRegistered) return true;
  try {
    const newest = await newestSnapshot(parts, state.subscription, state.head ?? undefined);
    return newest.manifest === state.head?.manifest;
  } catch (error) {
    // Registered, but never saved from anywhere.
    if (hasCode(error, 'not-found') && state.head === null) return true;
    throw error;
  }
}

/**
 * False when another device went on. Always by a seal: how much a layer holds does not tell of what was only trimmed. When
 * nothing has changed no snapshot is made. Errors: those of the steps.
 */
export async function saveHere(backup: MachineBackup, signal: AbortSignal | undefined): Promise<boolean> {
  if ((await drain(backup, signal)) === 'apart') return false;
  await backup.seal('request');
  return (await drain(backup, signal)) === 'idle';
}

async function drain(backup: MachineBackup, signal: AbortSignal | undefined): Promise<'idle' | 'apart'> {
  for (;;) {
    const did = await backup.step(signal ?? new AbortController().signal);
    if (did !== 'more') return did;
  }
}

const requireStopped = ({ parts, name }: MachineBackup): void => {
  if (parts.isRunning()) throw new CollectiveError('in-use', `${name} is running: stop it first.`);
};

const sealAll = async ({ parts, file }: StepContext): Promise<SealedLayers> => {
  const layers: SealedLayers = [];
  for (const { name } of file.state.disks) layers.push({ disk: name, layer: (await parts.disks.seal(name)).layer });
  return layers;
};

/** The restored disks in the place of those here. Errors: `bad-machine` when they are others. */
const disksOf = ({ disks }: RestoredSnapshot, { disks: here }: BackupState): BackupState['disks'] =>
  here.map((disk) => {
    const found = disks.find((one) => one.disk.name === disk.name)?.disk;
    if (found === undefined || disks.length !== here.length || found.diskBytes !== disk.diskBytes)
      throw new CollectiveError(
        'bad-machine',
        `The snapshot has other disks than this machine: ${disk.name} is not the same.`,
      );
    return found;
  });

const statesOf = (disks: BackupState['disks']): { disk: string; root: Digest; base: Digest }[] =>
  disks.flatMap(({ name, committed }) => (committed === null ? [] : [{ disk: name, ...committed }]));

const wentOn = (): CollectiveError =>
  new CollectiveError('conflict', 'Another device went on with this machine: choose first which of the two continues.');
