/**
 * How long a guest that reboots waits for its next start. Firmware and installers reboot soon after a start, once or twice; a guest
 * that does nothing else shall not take the host's processors and disk for it.
 */
const QUICK_REBOOT_MS = 10_000;
const QUICK_REBOOTS_FREE = 3;
const WAIT_FIRST_MS = 1_000;
const WAIT_MAX_MS = 30_000;

export class RebootPlan {
  #quickReboots = 0;

  /** The wait in milliseconds before the next start, for a guest that ran for so long. */
  waitMsAfter(ranForMs: number): number {
    this.#quickReboots = ranForMs < QUICK_REBOOT_MS ? this.#quickReboots + 1 : 0;
    const excess = this.#quickReboots - QUICK_REBOOTS_FREE;
    return excess <= 0 ? 0 : Math.min(WAIT_MAX_MS, WAIT_FIRST_MS * 2 ** Math.min(20, excess - 1));
  }
}
