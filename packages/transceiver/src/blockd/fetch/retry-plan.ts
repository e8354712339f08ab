/**
 * Whether and when a failed fetch is tried again, as a function of what is known.
 *
 * While a guest waits (class demand) there is no last attempt: the waiting rule above answers the guest, the fetch goes
 * on until the block is there, even when trying again cannot help by itself (a repository can be repaired). Nobody misses a
 * prefetch, so the other classes give up.
 *
 * A guest goes on within 3 s of the moment at which the repository could have answered. So one of the reads that wait, the *probe*,
 * tries at least every 2 s whatever was asked of us; the others do what the server says (Retry-After), and are woken by the first
 * success (retrying-store.ts). A server in trouble sees one request in 2 s of a home, not sixteen.
 */
import { ERROR_TABLE, type ErrorCode } from '@collective/shared';
import type { FetchClass } from '../block-store.js';

export const RETRY_LIMITS = {
  /** The first delay; each further one is twice as long. */
  firstDelayMs: 200,
  /** While a guest waits, an attempt begins at least so often. */
  demandDelayMaxMs: 2_000,
  otherDelayMaxMs: 30_000,
  /** For what trying again does not help by itself. */
  hopelessDelayMs: 30_000,
  otherFailuresMax: 6,
} as const;

export type RetryState = {
  readonly code: ErrorCode;
  readonly fetchClass: FetchClass;
  /** Failed attempts so far, at least 1. */
  readonly failures: number;
  /** How long the last attempt took: falling silent takes its time, which has been waited already. */
  readonly attemptMs: number;
  /** It tries for all reads that wait. */
  readonly isProbe: boolean;
  /** What the server asked for (Retry-After). */
  readonly retryAfterMs?: number;
  /** Jitter: uniform in [0, 1). */
  readonly random: number;
};

export type RetryDecision = { readonly kind: 'give-up' } | { readonly kind: 'again'; readonly delayMs: number };

/** Whether an error is about one block; any other says that nothing can be had just now. */
export const isAboutBlock = (code: ErrorCode): boolean =>
  code === 'block-missing' || code === 'block-corrupt' || code === 'wrong-key';

export const planRetry = (state: RetryState): RetryDecision => {
  const decision = planPatiently(state);
  if (decision.kind === 'give-up' || !state.isProbe || isAboutBlock(state.code)) return decision;
  const delayMaxMs = Math.max(0, RETRY_LIMITS.demandDelayMaxMs - state.attemptMs);
  return { kind: 'again', delayMs: Math.min(decision.delayMs, delayMaxMs) };
};

const planPatiently = (state: RetryState): RetryDecision => {
  const isDemand = state.fetchClass === 'demand';
  if (!ERROR_TABLE[state.code].retryable) {
    return isDemand ? { kind: 'again', delayMs: RETRY_LIMITS.hopelessDelayMs } : { kind: 'give-up' };
  }
  if (!isDemand && state.failures >= RETRY_LIMITS.otherFailuresMax) return { kind: 'give-up' };
  // A connection that died or fell silent says nothing about the next one.
  if (state.failures === 1 && state.code === 'repository-unreachable' && state.retryAfterMs === undefined) {
    return { kind: 'again', delayMs: 0 };
  }
  const delayMaxMs = isDemand ? RETRY_LIMITS.demandDelayMaxMs : RETRY_LIMITS.otherDelayMaxMs;
  const doubled = RETRY_LIMITS.firstDelayMs * 2 ** Math.min(20, state.failures - 1);
  const backoffMs = Math.min(delayMaxMs, doubled) * (0.5 + state.random / 2);
  return {
    kind: 'again',
    delayMs: Math.max(backoffMs, Math.min(state.retryAfterMs ?? 0, RETRY_LIMITS.otherDelayMaxMs)),
  };
};
