/**
 * Which machines of the home are there, by the files that say so: the supervisor writes a machine's record before its guest's first
 * instruction and removes it when everything of it is over. So it is known at once, with or without a supervisor.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Home } from '../home.js';

const LOOK_EVERY_MS = 500;

export class MachinePresence {
  readonly #home: Pick<Home, 'machinesDirectory'>;
  readonly #watched = new Map<string, boolean>();
  readonly #timer: NodeJS.Timeout;

  /** `onOver`: a machine that was watched is over, or its memory image was thrown away: nobody writes to its disks any more. */
  constructor(home: Pick<Home, 'machinesDirectory'>, onOver: (name: string) => void) {
    this.#home = home;
    this.#timer = setInterval(() => {
      for (const [name, wasThere] of this.#watched) {
        const isThere = this.isUp(name) || this.isSuspended(name);
        this.#watched.set(name, isThere);
        if (wasThere && !isThere) onOver(name);
      }
    }, LOOK_EVERY_MS);
    this.#timer.unref();
  }

  watch(name: string): void {
    if (!this.#watched.has(name)) this.#watched.set(name, this.isUp(name) || this.isSuspended(name));
  }

  forget(name: string): void {
    this.#watched.delete(name);
  }

  /** Its disks are the supervisor's. */
  isUp(name: string): boolean {
    return existsSync(join(this.#home.machinesDirectory, name, 'machine.json'));
  }

  /** Nothing of it runs, and its layers must stay what they are until it is resumed. */
  isSuspended(name: string): boolean {
    return !this.isUp(name) && existsSync(join(this.#home.machinesDirectory, name, 'memory', 'image.json'));
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
