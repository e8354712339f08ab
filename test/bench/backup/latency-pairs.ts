/** Interleaved pairs of a run with snapshots and one without, and what is said of their writes. */
import { interleavedPairs, interval } from '../bench-result.js';
import type { FioResult } from '../nbd/fio.js';
import { undisturbed } from '../undisturbed.js';

export type Kind = 'with' | 'without';
export type LatencyRun = FioResult & { readonly snapshots: number };
export type LatencyPairs<R> = {
  readonly runs: Readonly<Record<Kind, readonly R[]>>;
  readonly ratios: readonly number[];
};

/** `ratios`: p99 with / without, of each pair. */
export const latencyPairs = async <R extends LatencyRun>(
  pairs: number,
  log: (line: string) => void,
  measure: (kind: Kind) => Promise<R>,
): Promise<LatencyPairs<R>> => {
  const runs = { with: [] as R[], without: [] as R[] };
  const side = (kind: Kind) => async (): Promise<number> => {
    const run = await undisturbed(log, () => measure(kind));
    runs[kind].push(run);
    log(`${kind}: p99 ${run.p99Us.toFixed(0)} us, ${run.snapshots} snapshots`);
    return run.p99Us;
  };
  const { ratios } = await interleavedPairs(pairs, side('with'), side('without'));
  return { runs, ratios };
};

export const each = <R>(results: readonly R[], pick: (result: R) => number): string => interval(results.map(pick), 0);

export const latenciesOf = (results: readonly LatencyRun[]): string =>
  `p50 ${each(results, ({ p50Us }) => p50Us)} us, p99 ${each(results, ({ p99Us }) => p99Us)} us, max ${each(results, ({ maxUs }) => maxUs)} us`;
