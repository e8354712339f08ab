/**
 * The disks that are attached, by session and name. Each attach and detach of a disk waits for its turn (Turns), so one that is
 * being attached for a supervisor that has died or given up waiting, say, is detached when it is there.
 */
import { CollectiveError, Turns } from '@collective/shared';
import type { AttachedDisk } from './attached-disk.js';
import type { GuestReads } from './boot-trace.js';

type Name = { readonly session: string; readonly disk: string };

export class AttachedDisks {
  readonly #disks = new Map<string, AttachedDisk>();
  readonly #turns = new Turns();

  get all(): readonly AttachedDisk[] {
    return [...this.#disks.values()];
  }

  ofSession(session: string): readonly AttachedDisk[] {
    return this.all.filter((disk) => disk.session === session);
  }

  /** The machine starts now. */
  beginTraces(session: string): void {
    const guest = (): GuestReads => {
      const reads = this.ofSession(session).map((disk) => disk.reads);
      return {
        isWaiting: reads.some(({ isWaiting }) => isWaiting),
        touches: reads.reduce((sum, { touches }) => sum + touches, 0),
      };
    };
    for (const disk of this.ofSession(session)) disk.beginTrace(guest);
  }

  /** Error: `not-found`. */
  get({ session, disk }: Name): AttachedDisk {
    const attached = this.#disks.get(keyOf({ session, disk }));
    if (attached === undefined)
      throw new CollectiveError('not-found', `${session}/${disk} is not attached`, { data: { isAttached: false } });
    return attached;
  }

  /** Errors: `exists`, those of `open`. */
  attach(name: Name, open: () => Promise<AttachedDisk>): Promise<AttachedDisk> {
    const key = keyOf(name);
    return this.#turns.take(key, async () => {
      if (this.#disks.has(key)) throw new CollectiveError('exists', `${key} is attached already`);
      const attached = await open();
      this.#disks.set(key, attached);
      return attached;
    });
  }

  /** One disk. Errors: `not-found`, those of its close; it is not attached any more then. */
  async detach(name: Name, options: { readonly removeTemporary: boolean }): Promise<void> {
    await this.#turns.take(keyOf(name), () => this.#close(this.get(name), options));
  }

  /** All of a session; how many they were. Errors: the first of a close; none is attached any more then. */
  async detachSession(session: string, options: { readonly removeTemporary: boolean }): Promise<number> {
    // Those that are being attached too.
    const keys = new Set(
      [...this.#disks.keys(), ...this.#turns.underWay].filter((key) => key.startsWith(`${session}/`)),
    );
    let detached = 0;
    const results = await Promise.allSettled(
      [...keys].map((key) =>
        this.#turns.take(key, async () => {
          const attached = this.#disks.get(key);
          if (attached === undefined) return;
          detached += 1;
          await this.#close(attached, options);
        }),
      ),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    return detached;
  }

  async #close(attached: AttachedDisk, options: { readonly removeTemporary: boolean }): Promise<void> {
    try {
      await attached.close(options);
    } finally {
      this.#disks.delete(keyOf(attached));
    }
  }
}

const keyOf = ({ session, disk }: Name): string => `${session}/${disk}`;
