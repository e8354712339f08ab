/**
 * One attach or detach of a disk at a time, in the order in which they were asked for. Who asks need not be alive any more: a disk that is
 * being attached for a supervisor that was killed is detached by the next one, and not found attached by its attach.
 */
export class DiskTurns {
  readonly #last = new Map<string, Promise<unknown>>();

  /** Keys of which some work is not over. */
  get underWay(): readonly string[] {
    return [...this.#last.keys()];
  }

  /** Resolves or rejects as the work does. */
  async take<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(key) ?? Promise.resolve();
    const result = before.then(work);
    const over = result.catch(() => undefined); // told to who asked
    this.#last.set(key, over);
    try {
      return await result;
    } finally {
      if (this.#last.get(key) === over) this.#last.delete(key);
    }
  }
}
