/** Which boot trace of a disk a snapshot names, and whether its chunk has to be sent. Pure. */
import { digestBytes, namePrivateTrace, type BootTrace, type Digest } from '@collective/shared';

export type KnownTraces = {
  /** The chunk that the committed state names. */
  readonly committed: Digest | undefined;
  /** Of the last boot here. */
  readonly local: BootTrace | undefined;
};

export type PlannedTrace = {
  /** What the snapshot names; undefined: nothing. */
  readonly digest: Digest | undefined;
  /** What goes into its object. */
  readonly send?: ReturnType<typeof namePrivateTrace>;
};

/**
 * The trace of the last boot here, else the committed one, as long as a listed object has that. `isEmpty`: the snapshot adds nothing else. A trace is no
 * reason for an object, and waits for the next snapshot that has one. `nameKeys`: the newest first; under one of an older epoch it is the same trace.
 */
export const planTrace = (
  known: KnownTraces | undefined,
  {
    nameKeys,
    mustResend,
    givenUp,
    isEmpty,
  }: {
    readonly nameKeys: readonly [Uint8Array, ...Uint8Array[]];
    readonly mustResend: boolean;
    /** As PackOptions.givenUp. */
    readonly givenUp?: ReadonlySet<string>;
    readonly isEmpty: boolean;
  },
): PlannedTrace => {
  const { committed, local } = known ?? {};
  const isGone = committed !== undefined && givenUp?.has(digestBytes(committed).toString('latin1')) === true;
  const kept = mustResend || isGone ? undefined : committed;
  if (local === undefined || isEmpty) return { digest: kept };
  const [newest, ...older] = nameKeys;
  const send = namePrivateTrace(newest, local);
  if (kept === send.digest || older.some((key) => namePrivateTrace(key, local).digest === kept))
    return { digest: kept };
  return { digest: send.digest, send };
};
