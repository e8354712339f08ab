/**
 * A stopped machine comes to another state: what another device has saved (`catchUp`), or what it was (`undo`). What is here
 * and not saved is saved first, or nothing happens; so an undo can be undone.
 */
import { CollectiveError, hasCode } from '@collective/shared';
import { beginDisks } from './begin-disks.js';
import { committedOf, type BackupDisk, type BackupState, type SealedLayers } from './backup-file.js';
import type { MachineBackup } from './machine-backup.js';
import type { StepContext } from './pack-step.js';
import {
  ascending,
  fetchNewest,
  fetchSnapshot,
  newestSnapshot,
  type RestoredSnapshot,
  type RestoreParts,
} from './restore.js';
import { sealedAgain } from './pending-seals.js';
import { remoteSubscription } from './remote-head.js';
import { signManifest, snapshotDisks } from './sign-snapshot.js';
import { followGivenUp, openPending } from './upload-step.js';

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
  // An undo that is on its way goes first: the start that follows would drop it.
  if ((await isCurrent(backup, parts)) && !isUndone(backup.state)) return 'current';
  if (!(await saveOrPart(backup, parts))) return 'apart';
  // What was saved just now is the newest, unless there was nothing to save.
  if (await isCurrent(backup, parts)) return 'current';
  await backup.alone(async (context) => {
    const found = await fetchNewest(parts, {
      subscription: state.subscription,
      seenHere: context.file.state.head ?? undefined,
    });
    const { objects, writtenBy } = found.snapshot.manifest;
    const layers = await sealAll(context, found);
    const createdAt = context.parts.clock.nowSeconds();
    await context.file.update((now) => ({
      ...now,
      ...{ head: found.head, objects, disks: disksWith(found, now), mustResend: false, mustCommit: false },
      writer: writtenBy,
      pending: {
        ...{
          kind: 'committed',
          reason: 'start',
          createdAt,
          layers,
          writtenBy: now.writer ?? writtenBy,
          mustPin: false,
        },
        ...{ objects, states: committedOf(found.disks.map(({ disk }) => disk)), isAnew: true },
      },
    }));
    await context.parts.onStep?.('commit-noted');
  });
  await drain(backup, parts.signal);
  backup.reload();
  return 'caught-up';
}

/** The old state is a new snapshot on the server. */
export type Undone = {
  readonly number: number;
  /** The head until now: it is pinned, so that the undo can be undone. */
  readonly before: number;
  /** What was not done, and is done when it can be: the disks here come to that state (before the next start in any case), or `before` is pinned. */
  readonly unfinished: { readonly what: 'disks' | 'pin'; readonly error: unknown } | null;
};

/**
 * Goes back to snapshot `number` by a new snapshot with its disks. Resolves when that is committed and, but for what is `unfinished`, is
 * what is here. Errors: `in-use` while the machine runs, `conflict` when another device went on, `not-found`, `untrusted`; those of the
 * network: then nothing has changed, or it goes on by itself.
 */
export async function undo(backup: MachineBackup, parts: RestoreParts, number: number): Promise<Undone> {
  requireStopped(backup);
  if (!(await saveHere(backup, parts.signal))) throw wentOn();
  const before = await backup.alone(async (context) => {
    const { file, parts: machine } = context;
    const { head, subscription } = file.state;
    if (head === null || number >= head.number)
      throw new CollectiveError('not-found', `There is no snapshot ${String(number)} before the present one.`);
    const as = head.number + 1;
    const target = await fetchSnapshot(parts, { subscription, number, as });
    const layers = await sealAll(context, target);
    const createdAt = machine.clock.nowSeconds();
    // What came with a later version than that of the old state stays as it is: an undo takes nothing away.
    const carried = file.state.disks.filter(({ name }) => target.disks.every(({ disk }) => disk.name !== name));
    const carriedDisks = snapshotDisks(carried);
    const { objects: old } = target.snapshot.manifest;
    const objects = carriedDisks.length === 0 ? old : ascending([...old, ...file.state.objects]);
    const manifest = {
      ...target.snapshot.manifest,
      ...{ disks: [...target.snapshot.manifest.disks, ...carriedDisks], objects },
      ...{ number: as, parent: { number: head.number, manifest: head.manifest }, createdAt, reason: 'undo' as const },
      ...{ lease: file.state.lease ?? 0, device: machine.person.device, epoch: machine.person.packKeys.epoch },
    };
    const bytes = signManifest(manifest, machine.person.deviceKey);
    await file.update((now) => ({
      ...now,
      disks: withMissing(target, now.disks),
      pending: {
        ...{ kind: 'packed', reason: 'undo', createdAt, layers, number: as, manifest: bytes.toString('base64') },
        ...{ objectBytes: 0, upload: null, objects, states: committedOf(target.disks.map(({ disk }) => disk)) },
        // Of what is here, should the undo be dropped.
        ...{ writtenBy: now.writer ?? manifest.writtenBy, mustPin: false, isAnew: true },
      },
    }));
    await machine.onStep?.('pack-noted');
    return head.number;
  });
  const unfinished = await commitUndo(backup, parts.signal);
  backup.reload();
  return { number: before + 1, before, unfinished };
}

/** What fails after the commit leaves it done. Errors: those of the steps until then, and wrong programs. */
async function commitUndo(backup: MachineBackup, signal: AbortSignal | undefined): Promise<Undone['unfinished']> {
  const isToBeTakenOver = (): boolean =>
    backup.state.pending?.kind === 'committed' && backup.state.pending.reason === 'undo';
  let isCommitted = false;
  for (;;) {
    try {
      const did = await backup.step(signal ?? new AbortController().signal);
      isCommitted ||= isToBeTakenOver();
      if (did === 'apart') throw wentOn();
      if (did === 'idle') return null;
    } catch (error) {
      if (!(error instanceof CollectiveError) || !(isCommitted || isToBeTakenOver())) throw error;
      return { what: isToBeTakenOver() ? 'disks' : 'pin', error };
    }
  }
}

/**
 * Before a start, with or without a network: a state that is to be taken over is, and an undo that has not reached the
 * repository is dropped, because the machine is about to write to the state that it would have left. It may have got there
 * all the same, its answer lost: its name is kept, so that it is known as this device's own when it turns out to be the head
 * (upload-step.ts). Then `backup.state` says what each disk lies over, and no overlay holds anything else of that name. True when an undo was dropped: the person is to know. Errors: those of
 * the block path, `block-unavailable` among them.
 */
export async function prepareStart(backup: MachineBackup, signal?: AbortSignal): Promise<boolean> {
  const isDropped = isUndone(backup.state);
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
  await backup.alone(beginDisks);
  return isDropped;
}

/** An undo has not reached the repository yet, as far as anybody knows. */
const isUndone = ({ pending }: BackupState): boolean => pending?.kind === 'packed' && pending.isAnew;

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
  if ((await drain(backup, signal)) === 'apart') return false;
  return !(await followArrived(backup, signal)) || (await drain(backup, signal)) === 'idle';
}

/**
 * When nothing had to be saved nobody has met an undo yet that was dropped here and arrived all the same. What is here follows it
 * first: else the next undo would meet it, and be taken for what is here.
 */
const followArrived = async (backup: MachineBackup, signal: AbortSignal | undefined): Promise<boolean> =>
  backup.alone(async (context) => {
    const { givenUp, subscription } = context.file.state;
    if (givenUp === undefined) return false;
    const head = (await remoteSubscription(context.parts.person.client, subscription, signal))?.head ?? null;
    return head !== null && followGivenUp(context, head);
  });

/** As saveHere. What cannot be saved because the repository has lost what it lies on, while another device went on, is apart from that. */
const saveOrPart = async (backup: MachineBackup, parts: RestoreParts): Promise<boolean> =>
  saveHere(backup, parts.signal).catch(async (error: unknown) => {
    if (!hasCode(error, 'base-lost') || (await isCurrent(backup, parts))) throw error;
    const { subscription, head } = backup.state;
    const { number, manifest, deviceName } = await newestSnapshot(parts, subscription, head ?? undefined);
    await backup.goApart({ why: 'other-head', head: { number, manifest }, deviceName });
    return false;
  });

/** Steps until nothing is on its way. Errors: those of the steps. */
export async function drain(backup: MachineBackup, signal: AbortSignal | undefined): Promise<'idle' | 'apart'> {
  for (;;) {
    const did = await backup.step(signal ?? new AbortController().signal);
    if (did !== 'more') return did;
  }
}

const requireStopped = ({ parts, name }: MachineBackup): void => {
  if (parts.isRunning()) throw new CollectiveError('in-use', `${name} is running: stop it first.`);
};

/** The disks that come to the other state, those of them that are here. */
const sealAll = async ({ parts, file }: StepContext, { disks }: RestoredSnapshot): Promise<SealedLayers> => {
  const layers: SealedLayers = [];
  for (const { name } of file.state.disks)
    if (disks.some(({ disk }) => disk.name === name))
      layers.push({ disk: name, layer: (await parts.disks.seal(name)).layer });
  return layers;
};

/**
 * The restored disks, each in the place of the one here of that name, whatever that began as; one that came here with a
 * version that the other device does not have stays.
 */
const disksWith = (found: RestoredSnapshot, { disks: here }: BackupState): BackupDisk[] =>
  withMissing(found, here).map((disk) => {
    const restored = found.disks.find((one) => one.disk.name === disk.name)?.disk;
    return restored === undefined ? disk : { ...restored, isAttached: disk.isAttached };
  });

/** With those that another version brought elsewhere; nothing of them is here yet. */
const withMissing = (found: RestoredSnapshot, here: readonly BackupDisk[]): BackupDisk[] => [
  ...here,
  ...found.disks
    .filter(({ disk }) => here.every(({ name }) => name !== disk.name))
    .map(({ disk }) => ({ ...disk, committed: null, isAttached: false })),
];

const wentOn = (): CollectiveError =>
  new CollectiveError('conflict', 'Another device went on with this machine: choose first which of the two continues.');
