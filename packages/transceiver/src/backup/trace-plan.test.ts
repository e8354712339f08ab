import { describe, expect, it } from 'vitest';
import { digestBytes, namePrivateTrace, USER_DISK, type BootTrace, type Digest } from '@collective/shared';
import { planTrace } from './trace-plan.js';

const [newest, older] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)];
const traceOf = (...blocks: number[]): BootTrace => ({
  ...USER_DISK,
  blockBytes: 16_384,
  touches: blocks.map((blockIndex) => ({ blockIndex, afterMs: 0, phase: 0, chunkBytes: 0 })),
});
const local = traceOf(1, 2);
const nameOf = (trace: BootTrace, key = newest): Digest => namePrivateTrace(key, trace).digest;
const usual = { nameKeys: [newest, older], mustResend: false, isEmpty: false } as const;
const latin1 = (digest: Digest): string => digestBytes(digest).toString('latin1');

describe('the trace of a snapshot', () => {
  it('is that of the last boot here, sent', () => {
    for (const committed of [undefined, nameOf(traceOf(7))])
      expect(planTrace({ committed, local }, usual)).toEqual({
        digest: nameOf(local),
        send: namePrivateTrace(newest, local),
      });
  });

  it('is not sent again when it has not changed, also under the name of an older epoch', () => {
    for (const key of [newest, older])
      expect(planTrace({ committed: nameOf(local, key), local }, usual)).toEqual({ digest: nameOf(local, key) });
  });

  it('without one here is the committed one', () => {
    expect(planTrace({ committed: nameOf(local), local: undefined }, usual)).toEqual({ digest: nameOf(local) });
    expect(planTrace(undefined, usual)).toEqual({ digest: undefined });
  });

  it('waits for a snapshot that adds something else', () => {
    const committed = nameOf(traceOf(7));
    expect(planTrace({ committed, local }, { ...usual, isEmpty: true })).toEqual({ digest: committed });
    expect(planTrace({ committed: undefined, local }, { ...usual, isEmpty: true })).toEqual({ digest: undefined });
  });

  it('that no listed object has any more is sent again, or named no more', () => {
    const committed = nameOf(local);
    for (const gone of [{ mustResend: true }, { givenUp: new Set([latin1(committed)]) }]) {
      const how = { ...usual, ...gone };
      expect(planTrace({ committed, local }, how).send?.digest).toBe(committed);
      expect(planTrace({ committed, local: undefined }, how)).toEqual({ digest: undefined });
      expect(planTrace({ committed, local }, { ...how, isEmpty: true })).toEqual({ digest: undefined });
    }
  });
});
