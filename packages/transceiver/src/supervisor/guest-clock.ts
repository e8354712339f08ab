/**
 * The guest's clock after it stood still. A guest reads its hardware clock when it boots and counts by itself from then on, so a pause
 * makes it late; its agent is told the right time. A guest that was paused before its agent had started, or whose agent lacks a
 * block itself, does not answer at once: it is asked again until it does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestAgent } from '../machine/guest-agent.js';

const ASK_AGAIN_MS = 2_000;
/** An agent that has not answered for so long is not there. */
const GIVE_UP_MS = 30 * 60_000;

export type GuestClockOptions = {
  readonly agent: Pick<GuestAgent, 'ping' | 'setTime'>;
  readonly log: (text: string) => void;
  readonly nowMs?: () => number;
  /** Tests. */
  readonly askAgainMs?: number;
};

export class GuestClock {
  readonly #options: GuestClockOptions;
  #attempt = new AbortController();

  constructor(options: GuestClockOptions) {
    this.#options = options;
  }

  /** Begins to set it; an attempt of an earlier pause is given up. */
  set(): void {
    this.#attempt.abort();
    this.#attempt = new AbortController();
    void this.#trySet(this.#attempt.signal);
  }

  /** The machine is over. */
  close(): void {
    this.#attempt.abort();
  }

  async #trySet(signal: AbortSignal): Promise<void> {
    const { agent, log, nowMs = Date.now, askAgainMs = ASK_AGAIN_MS } = this.#options;
    const beganMs = performance.now();
    while (!signal.aborted) {
      // The time is read when the agent has just answered: one that is slow would be told a time that is over.
      if ((await agent.ping()) && !signal.aborted) {
        try {
          await agent.setTime(nowMs());
          return;
        } catch (error) {
          log(`the guest's clock was not set: ${String(error)}`);
        }
      }
      if (performance.now() - beganMs > GIVE_UP_MS) return;
      await delay(askAgainMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }
}
