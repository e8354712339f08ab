/** The QEMU of a machine of an earlier supervisor, by the machine's record: taken over, or ended with all that is left of it. */
import { endStrayQemus, wasResumed } from '../machine/find-qemu.js';
import { signalProcess, waitForEnd } from '../machine/process-identity.js';
import { QemuProcess } from '../machine/qemu-process.js';
import type { MachineRecord } from './machine-spec.js';

const END_WAIT_MS = 10_000;

/** `isPastKnown`: all that its guest has done was in this QEMU. */
export type FoundQemu = { readonly qemu: QemuProcess; readonly isPastKnown: boolean };

type Log = (text: string) => void;

/**
 * Undefined: none is left. One that cannot be talked to is ended: two on one overlay would be worse than none. Errors: `local-io` when
 * that one does not end.
 */
export async function adoptQemu(record: MachineRecord, log: Log): Promise<FoundQemu | undefined> {
  const { machine } = record.spec;
  if (record.qemu !== null) {
    try {
      const qemu = await QemuProcess.adopt(record.qemu, record.folder);
      if (qemu !== undefined) return { qemu, isPastKnown: !(await wasResumed(record.qemu)) };
    } catch (error) {
      log(`${machine}: cannot be adopted and is ended: ${String(error)}`);
      await signalProcess(record.qemu, 'SIGKILL');
      if (!(await waitForEnd(record.qemu, END_WAIT_MS))) throw error;
    }
  }
  await endStrayQemus(record.folder, (text) => log(`${machine}: ${text}`));
  return undefined;
}

export async function endQemu(record: MachineRecord, log: Log): Promise<void> {
  if (record.qemu !== null) {
    await signalProcess(record.qemu, 'SIGKILL');
    await waitForEnd(record.qemu, END_WAIT_MS);
  }
  await endStrayQemus(record.folder, (text) => log(`${record.spec.machine}: ${text}`));
}
