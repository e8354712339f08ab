/**
 * One piece of work at a time for each key, in the order in which they were asked for. Who asks need not be alive any
 * more when its turn comes: its work is done all the same, and whoever asks later finds what it has left.
 */
export class Turns {
  readonly #last = new Map<string, Promise<unknown>>();

  /** Keys of which some work is not over. */
  get underWay(): readonly string[] {
    return [...this.#last.keys()];
  }

  /** Begins when all earlier work for this key is over, whatever became of it. Resolves or rejects as the work does. */
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
