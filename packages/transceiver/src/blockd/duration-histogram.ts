/** Durations, counted in steps that double: small, and good enough for a quantile within a factor of two; the longest is exact. */
const FIRST_MS = 1 / 16;
const STEPS = 20;

export type DurationCounts = {
  readonly count: number;
  readonly maxMs: number;
  /** Of the steps that hold something: how many durations were at most so long, and longer than the step before. */
  readonly steps: readonly { readonly upToMs: number; readonly count: number }[];
};

export class DurationHistogram {
  readonly #steps = new Float64Array(STEPS);
  #maxMs = 0;

  add(ms: number): void {
    const step = Math.min(STEPS - 1, Math.max(0, Math.ceil(Math.log2(ms / FIRST_MS))));
    this.#steps[step] = (this.#steps[step] ?? 0) + 1;
    if (ms > this.#maxMs) this.#maxMs = ms;
  }

  get counts(): DurationCounts {
    const steps = [...this.#steps]
      .map((count, step) => ({ upToMs: FIRST_MS * 2 ** step, count }))
      .filter(({ count }) => count > 0);
    return { count: steps.reduce((sum, { count }) => sum + count, 0), maxMs: this.#maxMs, steps };
  }
}
