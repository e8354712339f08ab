/** What a logout waits for: everything that is only on this machine goes to the repository, as long as that can be reached. */
import type { BackupRunner } from '../backup/backup-runner.js';
import type { MachineBackup } from '../backup/machine-backup.js';
import type { Home } from '../home.js';
import { unsavedOf, writtenMachines, type BackupSettling, type Unsaved } from './backup-settling.js';
import type { MachinePresence } from './machine-presence.js';

const SETTLE_TELL_MS = 1_000;

export type SettlingParts = {
  readonly home: Pick<Home, 'machinesDirectory'>;
  readonly runner: BackupRunner;
  readonly presence: Pick<MachinePresence, 'isUp' | 'isSuspended'>;
  readonly backups: ReadonlyMap<string, MachineBackup>;
};

/** As BackupSettling.settle. */
export async function settleBackups(
  parts: SettlingParts,
  { signal, onProgress }: Parameters<BackupSettling['settle']>[0],
): Promise<Unsaved> {
  const { runner, presence, backups } = parts;
  const machines = (await runner.status()).map(({ machine }) => machine);
  for (const machine of machines)
    if (!presence.isUp(machine) && !presence.isSuspended(machine))
      await runner.stopped(machine, { wait: false }).catch(() => undefined);
  const timer = setInterval(() => void unsaved(parts).then(onProgress, () => undefined), SETTLE_TELL_MS);
  try {
    await Promise.all(
      machines
        .filter((machine) => !presence.isSuspended(machine))
        .map(async (machine) =>
          backups
            .get(machine)
            ?.settled(signal)
            .catch(() => undefined),
        ),
    );
  } finally {
    clearInterval(timer);
  }
  return unsaved(parts);
}

async function unsaved({ home, runner, backups }: SettlingParts): Promise<Unsaved> {
  const machines = (await runner.status())
    .map(({ machine, unsavedBytes, pending }) => ({
      name: machine,
      // What is sealed and holds nothing (trims) is still not there; nor is a choice (apart) of which nothing is sealed yet.
      unsavedBytes:
        (pending === null || pending.reason === 'start') && backups.get(machine)?.state.mustCommit !== true
          ? unsavedBytes
          : Math.max(1, unsavedBytes),
    }))
    .filter(({ unsavedBytes }) => unsavedBytes > 0);
  // What nobody backs up (a machine of before the backup, or whose backup.json cannot be read) is only here.
  const isSaved = (name: string, disk: string): boolean =>
    backups.get(name)?.state.disks.some((each) => each.name === disk) === true;
  const others = await writtenMachines(home, (name, disk) => !isSaved(name, disk));
  return unsavedOf([...machines, ...others]);
}
