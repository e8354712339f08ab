/**
 * Syncs shared by everybody who asks while one is under way.
 *
 * `sync` covers every write that was noted before the call. At most one sync runs and at most one waits behind it, however
 * many callers there are. A write is noted when it has returned, so that a sync which began in its middle does not count.
 *
 * After a failed fdatasync the kernel may have thrown the dirty pages away, and a second one would succeed without
 * them. So a failure is for good, unless `mayRetry` knows better: every later `sync` is rejected with the first error.
 */
export class GroupSync {
  readonly #syncOnce: () => Promise<void>;
  readonly #mayRetry: (error: unknown) => boolean;
  #dirty: boolean;
  #running: Promise<void> | undefined;
  #waiting: Promise<void> | undefined;
  #failure: unknown;
  #failed = false;

  constructor(
    syncOnce: () => Promise<void>,
    options: { readonly dirty: boolean; readonly mayRetry?: (error: unknown) => boolean },
  ) {
    this.#syncOnce = syncOnce;
    this.#mayRetry = options.mayRetry ?? ((): boolean => false);
    this.#dirty = options.dirty;
  }

  /** Something was written that the next `sync` must cover. */
  note(): void {
    this.#dirty = true;
  }

  get failed(): boolean {
    return this.#failed;
  }

  sync(): Promise<void> {
    if (this.#failed) return Promise.reject(this.#failure);
    if (this.#waiting !== undefined) return this.#waiting;
    if (this.#running !== undefined) {
      if (!this.#dirty) return this.#running;
      const next = (): Promise<void> => {
        this.#waiting = undefined;
        return this.#failed ? Promise.reject(this.#failure) : this.#start();
      };
      this.#waiting = this.#running.then(next, next);
      return this.#waiting;
    }
    return this.#dirty ? this.#start() : Promise.resolve();
  }

  #start(): Promise<void> {
    this.#dirty = false;
    this.#running = this.#syncOnce().then(
      () => {
        this.#running = undefined;
      },
      (error: unknown) => {
        this.#running = undefined;
        if (this.#mayRetry(error)) {
          this.#dirty = true;
        } else {
          this.#failed = true;
          this.#failure = error;
        }
        throw error;
      },
    );
    return this.#running;
  }
}
