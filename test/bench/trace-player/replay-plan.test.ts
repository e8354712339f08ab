/** What the player makes of a recording, by small recordings. */
import { describe, expect, it } from 'vitest';
import { COMMAND, type RecordedRequest } from '@collective/transceiver';
import { firstTouches } from './first-touches.js';
import { replayPlan } from './replay-plan.js';

const BLOCK = 65_536;

const request = (
  arrivalUs: number,
  serviceUs: number | undefined,
  rest: Partial<RecordedRequest> = {},
): RecordedRequest => ({
  arrivalUs,
  serviceUs,
  disk: 0,
  connection: 0,
  command: COMMAND.read,
  flags: 0,
  byteOffset: 0,
  byteLength: 4096,
  failed: false,
  ...rest,
});

describe('replay plan', () => {
  it('a request waits for every reply that was sent before it came, and thinks from the last of them', () => {
    const plan = replayPlan({ requests: [request(100, 10), request(150, 10), request(500, 10)], endUs: 1_000 });
    expect(plan.steps.map(({ after, thinkUs, replyRank }) => [after, thinkUs, replyRank])).toEqual([
      [0, 100, 0],
      [1, 40, 1],
      [2, 340, 2],
    ]);
    expect(plan.end).toEqual({ after: 3, thinkUs: 490 });
  });

  it('requests in flight together do not wait for each other, and replies count in the order in which they were sent', () => {
    // The second is answered before the first; the third came between the two replies.
    const plan = replayPlan({ requests: [request(0, 300), request(0, 100), request(200, 50)], endUs: 400 });
    expect(plan.steps.map(({ after, thinkUs, replyRank }) => [after, thinkUs, replyRank])).toEqual([
      [0, 0, 2],
      [0, 0, 0],
      [1, 100, 1],
    ]);
    expect(plan.end).toEqual({ after: 3, thinkUs: 100 });
  });

  it('a request that came sooner after a reply than a guest can react was not caused by it', () => {
    const requests = [request(0, 100), request(105, 50), request(400, 10)];
    expect(replayPlan({ requests, endUs: 500 }).steps.map(({ after }) => after)).toEqual([0, 1, 2]);
    const plan = replayPlan({ requests, endUs: 500 }, { reactionUs: 10 });
    expect(plan.steps.map(({ after, thinkUs }) => [after, thinkUs])).toEqual([
      [0, 0],
      [0, 105],
      [2, 245],
    ]);
  });

  it('nothing waits for a reply that the recording has not seen', () => {
    const plan = replayPlan({ requests: [request(0, undefined), request(10, 20)], endUs: 100 });
    expect(plan.steps.map(({ after, replyRank }) => [after, replyRank])).toEqual([
      [0, undefined],
      [0, 0],
    ]);
    expect(plan.replyCount).toBe(1);
    expect(plan.end).toEqual({ after: 1, thinkUs: 70 });
  });
});

describe('first touches', () => {
  const system = {
    name: 'system',
    blockBytes: BLOCK,
    chunkBytes: (block: number) => (block === 3 ? undefined : 1000 + block),
  };
  const disks = [
    { name: 'system', diskBytes: 8 * BLOCK },
    { name: 'ephemeral', diskBytes: 8 * BLOCK },
  ];
  const touchesOf = (requests: readonly RecordedRequest[]) =>
    firstTouches({ disks, requests, endUs: 10_000, truncated: false }, [system]).map(({ atUs, chunkBytes }) => [
      atUs,
      chunkBytes,
    ]);

  it('each block counts once, when a read first reaches into it; zero blocks and disks without ground do not', () => {
    expect(
      touchesOf([
        request(10, 1, { byteOffset: BLOCK - 512, byteLength: 1024 }),
        request(20, 1, { byteOffset: 0 }),
        request(30, 1, { byteOffset: 2 * BLOCK, byteLength: 3 * BLOCK }),
        request(40, 1, { disk: 1 }),
      ]),
    ).toEqual([
      [10, 1000],
      [10, 1001],
      [30, 1002],
      [30, 1004],
    ]);
  });

  it('what the guest has written, trimmed or zeroed before touches nothing; half of it does', () => {
    expect(
      touchesOf([
        request(10, 1, { command: COMMAND.write, byteOffset: 0, byteLength: 4096 }),
        request(11, 1, { command: COMMAND.trim, byteOffset: BLOCK, byteLength: BLOCK }),
        request(12, 1, { command: COMMAND.writeZeroes, byteOffset: 2 * BLOCK, byteLength: 512 }),
        request(20, 1, { byteOffset: 512, byteLength: 1024 }),
        request(21, 1, { byteOffset: BLOCK + 4096, byteLength: 4096 }),
        request(22, 1, { byteOffset: 2 * BLOCK, byteLength: 1024 }),
        request(23, 1, { command: COMMAND.blockStatus, byteOffset: 0, byteLength: 8 * BLOCK }),
        request(24, 1, { byteOffset: 4 * BLOCK, failed: true }),
      ]),
    ).toEqual([[22, 1002]]);
  });
});
