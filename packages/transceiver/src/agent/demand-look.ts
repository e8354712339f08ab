/**
 * Whether a machine waits for blocks from the network: then the line is its own, and the uploads of the backup keep back (upload-gate.ts).
 * Seen from the block daemon's status: a read that waits now, or reads since the last look that did not find their block here. One whose
 * last attempt failed, or that was given up, needs no line: it waits for a repository that is away, and so does the upload.
 */
import type { BlockdStatus, DiskStatus } from '../blockd/control/control-protocol.js';

/** The backup's own sessions (backup/blockd-disks.ts): it need not keep back from itself. */
const OWN_SESSION = 'backup@';

export class DemandLook {
  readonly #status: () => Promise<Pick<BlockdStatus, 'pid' | 'disks'> | undefined>;
  #pid: number | undefined;
  #misses = new Map<string, number>();

  /** `status`: of the block daemon, without starting one; undefined: there is none. */
  constructor(status: () => Promise<Pick<BlockdStatus, 'pid' | 'disks'> | undefined>) {
    this.#status = status;
  }

  async isWaiting(): Promise<boolean> {
    const status = await this.#status();
    if (status === undefined) return false;
    const before = status.pid === this.#pid ? this.#misses : undefined;
    const disks = status.disks.filter(({ session }) => !session.startsWith(OWN_SESSION));
    this.#pid = status.pid;
    this.#misses = new Map(disks.map((disk) => [nameOf(disk), disk.counters?.misses ?? 0]));
    return disks.some((disk) => waitsNow(disk) || hasMissed(disk, before));
  }
}

const nameOf = ({ session, disk }: DiskStatus): string => `${session}/${disk}`;

const waitsNow = ({ waiting }: DiskStatus): boolean =>
  waiting.some(({ isUnavailable, reason }) => !isUnavailable && reason === undefined);

/** A disk that is seen for the first time has no past. */
const hasMissed = (disk: DiskStatus, before: ReadonlyMap<string, number> | undefined): boolean =>
  (disk.counters?.misses ?? 0) > (before?.get(nameOf(disk)) ?? Infinity);
