/** One step at a time for each upload, in order: two parts at one offset would mix in the file. */
export class UploadTurns {
  readonly #last = new Map<string, Promise<unknown>>();

  /** Runs `step` when every earlier one of this upload has ended, whatever became of it. */
  async alone<T>(upload: string, step: () => Promise<T>): Promise<T> {
    const turn = (this.#last.get(upload) ?? Promise.resolve()).then(step);
    const ended = turn.catch(() => undefined);
    this.#last.set(upload, ended);
    try {
      return await turn;
    } finally {
      if (this.#last.get(upload) === ended) this.#last.delete(upload);
    }
  }
}
