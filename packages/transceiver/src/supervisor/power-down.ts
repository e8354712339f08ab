/** Asks a guest to shut down, again and again until the deadline: a guest that is still in its firmware does not hear the power button. */
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestAgent } from '../machine/guest-agent.js';
import type { QemuProcess } from '../machine/qemu-process.js';

const REPEAT_MS = 5_000;
const AGENT_TIMEOUT_MS = 1_000;

/** Resolves when QEMU has ended or the deadline (which may be moved nearer meanwhile) is over; never rejects. */
export async function powerDown(
  qemu: QemuProcess,
  options: { readonly guestAgent: GuestAgent | undefined; readonly deadlineAtMs: () => number },
): Promise<void> {
  const over = new AbortController();
  if (qemu.ended === undefined) qemu.once('end', () => over.abort());
  else over.abort();
  let askAgainAtMs = 0;
  while (!over.signal.aborted && Date.now() < options.deadlineAtMs()) {
    if (Date.now() >= askAgainAtMs) {
      askAgainAtMs = Date.now() + REPEAT_MS;
      void ask(qemu, options.guestAgent);
    }
    // The deadline is looked at often because a second `stop` may have moved it.
    await delay(Math.min(100, Math.max(1, options.deadlineAtMs() - Date.now())), undefined, {
      signal: over.signal,
    }).catch(() => undefined);
  }
}

async function ask(qemu: QemuProcess, guestAgent: GuestAgent | undefined): Promise<void> {
  try {
    await qemu.qmp.powerDown({ timeoutMs: AGENT_TIMEOUT_MS });
  } catch {
    // a hanging QEMU is asked again, and ended at the deadline
  }
  // Some desktops only ask the person when the power button is pressed; the agent does not ask.
  await guestAgent?.shutdown({ timeoutMs: AGENT_TIMEOUT_MS }).catch(() => undefined);
}
