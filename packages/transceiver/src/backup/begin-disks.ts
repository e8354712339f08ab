/**
 * A disk of the person's that came here with a snapshot, and was never used here: whatever lies in the overlay of that name is something
 * else. A version that this device ran may have called the disk ephemeral, while another device's calls it the person's. Those layers over
 * the snapshot's base would be a disk that never was. So `mustBegin` is noted with the disk, nothing of the overlay is read, sealed or
 * counted while it is, and the overlay begins anew over what is committed before the next start: as soon as nothing runs.
 */
import type { BackupDisk } from './backup-file.js';
import type { StepContext } from './pack-step.js';

export const isHere = ({ mustBegin }: BackupDisk): boolean => mustBegin !== true;

/** Of a machine that does not run. Durable when it resolves, disk by disk; again is the same. Errors: those of `replace`, `local-io`. */
export async function beginDisks({ parts, file, committed }: StepContext): Promise<void> {
  for (const disk of file.state.disks) {
    if (isHere(disk)) continue;
    const { name } = disk;
    if (disk.committed !== null)
      await parts.disks.replace(name, await (await committed.folder(name)).base(disk.committed.base));
    await file.update((state) => ({
      ...state,
      disks: state.disks.map(({ mustBegin, ...rest }) =>
        rest.name === name || mustBegin !== true ? rest : { ...rest, mustBegin },
      ),
    }));
    await parts.onStep?.('disk-begun');
  }
}
