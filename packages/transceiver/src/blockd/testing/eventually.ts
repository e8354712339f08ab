/** Waits for a condition by turns of the event loop; fails with the step's name. */
export const eventually = async (step: string, condition: () => boolean, timeoutMs = 30_000): Promise<void> => {
  const deadlineMs = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`timed out: ${step}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
};

/** Lets everything that is ready run. */
export const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};
