/** Versions of the appliance with other user disks than the first one, and their starts as the agent does them. */
import { publishWithUserDisks, type DiskPlan } from '@collective/repository-server';
import {
  beginVersion,
  catchUp,
  drain,
  endVersion,
  isVersionChange,
  prepareStart,
  type DiskBeginning,
  type Writer,
} from '@collective/transceiver';
import { DISK, type BackupLab, type Transceiver } from './backup-lab.js';

/** Initial user disks: small, so that many of them can be. */
export const EXTRA = 'extra';
const EXTRA_PLAN: DiskPlan = Array.from({ length: 140 }, (_, index) => (index % 2 === 0 ? 3_000 + index : 0));

export type LabVersion = { readonly writer: Writer; readonly disks: readonly string[] };

export class VersionLab {
  readonly lab: BackupLab;
  readonly first: LabVersion;
  #newest: Writer;

  constructor(lab: BackupLab) {
    this.lab = lab;
    this.#newest = lab.subscriber.version;
    this.first = { writer: this.#newest, disks: [DISK] };
    lab.plans.set(EXTRA, EXTRA_PLAN);
  }

  /** The next version, with these user disks. */
  async publish(...disks: readonly string[]): Promise<LabVersion> {
    const { server, alice } = this.lab.subscriber;
    const { version, manifest } = this.#newest;
    const plans = Object.fromEntries(disks.map((name) => [name, this.lab.planOf(name)]));
    const parent = { version, manifest };
    this.#newest = await publishWithUserDisks(server, alice, { number: version + 1, parent, plans });
    return { writer: this.#newest, disks };
  }

  /** As PersonData.start: `isOnline` false: the repository is not asked for anything. Gives what the machine is attached to. */
  async start(home: Transceiver, { writer, disks }: LabVersion, { isOnline = true } = {}): Promise<void> {
    const { backup } = home;
    const { signal } = new AbortController();
    if (isOnline && backup.state.isRegistered) {
      if ((await catchUp(backup, home.restoreParts)) === 'apart') throw new Error('apart');
      if (isVersionChange(backup, writer)) {
        await endVersion(backup);
        if ((await drain(backup, signal)) === 'apart') throw new Error('apart');
      }
    }
    await prepareStart(backup);
    if (isVersionChange(backup, writer) && (!isOnline || !backup.state.isRegistered)) await endVersion(backup);
    const added: DiskBeginning[] = [];
    for (const name of disks)
      if (!backup.state.disks.some((disk) => disk.name === name)) {
        home.addDisk(name);
        added.push(await home.diskOf(name, writer.version));
      }
    const attached = new Map(disks.map((name) => [name, 'virtio'] as const));
    await beginVersion(backup, { writer, disks: added, attached });
    await home.attach();
  }
}
