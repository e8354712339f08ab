/** Waiting for a condition, with a named step: the only form of waiting that tests have. */
const POLL_MS = 100;

/** Asks `probe` again and again until it gives something; fails with the step's name when time runs out. */
export const eventually = async <T>(
  step: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined>,
): Promise<T> => {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline) {
    const found = await probe();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error(`${step}: not within ${timeoutMs} ms`);
};
