/**
 * Recovery codes that were shown and not yet confirmed, by what they are for: asked again, the same one is shown, so that
 * a script can show it in one command and confirm its last group in the next. In memory only.
 */
import { CollectiveError, formatRecoveryCode, newRecoveryCode } from '@collective/shared';

const OFFER_MS_MAX = 15 * 60 * 1000;
const OFFERS_MAX = 16;

export class OfferedCodes {
  readonly #nowMs: () => number;
  readonly #offers = new Map<string, { readonly code: string; readonly atMs: number }>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  offer(purpose: string): string {
    const held = this.#held(purpose);
    if (held !== undefined) return held;
    for (const key of this.#offers.keys()) if (this.#offers.size >= OFFERS_MAX) this.#offers.delete(key);
    const code = formatRecoveryCode(newRecoveryCode());
    this.#offers.set(purpose, { code, atMs: this.#nowMs() });
    return code;
  }

  /** The code whose last group was typed back. Errors: `not-found` when none is open, `usage` for another group. */
  confirmed(purpose: string, lastGroup: string): string {
    const code = this.#held(purpose);
    if (code === undefined) throw new CollectiveError('not-found', 'No recovery code is waiting to be confirmed.');
    if (!isLastGroup(code, lastGroup))
      throw new CollectiveError('usage', 'That is not the last group of the recovery code; nothing was changed.');
    return code;
  }

  forget(purpose: string): void {
    this.#offers.delete(purpose);
  }

  #held(purpose: string): string | undefined {
    const held = this.#offers.get(purpose);
    if (held === undefined || this.#nowMs() - held.atMs < OFFER_MS_MAX) return held?.code;
    this.#offers.delete(purpose);
    return undefined;
  }
}

const isLastGroup = (code: string, typed: string): boolean => {
  const group = typed.replace(/[\s-]/g, '').toUpperCase().replace(/O/g, '0').replace(/[IL]/g, '1');
  return group.length >= 4 && code.replace(/-/g, '').endsWith(group);
};
