/**
 * Step 5 (docs/adr/0020): what is committed takes the place of the layers, disk by disk; then the pending snapshot is over,
 * and what nobody names any more is removed. Also how a stopped machine comes to another state (undo, what another device
 * saved): that is noted as committed, and taken over in the same way.
 */
import { CollectiveError } from '@collective/shared';
import { removeIfThere } from '../storage/durable-file.js';
import type { CommittedPending } from './backup-file.js';
import { adoptBases } from './lost-base.js';
import { removeUnfinished } from './pack-snapshot.js';
import { objectPath, type StepContext } from './pack-step.js';
import { withoutPending } from './pending-seals.js';

/** Errors: `local-io` when a layer is gone that was not taken over, those of the block path. */
export async function takeOver({ parts, file, committed }: StepContext, pending: CommittedPending): Promise<void> {
  // A machine that was started in between has written to what is about to go.
  if (pending.isAnew && parts.isRunning())
    throw new CollectiveError('in-use', `${parts.name} is running: its disks come to another state when it stops.`);
  for (const { disk, base: name } of pending.states) {
    const layer = pending.layers.find((one) => one.disk === disk)?.layer;
    const base = await (await committed.folder(disk)).base(name);
    if (pending.isAnew) await parts.disks.replace(disk, base);
    // Not there any more: it was taken over before the agent was killed.
    else if (layer !== undefined && (await parts.disks.sealedLayers(disk)).includes(layer))
      await parts.disks.rebase(disk, layer, base);
    else continue;
    await parts.onStep?.('disk-rebased');
  }
  await file.update((state) => {
    if (state.pending?.kind !== 'committed') return state;
    // What was sealed of the state before went with it; nobody had written.
    const gone = state.pending.isAnew ? state.pending.states.map(({ disk }) => disk) : [];
    return withoutPending(state, new Set(gone));
  });
  await parts.onStep?.('rebase-noted');
  await cleanUp({ parts, file, committed });
}

/**
 * Removes the object of a snapshot that is over, and base files and maps that nobody names. Not while something is being
 * taken over: an overlay may still name the state before.
 */
export async function cleanUp({
  parts,
  file,
  committed,
}: Pick<StepContext, 'parts' | 'file' | 'committed'>): Promise<void> {
  const { pending } = file.state;
  if (pending?.kind === 'committed') return;
  // Else a base would go that an overlay names.
  await adoptBases({ parts, file, committed });
  if (pending?.kind !== 'packed') {
    await removeIfThere(objectPath(parts.folder));
    await removeUnfinished(objectPath(parts.folder));
  }
  await committed.cleanUp(file.state);
  await parts.onStep?.('cleaned-up');
}
