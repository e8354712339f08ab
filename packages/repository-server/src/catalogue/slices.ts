/**
 * Long lists in short transactions: synchronous work on slices with a turn of the event loop between them, so that no
 * other request waits longer than one slice (2,000 rows, about 10 ms).
 */
export const SLICE = 2_000;

export const inSlices = async <T>(items: Iterable<T>, work: (slice: readonly T[]) => void): Promise<void> => {
  let slice: T[] = [];
  for (const item of items) {
    slice.push(item);
    if (slice.length < SLICE) continue;
    work(slice);
    slice = [];
    await nextTurn();
  }
  if (slice.length > 0) work(slice);
};

export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
