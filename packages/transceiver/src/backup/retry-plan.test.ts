import { describe, expect, it } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { retryAfterMs, troubleOf } from './retry-plan.js';

describe('what a failure means', () => {
  it.each([
    ['repository-unreachable', 'away'],
    ['rate-limited', 'away'],
    ['token-expired', 'away'],
    ['wrong-offset', 'away'],
    ['block-unavailable', 'away'],
    ['disk-full', 'repository-full'],
    ['untrusted', 'failed'],
    ['device-revoked', 'failed'],
  ] as const)('%s: %s', (code, kind) => {
    expect(troubleOf(new CollectiveError(code))).toBe(kind);
  });

  it("the local disk is not the repository's", () => {
    expect(troubleOf(new CollectiveError('disk-full', 'x', { data: { local: true } }))).toBe('local-full');
    expect(troubleOf(new TypeError('a program that is wrong'))).toBe('failed');
  });

  it('the block daemon’s end is none of the network, nor something that waiting does not mend', () => {
    const error = new CollectiveError('shutting-down', 'x', { data: { isBlockd: true } });
    expect(troubleOf(error)).toBe('blockd-away');
    expect([1, 2, 50].map((failures) => retryAfterMs('blockd-away', failures, 1))).toEqual([500, 1_000, 5_000]);
  });
});

describe('when it is tried again', () => {
  it('doubles up to the most, and never at exactly the same moment', () => {
    const waits = [1, 2, 3, 4, 5, 6, 7, 100].map((failures) => retryAfterMs('away', failures, 1));
    expect(waits).toEqual([2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    expect(retryAfterMs('away', 1, 0)).toBe(1_500);
    expect(retryAfterMs('repository-full', 1, 1)).toBe(60_000);
    expect(retryAfterMs('failed', 50, 1)).toBe(1_800_000);
  });
});
