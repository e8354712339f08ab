/**
 * A lock between processes that dies with its holder, whatever ended it: an open exclusive transaction on an empty
 * SQLite file, which is a POSIX lock that the kernel releases. Waiting polls, so it never blocks the event loop, and is
 * bounded. Within one process a lock object admits one holder after the other, in order.
 */
import Database from 'better-sqlite3';
import { CollectiveError } from '@collective/shared';

const POLL_MS = 10;

export class FileLock {
  readonly #database: Database.Database;
  readonly #path: string;
  readonly #waitMsMax: number;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(path: string, waitMsMax: number) {
    this.#path = path;
    this.#waitMsMax = waitMsMax;
    this.#database = new Database(path, { timeout: 0 });
  }

  static open(path: string, options: { readonly waitMsMax: number }): FileLock {
    return new FileLock(path, options.waitMsMax);
  }

  /** Runs `step` while nobody else holds the lock. Errors: `in-use` after `waitMsMax`, and what `step` throws. */
  async hold<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => this.#holdNow(step));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** Takes the lock until `close()`, or says no at once. */
  tryHoldUntilClosed(): boolean {
    return this.#begin();
  }

  close(): void {
    this.#database.close();
  }

  async #holdNow<T>(step: () => Promise<T>): Promise<T> {
    const giveUpAtMs = performance.now() + this.#waitMsMax;
    while (!this.#begin()) {
      if (performance.now() > giveUpAtMs) {
        throw new CollectiveError('in-use', `${this.#path} has been held by another process for ${this.#waitMsMax} ms`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    try {
      return await step();
    } finally {
      this.#database.exec('ROLLBACK');
    }
  }

  #begin(): boolean {
    try {
      this.#database.exec('BEGIN EXCLUSIVE');
      return true;
    } catch (error) {
      if (error instanceof Database.SqliteError && error.code.startsWith('SQLITE_BUSY')) return false;
      throw error;
    }
  }
}
