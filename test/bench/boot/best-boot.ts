/**
 * What a boot over a line is measured against: T* from the first touches of a boot of the same guest that was recorded on a filled cache a moment ago, from
 * the start of QEMU to its prompt, and the compressed chunks of which it needs something.
 */
import { decodeBootTrace } from '@collective/shared';
import { firstTouches } from '../trace-player/first-touches.js';
import type { OurPath } from '../trace-player/our-path.js';
import type { PublishedVersion } from '../trace-player/published-disks.js';
import type { TraceRuns } from '../trace-player/runs.js';
import { tStar, type Line } from '../trace-player/t-star.js';

export type BestBoot = {
  /** Of the recorded boot. */
  readonly seconds: number;
  readonly touchedBytes: number;
  /** What boots in other homes had touched when they were over (20 s without a new block), in chunks: the trace. */
  readonly toldBytes: number;
  readonly tStarSeconds: number;
};

export const bestBoot = async (
  { runs, filled, version }: { readonly runs: TraceRuns; readonly filled: OurPath; readonly version: PublishedVersion },
  line: Line,
): Promise<BestBoot> => {
  const { recording, seconds } = await runs.record(filled, { isTold: false });
  const { touches: told } = decodeBootTrace(await runs.knownTrace('system'));
  const touches = firstTouches(recording, version.disks);
  return {
    seconds,
    touchedBytes: touches.reduce((sum, { chunkBytes }) => sum + chunkBytes, 0),
    toldBytes: told.reduce((sum, { chunkBytes }) => sum + chunkBytes, 0),
    tStarSeconds: tStar(touches, { line, endUs: recording.endUs, thinkFactor: 1 }),
  };
};
