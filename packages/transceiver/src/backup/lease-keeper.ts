/**
 * The lease of one subscription: taken, kept alive, given back. Its number is durable here before it is used. That it is
 * lost is learnt from a heartbeat or from a commit, whichever comes first; the server decides, no clock of this machine.
 */
import { hasCode, type CollectiveError } from '@collective/shared';
import type { BackupFile, BackupState } from './backup-file.js';
import { signalOf, type BackupClient } from './backup-person.js';
import { isAway } from '../agent/repository-access.js';
import type { BackupClock } from './backup-types.js';

export const HEARTBEAT_MS = 40_000;

export type LeaseOptions = {
  readonly client: Pick<BackupClient, 'call'>;
  readonly file: BackupFile;
  readonly clock: BackupClock;
  /** For the next heartbeat. */
  readonly said: () => Promise<{ readonly unsavedBytes: number; readonly isRunning: boolean }>;
  /** Another device has it now; the file knows already that it is not here any more. */
  readonly onLost: (deviceName: string) => Promise<void>;
};

export class LeaseKeeper {
  readonly #options: LeaseOptions;

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  get lease(): number | null {
    return this.#options.file.state.lease;
  }

  /**
   * A new lease, durable here. `free`: unless another device may have something that is not saved. Errors: `lease-held`
   * (data: deviceName, unsavedBytes, isExpired …), `not-found`, those of the network.
   */
  async take(mode: 'free' | 'steal', signal?: AbortSignal): Promise<number> {
    const { client, file } = this.#options;
    const { subscription } = file.state;
    const { lease } = await client.call('takeLease', {
      params: { subscription },
      body: { mode, basedOn: basedOn(file.state) },
      ...signalOf(signal),
    });
    await file.update((state) => ({ ...state, lease }));
    return lease;
  }

  /** Says that this device is at work. Resolves also when the lease is lost or the server is away. */
  async beat(signal?: AbortSignal): Promise<void> {
    const { client, file, said } = this.#options;
    const { subscription, lease } = file.state;
    if (lease === null) return;
    try {
      const body = { ...(await said()), basedOn: basedOn(file.state) };
      await client.call('heartbeat', { params: { subscription, lease }, body, ...signalOf(signal) });
    } catch (error) {
      if (hasCode(error, 'lease-lost')) await this.lost(lease, error);
      else if (!isAway(error) && !hasCode(error, 'not-logged-in')) throw error;
    }
  }

  /** A commit or a heartbeat under `lease` was answered so. A lease that was taken since is another one. */
  async lost(lease: number, error: CollectiveError): Promise<void> {
    const { file, onLost } = this.#options;
    const before = file.state.lease;
    await file.update((state) => (state.lease === lease ? { ...state, lease: null } : state));
    if (before === lease) await onLost(deviceNameOf(error));
  }

  /** Gives it back, so that another device can begin at once. Resolves also when the server is away: then it expires. */
  async release(signal?: AbortSignal): Promise<void> {
    const { client, file } = this.#options;
    const { subscription, lease } = file.state;
    if (lease === null) return;
    try {
      await client.call('releaseLease', { params: { subscription, lease }, ...signalOf(signal) });
    } catch (error) {
      const isOver = hasCode(error, 'lease-lost') || hasCode(error, 'not-found');
      if (!isOver && !isAway(error) && !hasCode(error, 'not-logged-in')) throw error;
      if (!isOver) return;
    }
    await file.update((state) => (state.lease === lease ? { ...state, lease: null } : state));
  }

  /** Heartbeats until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.beat(signal).catch(() => undefined); // the next commit says what is wrong
      await this.#options.clock.sleep(HEARTBEAT_MS, signal).catch(() => undefined);
    }
  }
}

/**
 * The snapshot that the disks here lie on, which the repository keeps for this device. While the head is another state (one that another device
 * saved, which what is here is to follow) it is an older one: that stays what was said last.
 */
const basedOn = ({ head, mustCommit }: BackupState): number | null => (mustCommit ? null : (head?.number ?? null));

export const deviceNameOf = (error: CollectiveError): string => {
  const name = error.data['deviceName'];
  return typeof name === 'string' ? name.slice(0, 100) : '';
};
