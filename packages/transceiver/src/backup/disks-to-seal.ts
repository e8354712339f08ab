/** Which disks of a machine a seal freezes. */
import type { BackupState } from './backup-file.js';
import { isHere } from './begin-disks.js';
import type { SnapshotDisks } from './disk-port.js';

/**
 * What only an earlier version had cannot change: it is left alone, unless a kill has left something that no seal covers. `isOfAll`: it is
 * sealed as well. None of it has an overlay that holds something else (begin-disks.ts).
 */
export async function disksToSeal(
  state: BackupState,
  disks: SnapshotDisks,
  { isOfAll }: { readonly isOfAll: boolean },
): Promise<string[]> {
  const { pending, mustCommit, mustResend } = state;
  const here = state.disks.filter(isHere);
  const saved = here.filter(({ committed }) => committed !== null).map(({ name }) => name);
  const names: string[] = [];
  for (const { name, isAttached } of here) {
    const isWanted = isAttached || ((isOfAll || mustResend) && saved.includes(name));
    if (isWanted || (pending === null && (await holds(disks, name)))) names.push(name);
  }
  return names.length === 0 && mustCommit ? saved : names;
}

/** Something that no commit has taken over. */
export const holds = async (disks: SnapshotDisks, disk: string): Promise<boolean> =>
  (await disks.sealedLayers(disk)).length > 0 || (await disks.isTouched(disk));

/** Is it so of a disk whose data are here? */
export const anyHere = async (state: BackupState, isSo: (disk: string) => Promise<boolean>): Promise<boolean> => {
  for (const { name } of state.disks.filter(isHere)) if (await isSo(name)) return true;
  return false;
};
