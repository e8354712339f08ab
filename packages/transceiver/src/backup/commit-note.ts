/** The answer to a commit, as backup.json keeps it: the snapshot is the head, and its states are what the disks lie over. */
import type { BackupDisk, PackedPending, SavedHead } from './backup-file.js';
import type { StepContext } from './pack-step.js';
import { sealedOf, withPin } from './pending-seals.js';
import { openPending } from './upload-step.js';

/** Of another state than what was sealed also who wrote it, and what its disks began as. */
type Anew = { readonly writer: PackedPending['writtenBy']; readonly shapes: ReadonlyMap<string, DiskShapeOf> };
type DiskShapeOf = Pick<BackupDisk, 'diskBytes' | 'blockBytes' | 'base'>;

/** Durable when it resolves. Errors: `local-io`, those of damaged base files. */
export async function noteCommitted(context: StepContext, head: SavedHead): Promise<void> {
  const { file } = context;
  const { pending } = file.state;
  if (pending?.kind !== 'packed') return;
  const anew = pending.isAnew ? await anewOf(context, pending) : undefined;
  await file.update((state) => {
    const { objects, states, isAnew } = pending;
    // The undo that was given up has not come before this one.
    const { givenUp: _over, ...rest } = state;
    const noted = {
      ...rest,
      head,
      writer: anew?.writer ?? state.writer,
      ...{ objects, mustResend: false, mustCommit: false, apart: null },
      disks: state.disks.map((disk) => {
        const found = states.find((one) => one.disk === disk.name);
        if (found === undefined) return disk;
        const { disk: _name, ...committed } = found;
        return { ...disk, ...anew?.shapes.get(disk.name), committed };
      }),
      pending: { kind: 'committed' as const, ...sealedOf(pending), objects, states, isAnew },
    };
    const pinned = pending.mustPin ? withPin(noted, head.number) : noted;
    // So that it can be undone.
    return pending.reason === 'undo' && state.head !== null ? withPin(pinned, state.head.number) : pinned;
  });
}

/** Another device may have begun a disk of the same name with another version's. */
async function anewOf({ committed }: StepContext, pending: PackedPending): Promise<Anew> {
  const shapes = new Map<string, DiskShapeOf>();
  for (const { disk, base: name } of pending.states) {
    const { diskBytes, blockBytes, base } = (await (await committed.folder(disk)).base(name)).file;
    shapes.set(disk, { diskBytes, blockBytes, base });
  }
  return { writer: openPending(pending).manifest.writtenBy, shapes };
}
