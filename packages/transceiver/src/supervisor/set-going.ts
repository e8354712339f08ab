/**
 * Gets a QEMU that was just started, or taken over, to where it runs. It is asked until it has said how it is: one that is paused
 * for a disk and was never asked would stay so for ever, and one on a busy host answers late.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { QmpClient } from '../machine/qmp-client.js';

const ASK_AGAIN_MS = 1_000;

export type SetGoingOptions = {
  /** It was resumed, or stopped by a supervisor that died while it suspended it: it goes on from where it stands. */
  readonly isStopped?: boolean;
  /** The guest's first instruction has run, now or before. */
  readonly onStarted: () => void;
  /** It is past its start and may be paused. */
  readonly lookAgain: () => Promise<void>;
  readonly log: (text: string) => void;
};

export async function setGoing(
  qemu: { readonly ended: unknown; readonly qmp: Pick<QmpClient, 'cont' | 'queryStatus'> },
  { isStopped = false, onStarted, lookAgain, log }: SetGoingOptions,
): Promise<void> {
  while (qemu.ended === undefined) {
    try {
      const { status } = await qemu.qmp.queryStatus();
      if (status === 'prelaunch' || isStopped) await qemu.qmp.cont();
      onStarted();
      if (status !== 'prelaunch') await lookAgain();
      return;
    } catch (error) {
      if (qemu.ended !== undefined) return;
      log(String(error));
      await delay(ASK_AGAIN_MS);
    }
  }
}
