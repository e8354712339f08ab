/**
 * The waiting rule (DESIGN §4) on the machine's side. A read whose block has not come, or a write that found no space, was
 * answered with an error; QEMU has paused the machine and not told the guest. Here the reason is found and shown, and `cont` is sent
 * when the block path says that the block is there: QEMU then repeats the request.
 *
 * The block path's word is an event, which may be missed (it was being restarted), so it is asked every few seconds as well. `cont` is
 * sent only when nothing is missing any more, because each new wait would make QEMU's main loop hang for seconds.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { field, type QmpClient, type QmpEvent } from '../machine/qmp-client.js';
import type { DiskService, DiskServiceEvents } from './disk-service.js';
import type { MachineEvent } from './machine-state.js';

const LOOK_INTERVAL_MS = 3_000;
/** When the block path cannot say what is missing, or the local disk is full. */
const TRY_INTERVAL_MS = 10_000;
const CONT_TIMEOUT_MS = 10_000;
/**
 * A fault so soon after `cont` is no block that has to be waited for (a read waits 2 s at least): it failed at once and will again, a
 * broken local disk for instance. Each one doubles the time to the next `cont`, until something happens in the block path.
 */
const FUTILE_WITHIN_MS = 1_500;
const FUTILE_FIRST_WAIT_MS = 250;
const FUTILE_WAIT_MAX_MS = 30_000;
/** A shorter pause is nothing to a guest's clock. */
const LONG_PAUSE_MS = 1_000;

/** What is needed of QEMU. */
export interface PausableQemu {
  on(event: 'qmp', listener: (event: QmpEvent) => void): unknown;
  off(event: 'qmp', listener: (event: QmpEvent) => void): unknown;
  readonly qmp: Pick<QmpClient, 'cont' | 'queryStatus'>;
}

export type DiskPausesOptions = {
  readonly machine: string;
  readonly qemu: PausableQemu;
  readonly disks: DiskService;
  readonly next: (event: MachineEvent) => void;
  readonly onLongPauseOver: () => void;
  readonly log: (text: string) => void;
};

export type DiskPauses = {
  /** Asks QEMU for its state: for a machine that was taken over, or whose events may have been missed. */
  readonly lookAgain: () => Promise<void>;
  readonly close: () => void;
};

export function watchDiskPauses(options: DiskPausesOptions): DiskPauses {
  const watcher = new PauseWatcher(options);
  return { lookAgain: () => watcher.lookAgain(), close: () => watcher.close() };
}

class PauseWatcher {
  readonly #options: DiskPausesOptions;
  /** The failed request that paused the machine, from its event until the machine goes on. */
  #fault: { readonly why: string; readonly noSpace: boolean } | undefined;
  /** Aborted when the machine goes on. */
  #pause: { readonly sinceMs: number; readonly over: AbortController } | undefined;
  #closed = false;
  #lastContAtMs = Number.NEGATIVE_INFINITY;
  /** How many `cont` one after the other were answered by the same fault at once. */
  #futile = 0;
  /** Something has happened since the loop last looked. */
  #woken = false;
  #wakeUp: () => void = () => undefined;
  readonly #onQmp = (event: QmpEvent): void => this.#take(event);
  readonly #onArrived = (...[machine]: DiskServiceEvents['arrived']): void => {
    if (machine === this.#options.machine) this.#wake();
  };
  readonly #onRestarted = (): void => this.#wake();

  constructor(options: DiskPausesOptions) {
    this.#options = options;
    options.qemu.on('qmp', this.#onQmp);
    options.disks.on('arrived', this.#onArrived);
    options.disks.on('restarted', this.#onRestarted);
  }

  close(): void {
    this.#closed = true;
    this.#pause?.over.abort();
    this.#wake();
    this.#options.qemu.off('qmp', this.#onQmp);
    this.#options.disks.off('arrived', this.#onArrived);
    this.#options.disks.off('restarted', this.#onRestarted);
  }

  async lookAgain(): Promise<void> {
    const { status, running } = await this.#options.qemu.qmp.queryStatus();
    if (running) return this.#end();
    if (status === 'io-error') this.#fault ??= { why: 'a disk request failed', noSpace: false };
    this.#begin();
  }

  #take(event: QmpEvent): void {
    switch (event.name) {
      case 'BLOCK_IO_ERROR':
        if (field(event.data, 'action') === 'stop') this.#fault = faultOf(event);
        return;
      case 'STOP':
        this.#begin();
        return;
      case 'RESUME':
        this.#end();
        return;
    }
  }

  #begin(): void {
    if (this.#pause !== undefined || this.#closed) return;
    const { next } = this.#options;
    this.#pause = { sinceMs: Date.now(), over: new AbortController() };
    if (this.#fault === undefined) {
      next({ type: 'paused', cause: 'request', why: 'paused on request', nowMs: Date.now() });
      return;
    }
    this.#futile = performance.now() - this.#lastContAtMs < FUTILE_WITHIN_MS ? this.#futile + 1 : 0;
    next({ type: 'paused', cause: 'disk', why: this.#fault.why, nowMs: Date.now() });
    void this.#waitAndContinue(this.#fault, this.#pause.over.signal);
  }

  #end(): void {
    const pause = this.#pause;
    this.#fault = undefined;
    this.#pause = undefined;
    if (pause === undefined) return;
    pause.over.abort();
    this.#options.next({ type: 'resumed' });
    if (Date.now() - pause.sinceMs >= LONG_PAUSE_MS) this.#options.onLongPauseOver();
  }

  async #waitAndContinue(fault: { readonly why: string; readonly noSpace: boolean }, over: AbortSignal): Promise<void> {
    const { disks, machine, next, qemu, log } = this.#options;
    let lastTryMs = Date.now();
    if (this.#futile > 0) {
      const waitMs = Math.min(FUTILE_WAIT_MAX_MS, FUTILE_FIRST_WAIT_MS * 2 ** Math.min(20, this.#futile - 1));
      await this.#sleep(over, waitMs);
    }
    while (!over.aborted && !this.#closed) {
      this.#woken = false;
      const missing = await disks.missing(machine).catch(() => undefined);
      if (over.aborted || this.#closed) return;
      const first = missing?.find(({ blocks }) => blocks.length > 0);
      if (first !== undefined) {
        const count = first.blocks.length > 1 ? ` (and ${first.blocks.length - 1} more)` : '';
        const why = `waits for block ${first.blocks[0] ?? ''}${count} of disk ${first.disk}${first.why === undefined ? '' : `: ${first.why}`}`;
        next({ type: 'paused', cause: 'disk', why, nowMs: Date.now() });
      } else if ((missing !== undefined && !fault.noSpace) || Date.now() - lastTryMs >= TRY_INTERVAL_MS) {
        lastTryMs = Date.now();
        this.#lastContAtMs = performance.now();
        await qemu.qmp
          .cont({ timeoutMs: CONT_TIMEOUT_MS })
          .catch((error: unknown) => log(`${machine}: cont: ${String(error)}`));
      }
      if (!over.aborted) await this.#sleep(over, LOOK_INTERVAL_MS);
    }
  }

  #wake(): void {
    this.#woken = true;
    this.#futile = 0;
    this.#wakeUp();
  }

  /** Until an event, or for so long. */
  async #sleep(over: AbortSignal, waitMs: number): Promise<void> {
    if (this.#woken) return;
    const wakeUp = new AbortController();
    this.#wakeUp = () => wakeUp.abort();
    await delay(waitMs, undefined, { signal: AbortSignal.any([over, wakeUp.signal]) }).catch(() => undefined);
    this.#wakeUp = () => undefined;
  }
}

function faultOf({ data }: QmpEvent): { readonly why: string; readonly noSpace: boolean } {
  const noSpace = field(data, 'nospace') === true;
  const disk = String(field(data, 'node-name') ?? '').replace(/^disk-/, '');
  const operation = field(data, 'operation') === 'write' ? 'write' : 'read';
  if (noSpace) return { noSpace, why: 'the local disk is full' };
  return {
    noSpace,
    why: `a ${operation} of disk ${disk} failed: ${String(field(data, 'reason') ?? 'no reason given')}`,
  };
}
