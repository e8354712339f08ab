/**
 * A machine's QEMU while its guest is there: set going, paused and continued for its disks (disk-pauses.ts), its clock set after it
 * stood still (guest-clock.ts), until QEMU ends. One for each QEMU; whoever asks for it to be saved meanwhile waits for `going`.
 */
import { isInFirmware } from '../machine/firmware-phase.js';
import { GuestAgent } from '../machine/guest-agent.js';
import type { QemuEnd, QemuProcess } from '../machine/qemu-process.js';
import { type DiskPauses, watchDiskPauses } from './disk-pauses.js';
import type { DiskService } from './disk-service.js';
import { GuestClock } from './guest-clock.js';
import type { MachineSpec } from './machine-spec.js';
import type { MachineEvent } from './machine-state.js';
import { powerDown } from './power-down.js';
import { setGoing } from './set-going.js';

/** `quit` is answered at once unless QEMU's main loop hangs on a pending read. */
const QUIT_GRACE_MS = 500;
/** No firmware and boot loader runs for longer, pauses not counted, but one at whose menu nobody chooses. */
const FIRMWARE_RUNS_MS_MAX = 3 * 60_000;
/** As QEMU says it of a guest that reboots (machine-state.ts). */
const GUEST_RESET = 'guest-reset';

export type RunningGuestOptions = {
  readonly spec: MachineSpec;
  readonly disks: DiskService;
  /** Its past counts: all of it was in this QEMU, or it was in its firmware when it was suspended. */
  readonly isPastKnown: boolean;
  /** Whether the local disk has room again. */
  readonly hasSpace: () => Promise<boolean>;
  readonly next: (event: MachineEvent) => void;
  readonly log: (text: string) => void;
};

export class RunningGuest {
  readonly qemu: QemuProcess;
  /** Undefined: the guest has none. */
  readonly agent: GuestAgent | undefined;
  /** Resolves when it goes for the first time, or QEMU has ended before; never rejects. */
  readonly going: Promise<void>;
  readonly #options: RunningGuestOptions;
  readonly #clock: GuestClock | undefined;
  #pauses: DiskPauses | undefined;
  #isHeld = false;
  #goes: () => void = () => undefined;
  #isPoweringDown = false;
  /** QEMU is being ended so that the guest is started from the beginning. */
  #startsAgain = false;
  /** How long it has run, and since when it does. */
  #ranBeforeMs = 0;
  #runsSinceMs: number | undefined;

  constructor(qemu: QemuProcess, options: RunningGuestOptions) {
    this.qemu = qemu;
    this.#options = options;
    qemu.on('qmp', ({ name }) => {
      if (name !== 'STOP' && name !== 'RESUME') return;
      this.#ranBeforeMs = this.#ranMs();
      this.#runsSinceMs = name === 'RESUME' ? performance.now() : undefined;
    });
    this.going = new Promise((resolve) => (this.#goes = resolve));
    if (!options.spec.description.guestAgent) return;
    this.agent = new GuestAgent(qemu.paths.agent);
    this.#clock = new GuestClock({ agent: this.agent, log: (text) => this.#log(text) });
  }

  /**
   * From its first instruction, or from where it stands (`isStopped`), to the end of QEMU, which is let go then. `onGoing` is awaited
   * when it goes on from where it stood. An abort kills QEMU. An end of ours that wants a new start looks as the guest's own reboot does.
   */
  async serve(options: {
    readonly isStopped: boolean;
    readonly onGoing: () => Promise<void>;
    readonly signal: AbortSignal;
  }): Promise<QemuEnd> {
    const { qemu } = this;
    const { isStopped, onGoing, signal } = options;
    const ended = endOf(qemu);
    void ended.then(this.#goes);
    const onAbort = (): void => void qemu.kill().catch((error: unknown) => this.#options.log(String(error)));
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    const pauses = this.#watchPauses();
    try {
      const mayGoOn = !isStopped || !(await this.#isStartedAgain());
      if (mayGoOn)
        await setGoing(qemu, {
          isStopped,
          onStarted: () => this.#options.next({ type: 'started' }),
          lookAgain: pauses.lookAgain,
          log: (text) => this.#log(text),
        });
      if (isStopped) {
        await onGoing();
        this.wake();
      }
      this.#goes();
      const end = await ended;
      return this.#startsAgain ? { ...end, reason: GUEST_RESET } : end;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#pauses = undefined;
      pauses.close();
      this.#clock?.close();
      qemu.close();
    }
  }

  /** It was ended by us to be started from the beginning. */
  get startsAgain(): boolean {
    return this.#startsAgain;
  }

  /** True: it is being suspended and stands still for that, until false. */
  hold(isHeld: boolean): void {
    this.#isHeld = isHeld;
    this.#pauses?.hold(isHeld);
  }

  /** It stood still to be saved, and could not be. */
  async goOn(): Promise<void> {
    if (!(await this.#isStartedAgain())) await this.qemu.qmp.cont();
  }

  /**
   * Of one that stands still, on IDE: whether a new start would lose nothing. No when QEMU does not say, and for a guest of which QEMU
   * knows a part only: it counts writes from its own beginning, so a DOS that had written was taken for a firmware when it was resumed.
   * Nor for one that has run for long: it may be a DOS with a text that nobody has saved yet.
   */
  async isInFirmware(): Promise<boolean> {
    if (!this.#hasIde || !this.#options.isPastKnown || this.#ranMs() > FIRMWARE_RUNS_MS_MAX) return false;
    try {
      return await isInFirmware(this.qemu.qmp);
    } catch (error) {
      this.#log(String(error));
      return false;
    }
  }

  /** Its state may have changed while nobody watched. */
  async lookAgain(): Promise<void> {
    await this.#pauses?.lookAgain();
  }

  /** After it stood still to be saved: its file systems may have been frozen then, and its clock is late. */
  wake(): void {
    void this.agent
      ?.thaw()
      .catch(() => undefined)
      .then(() => this.#setClock());
  }

  /** Asks the guest until the deadline, which may come nearer meanwhile, then ends QEMU. Never rejects. */
  async shutDown(deadlineAtMs: () => number): Promise<void> {
    if (this.#isPoweringDown) return;
    this.#isPoweringDown = true;
    await powerDown(this.qemu, { guestAgent: this.agent, deadlineAtMs });
    if (this.qemu.ended === undefined) await this.quit();
  }

  /** Ends QEMU, without asking the guest. Never rejects. */
  async quit(): Promise<void> {
    await this.qemu.quit(QUIT_GRACE_MS).catch((error: unknown) => this.#log(String(error)));
  }

  /** Instead of going on, where that could show an IDE guest's firmware a read error (disk-pauses.ts). */
  async #isStartedAgain({ isTrial } = { isTrial: false }): Promise<boolean> {
    const isInTime = await this.isInFirmware();
    // Held: it is being saved meanwhile, as it is.
    if (!isInTime || this.#startsAgain || this.#isHeld) return this.#startsAgain;
    if (isTrial) return true;
    this.#log('stood still in its firmware, and is started again');
    this.#startsAgain = true;
    void this.quit();
    return true;
  }

  #ranMs(): number {
    return this.#ranBeforeMs + (this.#runsSinceMs === undefined ? 0 : performance.now() - this.#runsSinceMs);
  }

  get #hasIde(): boolean {
    return this.#options.spec.disks.some(({ bus }) => bus === 'ide');
  }

  #watchPauses(): DiskPauses {
    const { spec, disks, hasSpace, next, log } = this.#options;
    const pauses = watchDiskPauses({
      machine: spec.machine,
      qemu: this.qemu,
      disks,
      hasSpace,
      stopsFirst: this.#hasIde,
      startsAgain: (how) => this.#isStartedAgain(how),
      next,
      onLongPauseOver: () => this.#setClock(),
      log,
    });
    this.#pauses = pauses;
    if (this.#isHeld) pauses.hold(true);
    this.qemu.on('reconnected', () => void pauses.lookAgain().catch((error: unknown) => log(String(error))));
    return pauses;
  }

  #setClock(): void {
    if (this.qemu.ended === undefined) this.#clock?.set();
  }

  #log(text: string): void {
    this.#options.log(`${this.#options.spec.machine}: ${text}`);
  }
}

const endOf = (qemu: QemuProcess) =>
  new Promise<QemuEnd>((resolve) => {
    if (qemu.ended !== undefined) resolve(qemu.ended);
    else qemu.once('end', resolve);
  });
