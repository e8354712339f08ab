/**
 * The waiting rule (DESIGN §4) on the machine's side. A read whose block has not come, or a write that found no space, was
 * answered with an error; QEMU has paused the machine and not told the guest. Here the reason is found and shown, and `cont` is sent
 * when the block path says that the block is there: QEMU then repeats the request.
 *
 * The block path's word is an event, which may be missed (it was being restarted), so it is asked every few seconds as well. `cont` is
 * sent only when nothing is missing any more, because each new wait would make QEMU's main loop hang for seconds.
 *
 * IDE disks are different (`stopsFirst`). Firmware reads them by programmed I/O, and when such a read fails QEMU 7.2 takes the drive's
 * BUSY bit away at once but stops the guest a little later: a guest that looks in between sees a drive that is idle and has no data, which
 * is a read error to it ("GRUB loading Read Error", measured on a busy host). So there the guest is stopped first, when the block path says
 * that it is about to give up, and the error comes to a guest that stands still. `stop` halts the guest, says so, and then waits in
 * QEMU's main loop for all reads under way; these are told to end at once.
 *
 * That window opens again at `cont`: QEMU repeats the read from a bottom half, which runs after the guest has begun to go on. Nothing
 * that QMP knows closes it, so an IDE guest that stands still in its firmware or boot loader is not continued but started again
 * (`startsAgain`): nothing is lost, and a boot loader that saw the error would be at its end.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { field, type QmpClient, type QmpEvent } from '../machine/qmp-client.js';
import type { DiskService, DiskServiceEvents } from './disk-service.js';
import type { MachineEvent } from './machine-state.js';

const LOOK_INTERVAL_MS = 3_000;
/** How often a full local disk is asked for its space: somebody has just deleted something and looks at the machine. */
const SPACE_INTERVAL_MS = 1_000;
/** When the block path cannot say what is missing, or the local disk does not seem to be full. */
const TRY_INTERVAL_MS = 10_000;
const CONT_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 15_000;
/**
 * For reads of a guest that stands still already. QEMU has told us that it stopped, and waits in its main loop, display and all, for the
 * reads that were under way beside the one that failed: up to 5 s, if they were left alone.
 */
const SHORT_WAIT_MS = 1;
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
  readonly qmp: Pick<QmpClient, 'cont' | 'queryStatus' | 'execute'>;
}

export type DiskPausesOptions = {
  readonly machine: string;
  readonly qemu: PausableQemu;
  readonly disks: DiskService;
  /** Whether the file system of the machine's overlays has room for a good many writes. */
  readonly hasSpace: () => Promise<boolean>;
  /** The guest is stopped before a read of it is answered with an error. */
  readonly stopsFirst?: boolean;
  /**
   * Instead of `cont` after a read: begins to start the guest again and says true, or says that it may go on. Does not begin while held,
   * nor on trial (nobody can say what is missing: a new start could fail where a pause cannot), when true means that it is to wait.
   */
  readonly startsAgain?: (options: { readonly isTrial: boolean }) => Promise<boolean>;
  readonly next: (event: MachineEvent) => void;
  readonly onLongPauseOver: () => void;
  readonly log: (text: string) => void;
};

export type DiskPauses = {
  /** Asks QEMU for its state: for a machine that was taken over, or whose events may have been missed. */
  readonly lookAgain: () => Promise<void>;
  /** True: the machine is being suspended and is not continued, nor said to be paused, until false. */
  readonly hold: (isHeld: boolean) => void;
  readonly close: () => void;
};

export function watchDiskPauses(options: DiskPausesOptions): DiskPauses {
  const watcher = new PauseWatcher(options);
  return { lookAgain: () => watcher.lookAgain(), hold: (isHeld) => watcher.hold(isHeld), close: () => watcher.close() };
}

type Fault = { readonly why: string; readonly noSpace: boolean; readonly isWrite: boolean };

const UNKNOWN_FAULT: Fault = { why: 'a disk request failed', noSpace: false, isWrite: false };

class PauseWatcher {
  readonly #options: DiskPausesOptions;
  /** The failed request that paused the machine, from its event until the machine goes on. */
  #fault: Fault | undefined;
  /** Aborted when the machine goes on. */
  #pause: { readonly sinceMs: number; readonly over: AbortController } | undefined;
  #closed = false;
  /** How often it has gone on. */
  #ends = 0;
  /** Reads of the guest, which stands still, are given up at once. */
  #isWaitShort = false;
  #held = false;
  #lastTryMs = 0;
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
  readonly #onUnavailable = (...[machine]: DiskServiceEvents['unavailable']): void => {
    if (machine === this.#options.machine && this.#options.stopsFirst === true)
      this.#stopping ??= this.#stopFirst().finally(() => (this.#stopping = undefined));
  };
  /** Under way; resolves when the guest stands still and no read of it is pending. */
  #stopping: Promise<void> | undefined;

  constructor(options: DiskPausesOptions) {
    this.#options = options;
    options.qemu.on('qmp', this.#onQmp);
    options.disks.on('arrived', this.#onArrived);
    options.disks.on('restarted', this.#onRestarted);
    options.disks.on('unavailable', this.#onUnavailable);
  }

  close(): void {
    this.#closed = true;
    this.#pause?.over.abort();
    this.#wake();
    this.#options.qemu.off('qmp', this.#onQmp);
    this.#options.disks.off('arrived', this.#onArrived);
    this.#options.disks.off('restarted', this.#onRestarted);
    this.#options.disks.off('unavailable', this.#onUnavailable);
  }

  hold(isHeld: boolean): void {
    this.#held = isHeld;
    if (!isHeld) this.#wake();
  }

  async lookAgain(): Promise<void> {
    const { status, running } = await this.#options.qemu.qmp.queryStatus();
    if (this.#closed) return;
    if (running) return this.#end();
    // Nobody but us stops such a guest, or it would have been told us: an earlier supervisor did, for a block.
    if (status === 'io-error' || (status === 'paused' && this.#options.stopsFirst === true))
      this.#fault ??= UNKNOWN_FAULT;
    this.#begin();
  }

  #take(event: QmpEvent): void {
    switch (event.name) {
      case 'BLOCK_IO_ERROR':
        if (field(event.data, 'action') === 'stop') this.#fault = faultOf(event);
        return;
      case 'STOP':
        // Two faults shortly after one another: the second was told before the end of the first one's pause, and is forgotten with it.
        if (this.#fault === undefined && !this.#held) void this.#askWhyStopped();
        else this.#begin();
        return;
      case 'RESUME':
        this.#end();
        return;
    }
  }

  async #askWhyStopped(): Promise<void> {
    const ends = this.#ends;
    try {
      const { status, running } = await this.#options.qemu.qmp.queryStatus();
      if (running || ends !== this.#ends) return; // the answer may be taken after a RESUME that came after it
      if (status === 'io-error') this.#fault ??= UNKNOWN_FAULT;
    } catch (error) {
      if (this.#closed || ends !== this.#ends) return;
      this.#options.log(`${this.#options.machine}: ${String(error)}`);
      this.#fault ??= UNKNOWN_FAULT; // a guest that goes on though somebody stopped it is better than one that never does
    }
    this.#begin();
  }

  async #stopFirst(): Promise<void> {
    if (this.#pause !== undefined || this.#held || this.#closed) return;
    const { machine, qemu, log } = this.#options;
    this.#fault = { why: 'a read waits for its block', noSpace: false, isWrite: false };
    try {
      // Answered when all reads have ended; the event STOP comes before, and cuts that short.
      await qemu.qmp.execute('stop', {}, { timeoutMs: STOP_TIMEOUT_MS });
    } catch (error) {
      log(`${machine}: stop: ${String(error)}`);
      if (this.#pause === undefined) this.#fault = undefined;
    }
  }

  #begin(): void {
    if (this.#pause !== undefined || this.#closed) return;
    if (this.#held && this.#fault === undefined) return; // stopped to be saved
    const { next } = this.#options;
    this.#pause = { sinceMs: Date.now(), over: new AbortController() };
    if (this.#fault === undefined) {
      next({ type: 'paused', cause: 'request', why: 'paused on request', nowMs: Date.now() });
      return;
    }
    this.#futile = performance.now() - this.#lastContAtMs < FUTILE_WITHIN_MS ? this.#futile + 1 : 0;
    next({ type: 'paused', cause: 'disk', why: this.#fault.why, nowMs: Date.now() });
    this.#isWaitShort = true;
    void this.#options.disks.setWait(this.#options.machine, SHORT_WAIT_MS);
    void this.#waitAndContinue(this.#fault, this.#pause.over.signal);
  }

  async #restoreWait(): Promise<void> {
    if (!this.#isWaitShort) return;
    this.#isWaitShort = false;
    await this.#options.disks.setWait(this.#options.machine, undefined);
  }

  #end(): void {
    this.#ends += 1;
    void this.#restoreWait();
    const pause = this.#pause;
    this.#fault = undefined;
    this.#pause = undefined;
    if (pause === undefined) return;
    pause.over.abort();
    this.#options.next({ type: 'resumed' });
    if (Date.now() - pause.sinceMs >= LONG_PAUSE_MS) this.#options.onLongPauseOver();
  }

  async #waitAndContinue(fault: Fault, over: AbortSignal): Promise<void> {
    const { disks, machine, next, hasSpace } = this.#options;
    this.#lastTryMs = Date.now();
    if (this.#futile > 0) {
      const waitMs = Math.min(FUTILE_WAIT_MAX_MS, FUTILE_FIRST_WAIT_MS * 2 ** Math.min(20, this.#futile - 1));
      await this.#sleep(over, waitMs);
    }
    while (!over.aborted && !this.#closed) {
      this.#woken = false;
      await this.#stopping;
      const missing = await disks.missing(machine).catch(() => undefined);
      if (over.aborted || this.#closed) return;
      if (this.#held) {
        await this.#sleep(over, LOOK_INTERVAL_MS);
        continue;
      }
      const first = missing?.find(({ blocks }) => blocks.length > 0);
      if (first !== undefined) {
        const count = first.blocks.length > 1 ? ` (and ${first.blocks.length - 1} more)` : '';
        const why = `waits for block ${first.blocks[0] ?? ''}${count} of disk ${first.disk}${first.why === undefined ? '' : `: ${first.why}`}`;
        next({ type: 'paused', cause: 'disk', why, nowMs: Date.now() });
      } else {
        const isTimely = fault.noSpace ? await hasSpace().catch(() => false) : missing !== undefined;
        if (over.aborted || this.#closed) return;
        if (isTimely || Date.now() - this.#lastTryMs >= TRY_INTERVAL_MS)
          await this.#continue(fault, { isHopeful: isTimely || !fault.noSpace, isTrial: !isTimely });
      }
      if (!over.aborted) await this.#sleep(over, fault.noSpace ? SPACE_INTERVAL_MS : LOOK_INTERVAL_MS);
    }
  }

  /** `isHopeful`: a fault at once would be a surprise, and counts as futile. */
  async #continue(
    { isWrite }: Fault,
    { isHopeful, isTrial }: { readonly isHopeful: boolean; readonly isTrial: boolean },
  ): Promise<void> {
    const { machine, qemu, startsAgain, log } = this.#options;
    // Looked at after each wait: a suspend that has begun meanwhile is about to say `stop`, or has said it and copies the memory.
    if (this.#held) return;
    await this.#restoreWait();
    if (this.#held) return;
    this.#lastTryMs = Date.now();
    // A write that waits is in no statistic yet, and would be lost with what the guest holds in memory.
    if (!isWrite && (await startsAgain?.({ isTrial })) === true) return;
    if (this.#held) return;
    this.#lastContAtMs = isHopeful ? performance.now() : Number.NEGATIVE_INFINITY;
    await qemu.qmp
      .cont({ timeoutMs: CONT_TIMEOUT_MS })
      .catch((error: unknown) => log(`${machine}: cont: ${String(error)}`));
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

function faultOf({ data }: QmpEvent): Fault {
  const noSpace = field(data, 'nospace') === true;
  const disk = String(field(data, 'node-name') ?? '').replace(/^disk-/, '');
  const isWrite = field(data, 'operation') === 'write';
  if (noSpace) return { noSpace, isWrite, why: 'the local disk is full' };
  return {
    noSpace,
    isWrite,
    why: `a ${isWrite ? 'write' : 'read'} of disk ${disk} failed: ${String(field(data, 'reason') ?? 'no reason given')}`,
  };
}
