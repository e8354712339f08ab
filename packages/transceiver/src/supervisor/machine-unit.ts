/**
 * One machine, carried through its life (machine-state.ts): disks attached, QEMU started, paused and continued, restarted when the
 * guest reboots, stopped, cleaned up. A unit knows nothing of other machines, and nothing that goes wrong in it leaves it.
 *
 * It is over (`stopped` or `failed`) only when nothing of it is left: no process, no socket, no temporary overlay, no record.
 *
 * Long, because each step of the life undoes what the steps before it made, and that is read best in one place.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { findAccelerator, type AcceleratorFinding } from '../machine/accelerator.js';
import { endStrayQemus } from '../machine/find-qemu.js';
import { GuestAgent } from '../machine/guest-agent.js';
import { makeMachineFolder } from '../machine/launcher.js';
import { sessionPaths } from '../machine/machine-session.js';
import { QemuProcess } from '../machine/qemu-process.js';
import { type ProcessIdentity, signalProcess, waitForEnd } from '../machine/process-identity.js';
import type { QemuUser } from '../machine/qemu-user.js';
import type { DiskService } from './disk-service.js';
import { watchDiskPauses } from './disk-pauses.js';
import type { MachineRecords } from './machine-record.js';
import type { MachineDisk, MachineRecord, MachineSpec } from './machine-spec.js';
import { isOver, type MachineEvent, type MachineState, nextState } from './machine-state.js';
import { RebootPlan } from './reboot-plan.js';
import { SerialConsole } from './serial-console.js';
import { powerDown } from './power-down.js';
import { setGoing } from './set-going.js';

/** libata gives a SATA or IDE request up after 30 s, firmware much earlier; a virtio guest waits for ever. */
const WAIT_MS = { virtio: 5_000, sata: 2_000, ide: 2_000 } as const;
/** `quit` is answered at once unless QEMU's main loop hangs on a pending read. */
const QUIT_GRACE_MS = 500;
const WARM_RETRY_MS = 1_000;
/** A guest that is shutting down and lacks a block gets so long for it, whatever its deadline: `stop` works in an outage. */
const STUCK_STOP_MS = 10_000;

export type MachineUnitOptions = {
  readonly disks: DiskService;
  readonly records: MachineRecords;
  /** Of this machine alone; its parent is passable for `user`. */
  readonly folder: string;
  readonly user: QemuUser | undefined;
  readonly log: (text: string) => void;
};

export type MachineStatus = {
  readonly machine: string;
  readonly state: MachineState;
  readonly startedAtMs: number;
  /** How often the guest has rebooted. */
  readonly restarts: number;
  readonly accelerator: AcceleratorFinding | null;
  readonly qemuPid: number | null;
  /** Where the display is served (VNC); null when the machine has none. */
  readonly vncSocket: string | null;
};

export class MachineUnit extends EventEmitter<{ change: [state: MachineState] }> {
  readonly spec: MachineSpec;
  readonly console = new SerialConsole();
  readonly #options: MachineUnitOptions;
  readonly #abort = new AbortController();
  readonly #startedAtMs: number;
  #state: MachineState = { name: 'preparing' };
  #accelerator: AcceleratorFinding | null = null;
  #qemu: QemuProcess | undefined;
  #restarts = 0;
  #over: Promise<void> = Promise.resolve();
  /** Held back until everything is cleaned up. */
  #outcome: MachineState | undefined;
  #poweringDown = false;
  #stuckTimer: NodeJS.Timeout | undefined;

  private constructor(spec: MachineSpec, startedAtMs: number, options: MachineUnitOptions) {
    super();
    this.spec = spec;
    this.#startedAtMs = startedAtMs;
    this.#options = options;
  }

  /** Begins to start the machine; `state` and `change` say how far it is. */
  static start(spec: MachineSpec, options: MachineUnitOptions): MachineUnit {
    const unit = new MachineUnit(spec, Date.now(), options);
    unit.#over = unit.#live(undefined);
    return unit;
  }

  /** Takes over a machine of an earlier supervisor. One whose QEMU is gone is cleaned up and over when it resolves. */
  static async adopt(record: MachineRecord, options: MachineUnitOptions): Promise<MachineUnit> {
    const unit = new MachineUnit(record.spec, record.startedAtMs, options);
    unit.#restarts = record.restarts;
    unit.#accelerator = { accelerator: record.accelerator, reason: 'as it was started' };
    const qemu = record.qemu === null ? undefined : await unit.#adoptQemu(record.qemu, record.folder);
    if (qemu === undefined) {
      await endStrayQemus(record.folder, (text) => options.log(`${record.spec.machine}: ${text}`));
      unit.#next({ type: 'failed', why: 'The machine ended while no supervisor was there' });
      await unit.#cleanUp();
      return unit;
    }
    unit.#state = { name: 'running' };
    unit.#over = unit.#live(qemu);
    return unit;
  }

  get state(): MachineState {
    return this.#state;
  }

  /** Resolves when the machine is over and cleaned up; never rejects. */
  get over(): Promise<void> {
    return this.#over;
  }

  status(): MachineStatus {
    return {
      machine: this.spec.machine,
      state: this.#state,
      startedAtMs: this.#startedAtMs,
      restarts: this.#restarts,
      accelerator: this.#accelerator,
      qemuPid: this.#qemu?.identity.pid ?? null,
      vncSocket: this.spec.description.display === 'none' ? null : sessionPaths(this.#options.folder).vnc,
    };
  }

  /**
   * Begins to stop: the guest is asked (power button, guest agent) and has until the deadline; then QEMU is ended. A machine that is
   * paused for a disk, or not running yet, cannot be asked and is ended at once; so is one for which `stop` is repeated
   * while it cannot go on shutting down. Idempotent.
   */
  stop(deadlineMs: number): void {
    const before = this.#outcome ?? this.#state;
    if (isOver(before)) return;
    const cannotShutDown = before.name === 'paused' || (before.name === 'stopping' && before.why !== undefined);
    this.#next({ type: 'stop', deadlineAtMs: Date.now() + deadlineMs });
    if (this.#qemu === undefined || before.name === 'preparing' || before.name === 'starting') this.#abort.abort();
    else if (cannotShutDown || deadlineMs === 0) void this.#quit();
    else void this.#shutDown(this.#qemu);
  }

  /** Ends the machine at once, as if its plug were pulled. */
  kill(): void {
    this.#next({ type: 'stop', deadlineAtMs: Date.now() });
    this.#abort.abort();
    void this.#qemu?.kill().catch((error: unknown) => this.#options.log(`${this.spec.machine}: ${String(error)}`));
  }

  /** The running QEMU, if any. */
  get qemu(): QemuProcess | undefined {
    return this.#qemu;
  }

  /** A QEMU that cannot be talked to is ended: two on one overlay would be worse than none. */
  async #adoptQemu(identity: ProcessIdentity, folder: string): Promise<QemuProcess | undefined> {
    try {
      return await QemuProcess.adopt(identity, folder);
    } catch (error) {
      this.#options.log(`${this.spec.machine}: cannot be adopted and is ended: ${String(error)}`);
      await signalProcess(identity, 'SIGKILL');
      if (!(await waitForEnd(identity, 10_000))) throw error;
      return undefined;
    }
  }

  async #live(adopted: QemuProcess | undefined): Promise<void> {
    try {
      if (adopted === undefined) await this.#prepare();
      else await this.#takeOver(adopted);
      const rebootPlan = new RebootPlan();
      for (;;) {
        const qemu = adopted ?? (await this.#bringUp());
        adopted = undefined;
        const servedFromMs = performance.now();
        const end = await this.#serve(qemu);
        this.#next({ type: 'ended', reason: end.reason, detail: end.stderrTail });
        if (this.#outcome !== undefined || this.#state.name !== 'preparing') break;
        this.#restarts += 1;
        this.#options.log(`${this.spec.machine}: the guest reboots`);
        await this.#waitToReboot(rebootPlan.waitMsAfter(performance.now() - servedFromMs));
        await this.#renewDisks();
      }
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#options.log(`${this.spec.machine}: ${why}`);
      this.#next({ type: 'failed', why });
    }
    await this.#cleanUp();
  }

  async #waitToReboot(waitMs: number): Promise<void> {
    if (waitMs === 0) return;
    this.#next({ type: 'waits', why: `the guest reboots again and again: it is started in ${waitMs / 1_000} s` });
    await delay(waitMs, undefined, { signal: this.#abort.signal });
  }

  async #prepare(): Promise<void> {
    await makeMachineFolder(this.#options.folder, this.#options.user);
    await this.#writeRecord(undefined);
    for (const disk of this.spec.disks) await this.#attach(disk, disk.overlay?.mode === 'temporary');
  }

  /** After a reboot of the guest: a fresh overlay for what every start begins with. */
  async #renewDisks(): Promise<void> {
    if (this.spec.keepSystemOverlay === true) return;
    for (const disk of this.spec.disks) {
      if (disk.overlay?.mode !== 'temporary') continue;
      await this.#options.disks.detach(this.spec.machine, disk.name);
      await this.#attach(disk, true);
    }
  }

  async #attach(disk: MachineDisk, fresh: boolean): Promise<void> {
    this.#abort.signal.throwIfAborted();
    await this.#options.disks.attach(this.#attachment(disk), { fresh, signal: this.#abort.signal });
  }

  #attachment(disk: MachineDisk) {
    return {
      machine: this.spec.machine,
      disk: disk.name,
      source: disk.source,
      ...(disk.overlay === undefined ? {} : { overlay: disk.overlay }),
      waitMs: WAIT_MS[disk.bus],
      socketPath: sessionPaths(this.#options.folder).diskSocket(disk.name),
      qemuUser: this.#options.user,
    };
  }

  /** QEMU reads the first sector of each drive before QMP is up, where a long wait would be a hang: it is fetched before. */
  async #warm(): Promise<void> {
    const { disks } = this.#options;
    const { signal } = this.#abort;
    await Promise.all(
      this.spec.disks.map(async ({ name }) => {
        for (;;) {
          signal.throwIfAborted();
          try {
            return await disks.warm(this.spec.machine, name, { signal });
          } catch (error) {
            signal.throwIfAborted();
            const missing = await disks.missing(this.spec.machine);
            const why =
              missing?.find(({ disk }) => disk === name)?.why ??
              (error instanceof Error ? error.message : String(error));
            this.#next({ type: 'waits', why: `the first block of disk ${name} has not come: ${why}` });
            await delay(WARM_RETRY_MS, undefined, { signal });
          }
        }
      }),
    );
    this.#next({ type: 'waits', why: undefined });
  }

  async #bringUp(): Promise<QemuProcess> {
    const { folder, user, disks } = this.#options;
    const { spec } = this;
    await this.#warm();
    this.#next({ type: 'attached' });
    this.#accelerator = await findAccelerator(spec.accelerator ?? 'auto');
    this.#abort.signal.throwIfAborted();
    const qemu = await QemuProcess.launch({
      description: spec.description,
      user,
      session: {
        machine: spec.machine,
        folder,
        disks: spec.disks.map(({ name, bus }) => ({ name, bus })),
        uuid: spec.uuid,
        macAddress: spec.macAddress,
        generationId: randomUUID(),
        accelerator: this.#accelerator.accelerator,
        restrictNetwork: spec.restrictNetwork ?? false,
      },
      onSpawn: (identity) => this.#writeRecord(identity),
      signal: this.#abort.signal,
    });
    this.#qemu = qemu;
    this.#abort.signal.throwIfAborted();
    await this.console.connect(qemu.paths.serial, this.#abort.signal);
    await disks
      .traceStart(spec.machine)
      .catch((error: unknown) => this.#options.log(`${spec.machine}: no trace: ${String(error)}`));
    return qemu;
  }

  async #takeOver(qemu: QemuProcess): Promise<void> {
    this.#qemu = qemu;
    await this.console
      .connect(qemu.paths.serial, this.#abort.signal)
      .catch(() => this.#options.log(`${this.spec.machine}: no console`));
    // Before anything that may wait for the guest: without its disks it makes no step.
    for (const disk of this.spec.disks) await this.#options.disks.adopt(this.#attachment(disk));
  }

  /** From the guest's first instruction (or from where it is) to the end of QEMU. */
  async #serve(qemu: QemuProcess): ReturnType<typeof endOf> {
    const ended = endOf(qemu);
    const { signal } = this.#abort;
    const onAbort = (): void => void qemu.kill().catch((error: unknown) => this.#options.log(String(error)));
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    const pauses = watchDiskPauses({
      machine: this.spec.machine,
      qemu,
      disks: this.#options.disks,
      next: (event) => this.#next(event),
      onLongPauseOver: () => this.#setClock(qemu),
      log: this.#options.log,
    });
    qemu.on('reconnected', () => void pauses.lookAgain().catch((error: unknown) => this.#options.log(String(error))));
    await setGoing(qemu, {
      onStarted: () => this.#next({ type: 'started' }),
      lookAgain: pauses.lookAgain,
      log: (text) => this.#options.log(`${this.spec.machine}: ${text}`),
    });
    const end = await ended;
    signal.removeEventListener('abort', onAbort);
    pauses.close();
    qemu.close();
    this.#qemu = undefined;
    return end;
  }

  #setClock(qemu: QemuProcess): void {
    if (!this.spec.description.guestAgent) return;
    void new GuestAgent(qemu.paths.agent).setTime(Date.now()).catch((error: unknown) => {
      this.#options.log(`${this.spec.machine}: the guest's clock was not set: ${String(error)}`);
    });
  }

  async #shutDown(qemu: QemuProcess): Promise<void> {
    if (this.#poweringDown) return;
    this.#poweringDown = true;
    await powerDown(qemu, {
      guestAgent: this.spec.description.guestAgent ? new GuestAgent(qemu.paths.agent) : undefined,
      deadlineAtMs: () => (this.#state.name === 'stopping' ? this.#state.deadlineAtMs : Date.now()),
    });
    if (qemu.ended === undefined) await this.#quit();
  }

  async #quit(): Promise<void> {
    await this.#qemu
      ?.quit(QUIT_GRACE_MS)
      .catch((error: unknown) => this.#options.log(`${this.spec.machine}: ${String(error)}`));
  }

  /** Ends what is left, in reverse order, then says how it went. */
  async #cleanUp(): Promise<void> {
    const { disks, records, folder, log } = this.#options;
    const attempt = async (what: string, step: () => Promise<unknown>): Promise<void> => {
      await step().catch((error: unknown) => log(`${this.spec.machine}: cleaning up ${what}: ${String(error)}`));
    };
    const qemu = this.#qemu;
    if (qemu !== undefined) {
      await attempt('QEMU', () => qemu.kill());
      qemu.close();
      this.#qemu = undefined;
    }
    this.console.close();
    for (const disk of this.spec.disks) {
      await attempt(disk.name, () => disks.detach(this.spec.machine, disk.name));
      // A block daemon that was restarted, or never there, has not deleted it.
      if (disk.overlay?.mode === 'temporary')
        await rm(disk.overlay.path, { recursive: true, force: true }).catch(() => undefined);
    }
    await attempt('the folder', () => rm(folder, { recursive: true, force: true }));
    await attempt('the record', () => records.remove(this.spec.machine));
    const outcome = this.#outcome ?? { name: 'failed', why: 'the machine ended' };
    this.#state = outcome;
    this.emit('change', outcome);
  }

  #next(event: MachineEvent): void {
    if (this.#outcome !== undefined) return;
    const state = nextState(this.#state, event);
    if (state === this.#state) return;
    if (isOver(state)) {
      clearTimeout(this.#stuckTimer);
      this.#outcome = state; // shown when the cleaning up is done
      return;
    }
    const isStuck = state.name === 'stopping' && state.why !== undefined;
    if (!isStuck) {
      clearTimeout(this.#stuckTimer);
      this.#stuckTimer = undefined;
    } else this.#stuckTimer ??= setTimeout(() => void this.#quit(), STUCK_STOP_MS);
    this.#state = state;
    this.emit('change', state);
  }

  async #writeRecord(qemu: MachineRecord['qemu'] | undefined): Promise<void> {
    await this.#options.records.write({
      format: 1,
      spec: this.spec,
      folder: this.#options.folder,
      user: this.#options.user ?? null,
      accelerator: this.#accelerator?.accelerator ?? 'tcg',
      startedAtMs: this.#startedAtMs,
      restarts: this.#restarts,
      qemu: qemu ?? null,
    });
  }
}

const endOf = (qemu: QemuProcess) =>
  new Promise<NonNullable<QemuProcess['ended']>>((resolve) => {
    if (qemu.ended !== undefined) resolve(qemu.ended);
    else qemu.once('end', resolve);
  });
