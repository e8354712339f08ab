/**
 * Which objects a snapshot goes on listing. Each lookup goes through the list, so it is kept short: now and then the
 * objects of which the committed state names nothing any more are left out, and when there are too many, what little
 * lives in the smallest ones is sent again and they are left out too. The server then looks at the whole snapshot, so this
 * is not done every time.
 */
import { CollectiveError, MAP_KIND, digestBytes, type Digest } from '@collective/shared';
import type { StepContext } from './pack-step.js';
import { keyAt } from './pack-snapshot.js';

export type ObjectLimits = {
  /** More are not listed. */
  readonly listedMax: number;
  /** So many are left when there were too many, so that the next time is not the next snapshot. */
  readonly left: number;
  /** Every so many snapshots is looked whether some are dead, when there are at least as many. */
  readonly lookEvery: number;
};
export const OBJECT_LIMITS_DEFAULT: ObjectLimits = { listedMax: 256, left: 192, lookEvery: 32 };

export type ObjectPlan = {
  /** Numbers that stay listed, ascending. */
  readonly objects: readonly number[];
  /** What lies in objects that are not listed any more, though the committed state names it: 32 characters of latin1 each. */
  readonly givenUp: ReadonlySet<string>;
};

export type LiveObject = { readonly number: number; readonly liveBytes: number };

/** Which stay and which are given up. Pure. `objects` ascending. */
export const chooseObjects = (
  objects: readonly LiveObject[],
  limits: Pick<ObjectLimits, 'listedMax' | 'left'>,
): { readonly kept: number[]; readonly givenUp: number[] } => {
  const living = objects.filter(({ liveBytes }) => liveBytes > 0);
  const surplus = living.length > limits.listedMax ? living.length - limits.left : 0;
  const smallest = [...living].sort((a, b) => a.liveBytes - b.liveBytes || a.number - b.number).slice(0, surplus);
  const givenUp = new Set(smallest.map(({ number }) => number));
  const kept = living.map(({ number }) => number).filter((number) => !givenUp.has(number));
  return { kept, givenUp: [...givenUp].sort((a, b) => a - b) };
};

/** Errors: those of the network and of damaged objects, only when it is time to look. */
export async function planObjects(context: StepContext, signal: AbortSignal): Promise<ObjectPlan> {
  const { state } = context.file;
  const everything: ObjectPlan = { objects: state.objects, givenUp: new Set() };
  if (state.mustResend) return { objects: [], givenUp: new Set() };
  const { listedMax, lookEvery } = context.parts.objectLimits ?? OBJECT_LIMITS_DEFAULT;
  const isTime =
    state.objects.length > listedMax ||
    (state.objects.length >= lookEvery && ((state.head?.number ?? 0) + 1) % lookEvery === 0);
  if (!isTime) return everything;
  try {
    return await lookAtObjects(context, signal);
  } catch (error) {
    // Only the housekeeping: it is done another time.
    if (error instanceof CollectiveError && !signal.aborted) return everything;
    throw error;
  }
}

async function lookAtObjects(
  { parts, file, committed, objects }: StepContext,
  signal: AbortSignal,
): Promise<ObjectPlan> {
  const { state } = file;
  const named = new Set<string>();
  for (const disk of state.disks) {
    const { map, pages } = await committed.get(disk);
    for (const [index, kind] of map.kinds.entries())
      if (kind === MAP_KIND.private) named.add(keyAt(map.digestBytes, index));
    for (const page of pages) named.add(keyOf(page));
    if (disk.committed?.trace !== undefined) named.add(keyOf(disk.committed.trace));
  }
  const live: LiveObject[] = [];
  const inObject = new Map<number, string[]>();
  // The newest first: that is where a reader finds what lies in two.
  for (const number of [...state.objects].reverse()) {
    const index = await objects.index(number, signal);
    const keys: string[] = [];
    let liveBytes = 0;
    for (const [digest, { chunkBytes }] of index.entries()) {
      const key = keyOf(digest);
      if (!named.delete(key)) continue;
      keys.push(key);
      liveBytes += chunkBytes;
    }
    live.push({ number, liveBytes });
    inObject.set(number, keys);
  }
  const { kept, givenUp } = chooseObjects(live.reverse(), parts.objectLimits ?? OBJECT_LIMITS_DEFAULT);
  return { objects: kept, givenUp: new Set(givenUp.flatMap((number) => inObject.get(number) ?? [])) };
}

const keyOf = (digest: Digest): string => digestBytes(digest).toString('latin1');
