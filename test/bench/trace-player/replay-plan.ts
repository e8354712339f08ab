/**
 * From a recording to what the player does: for each request, in order of arrival, which replies have to be there and how long
 * the guest then thinks. A pure function.
 *
 * A request may depend on every reply that had been sent before it arrived, and on nothing else. Replies are numbered in the
 * order in which they were sent in the recording, so that "every reply before" is one number: `after`, the first so many of them.
 */
import type { RecordedRequest, RequestRecordingFile } from '@collective/transceiver';

export type ReplayStep = {
  readonly request: RecordedRequest;
  /** The first so many replies of the recording must have come. */
  readonly after: number;
  /** The guest's own time between the last of them (or the start) and this request, microseconds. */
  readonly thinkUs: number;
  /** Which reply this request's is, in the recording's order; undefined when it had none. */
  readonly replyRank: number | undefined;
};

export type ReplayPlan = {
  /** In the order of issue. */
  readonly steps: readonly ReplayStep[];
  readonly replyCount: number;
  /** The end of the recording (the login prompt), as if it were a request. */
  readonly end: { readonly after: number; readonly thinkUs: number };
};

const replyUs = ({ arrivalUs, serviceUs }: RecordedRequest): number | undefined =>
  serviceUs === undefined ? undefined : arrivalUs + serviceUs;

/**
 * `reactionUs`: a request that arrived sooner than this after a reply cannot have been caused by it: it was on its way already.
 */
export const replayPlan = (
  { requests, endUs }: Pick<RequestRecordingFile, 'requests' | 'endUs'>,
  options: { readonly reactionUs?: number } = {},
): ReplayPlan => {
  const reactionUs = options.reactionUs ?? 0;
  const replies = requests
    .map((request, index) => ({ index, atUs: replyUs(request) }))
    .filter((reply): reply is { index: number; atUs: number } => reply.atUs !== undefined)
    .sort((one, other) => one.atUs - other.atUs || one.index - other.index);
  const rankOf = new Map(replies.map(({ index }, rank) => [index, rank]));
  let after = 0;
  const dependencyAt = (arrivalUs: number): { readonly after: number; readonly thinkUs: number } => {
    while ((replies[after]?.atUs ?? Infinity) + reactionUs <= arrivalUs) after += 1;
    return { after, thinkUs: arrivalUs - (after === 0 ? 0 : (replies[after - 1]?.atUs ?? 0)) };
  };
  const steps = requests.map((request, index) => {
    const dependency = dependencyAt(request.arrivalUs);
    return { request, ...dependency, replyRank: rankOf.get(index) };
  });
  return { steps, replyCount: replies.length, end: dependencyAt(endUs) };
};
