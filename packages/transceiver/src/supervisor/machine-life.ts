/**
 * The life of one machine (machine-state.ts): disks attached, QEMU started, paused and continued, restarted when the guest reboots, cleaned
 * up. It goes on by itself; what is asked of it meanwhile, and when that may be, is machine-unit.ts.
 *
 * It is over (`stopped` or `failed`) only when nothing of it is left: no process, no socket, no temporary overlay, no record.
 *
 * Its parts: the disks (machine-disks.ts), the guest while QEMU is there (running-guest.ts), the memory when it is a file (suspension.ts), how
 * far it is (machine-progress.ts). Here is only which of them acts when, and what is undone when a step fails.
 */
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { hasCode } from '@collective/shared';
import { findAccelerator, type AcceleratorFinding } from '../machine/accelerator.js';
import { makeMachineFolder } from '../machine/launcher.js';
import { QemuProcess } from '../machine/qemu-process.js';
import type { QemuUser } from '../machine/qemu-user.js';
import { isNoRoom } from '../storage/durable-file.js';
import type { DiskKeys, MachineKeys } from './disk-keys.js';
import type { DiskService } from './disk-service.js';
import type { FoundQemu } from './found-qemu.js';
import { MachineDisks } from './machine-disks.js';
import { MachineProgress } from './machine-progress.js';
import type { MachineRecords } from './machine-record.js';
import type { MachineRecord, MachineSpec, ShownDisk } from './machine-spec.js';
import type { MachineEvent, MachineState } from './machine-state.js';
import type { MemoryImage, MemoryImages } from './memory-image.js';
import { onFirstPrompt } from './prompt-watch.js';
import { RebootPlan } from './reboot-plan.js';
import { RunningGuest } from './running-guest.js';
import { SerialConsole } from './serial-console.js';
import { ShownDisks } from './shown-disks.js';
import { Suspension } from './suspension.js';

export type MachineOptions = {
  readonly disks: DiskService;
  readonly records: MachineRecords;
  readonly images: MemoryImages;
  readonly keys: DiskKeys;
  /** What the machine leaves on the local disk is encrypted with its disk key, when there is one. */
  readonly machineKeys: MachineKeys;
  /** Of this machine alone; its parent is passable for `user`. */
  readonly folder: string;
  readonly user: QemuUser | undefined;
  readonly log: (text: string) => void;
};

/** What is known of it when it begins, or is found. */
export type MachineBeginning = {
  readonly startedAtMs: number;
  readonly restarts?: number;
  readonly accelerator?: AcceleratorFinding;
  /** It is suspended. */
  readonly image?: MemoryImage;
  readonly shown?: readonly ShownDisk[];
};

export class MachineLife {
  readonly spec: MachineSpec;
  readonly startedAtMs: number;
  readonly console = new SerialConsole();
  readonly progress: MachineProgress;
  readonly disks: MachineDisks;
  readonly suspension: Suspension;
  readonly shown: ShownDisks;
  readonly #options: MachineOptions;
  readonly #abort = new AbortController();
  #accelerator: AcceleratorFinding | null;
  #guest: RunningGuest | undefined;
  #restarts: number;
  #setRecorded = (): void => undefined;
  /** Of the boot before, when the guest reboots. */
  #leavePrompt = (): void => undefined;
  /** Resolves when a next supervisor would find the machine, or when it is over. */
  readonly recorded = new Promise<void>((resolve) => (this.#setRecorded = resolve));

  /** `preparing`; nothing is begun. */
  constructor(
    spec: MachineSpec,
    options: MachineOptions,
    beginning: MachineBeginning & { readonly onChange: (state: MachineState) => void },
  ) {
    this.spec = spec;
    this.startedAtMs = beginning.startedAtMs;
    this.#options = options;
    this.#restarts = beginning.restarts ?? 0;
    this.#accelerator = beginning.accelerator ?? null;
    this.progress = new MachineProgress({
      onChange: beginning.onChange,
      onStuck: () => void this.#guest?.quit(),
    });
    const { disks, folder, user, images, machineKeys, log } = options;
    const { diskKey } = machineKeys;
    this.disks = new MachineDisks({ spec, disks, folder, user, machineKeys, log });
    const next = (event: MachineEvent): void => this.progress.next(event);
    const isSuspending = (): boolean => this.progress.state.name === 'suspending';
    this.suspension = new Suspension({ spec, disks, images, user, diskKey, next, isSuspending, log }, beginning.image);
    const record = (): Promise<void> => this.#writeRecord(this.#guest?.qemu.identity);
    const keysNow = (): MachineKeys => ({ ...machineKeys, blockKeys: this.disks.blockKeys });
    this.shown = new ShownDisks({ spec, disks, folder, user, machineKeys: keysNow, record, log }, beginning.shown);
  }

  /** How often the guest has rebooted. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Null: not known yet. */
  get accelerator(): AcceleratorFinding | null {
    return this.#accelerator;
  }

  /** While QEMU is there. */
  get guest(): RunningGuest | undefined {
    return this.#guest;
  }

  /** It is resumed; or it rebooted in `maintain` before an earlier supervisor died, and its system overlay is the guest's. */
  get isOverlayKept(): boolean {
    return this.suspension.image !== undefined || (this.spec.keepSystemOverlay === true && this.#restarts > 0);
  }

  /** Ends what waits, and QEMU. */
  abort(): void {
    this.#abort.abort();
  }

  /** From attaching the disks, or from the QEMU that was found, until nothing of it is left; never rejects. */
  async live(found: (FoundQemu & { readonly isStopped: boolean }) | undefined): Promise<void> {
    try {
      if (found === undefined) {
        await makeMachineFolder(this.#options.folder, this.#options.user);
        await this.#options.keys.keep(this.spec.machine, this.#options.machineKeys);
        await this.#writeRecord(undefined);
        this.#setRecorded();
        await this.disks.attach({ fresh: !this.isOverlayKept, signal: this.#abort.signal });
      }
      const rebootPlan = new RebootPlan();
      for (;;) {
        const isStopped = found?.isStopped ?? this.suspension.image !== undefined;
        const guest = found === undefined ? await this.#bringUp() : await this.#takeOver(found);
        found = undefined;
        const servedFromMs = performance.now();
        const end = await guest.serve({
          isStopped,
          onGoing: () => this.suspension.removeRest().catch((error: unknown) => this.#options.log(String(error))),
          signal: this.#abort.signal,
        });
        this.#guest = undefined;
        await this.shown.letGo();
        // QEMU may end as soon as its memory is held open: the image is completed without it.
        if ((await this.suspension.isSaved()) && this.suspension.image !== undefined) {
          this.progress.next({ type: 'suspended', sinceMs: this.suspension.image.suspendedAtMs });
          break;
        }
        this.progress.next({ type: 'ended', reason: end.reason, detail: end.stderrTail });
        if (this.progress.outcome !== undefined || this.progress.state.name !== 'preparing') break;
        this.#restarts += 1;
        this.#log('the guest reboots');
        await this.#writeRecord(undefined);
        // A guest that we started again has not done anything by itself.
        if (!guest.startsAgain) await this.#waitToReboot(rebootPlan.waitMsAfter(performance.now() - servedFromMs));
        await this.disks.renew(this.#abort.signal);
      }
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#log(why);
      const isStopped = this.progress.state.name === 'stopping';
      const full = hasCode(error, 'disk-full') || isNoRoom(error) ? ({ isFull: true } as const) : {};
      if (this.suspension.image === undefined) this.progress.next({ type: 'failed', why, ...full });
      else
        this.progress.next({
          type: 'suspended',
          sinceMs: this.suspension.image.suspendedAtMs,
          ...(isStopped ? {} : { why, ...full }),
        });
    }
    await this.cleanUp();
  }

  /** Ends what is left, in reverse order, then says how it went. */
  async cleanUp(): Promise<void> {
    const { records, keys, folder } = this.#options;
    const attempt = async (what: string, step: () => Promise<unknown>): Promise<void> => {
      await step().catch((error: unknown) => this.#log(`cleaning up ${what}: ${String(error)}`));
    };
    const qemu = this.#guest?.qemu;
    if (qemu !== undefined) {
      await attempt('QEMU', () => qemu.kill());
      qemu.close();
      this.#guest = undefined;
    }
    this.console.close();
    const isSuspended = this.progress.outcome?.name === 'suspended' && this.suspension.image !== undefined;
    await this.shown.letGo();
    await this.disks.letGo({ keepOverlay: isSuspended });
    if (isSuspended) await attempt('the image', () => this.suspension.nameLayers());
    else {
      // A block daemon that was restarted, or never there, has not deleted them.
      await this.disks.removeTemporaryOverlays();
      await attempt('the memory', () => this.suspension.removeRest());
    }
    await attempt('the folder', () => rm(folder, { recursive: true, force: true }));
    await attempt('the record', () => records.remove(this.spec.machine));
    await attempt('the key', () => keys.forget(this.spec.machine));
    this.#setRecorded();
    this.progress.settle();
  }

  async #waitToReboot(waitMs: number): Promise<void> {
    if (waitMs === 0) return;
    this.progress.next({
      type: 'waits',
      why: `the guest reboots again and again: it is started in ${waitMs / 1_000} s`,
    });
    await delay(waitMs, undefined, { signal: this.#abort.signal });
  }

  async #bringUp(): Promise<RunningGuest> {
    const { folder, user, disks } = this.#options;
    const { spec } = this;
    const { image } = this.suspension;
    await this.disks.warm(this.#abort.signal, (why) => this.progress.next({ type: 'waits', why }));
    this.progress.next({ type: 'attached' });
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
        generationId: image?.generationId ?? randomUUID(),
        isResumed: image !== undefined,
        accelerator: this.#accelerator.accelerator,
        restrictNetwork: spec.restrictNetwork ?? false,
      },
      onSpawn: (identity) => this.#writeRecord(identity),
      signal: this.#abort.signal,
    });
    const guest = this.#watch(qemu, { isPastKnown: image === undefined || image.isInFirmware === true });
    this.#abort.signal.throwIfAborted();
    await this.console.connect(qemu.paths.serial, this.#abort.signal);
    if (image !== undefined) await this.suspension.load(qemu, this.#abort.signal);
    else await this.#traceBoot(disks);
    return guest;
  }

  /** A hint for later boots: without it there is only no trace. */
  async #traceBoot(disks: DiskService): Promise<void> {
    const { machine } = this.spec;
    await disks.traceStart(machine).catch((error: unknown) => this.#noTrace(error));
    this.#watchForPrompt(disks);
  }

  #watchForPrompt(disks: DiskService): void {
    this.#leavePrompt();
    this.#leavePrompt = onFirstPrompt(
      this.console,
      () => void disks.traceIdle(this.spec.machine).catch((error: unknown) => this.#noTrace(error)),
    );
  }

  #noTrace(error: unknown): void {
    this.#log(`no trace: ${String(error)}`);
  }

  async #takeOver({ qemu, isPastKnown }: FoundQemu): Promise<RunningGuest> {
    const guest = this.#watch(qemu, { isPastKnown });
    await this.console.connect(qemu.paths.serial, this.#abort.signal).catch(() => this.#log('no console'));
    // It may still be booting; a prompt long after its boot changes nothing any more.
    this.#watchForPrompt(this.#options.disks);
    // Before anything that may wait for the guest: without its disks it makes no step.
    await this.disks.adoptOfGuest({ hasEnded: () => qemu.ended !== undefined, signal: this.#abort.signal });
    await this.shown.adopt();
    return guest;
  }

  #watch(qemu: QemuProcess, options: { readonly isPastKnown: boolean }): RunningGuest {
    this.#guest = new RunningGuest(qemu, {
      ...options,
      spec: this.spec,
      disks: this.#options.disks,
      hasSpace: () => this.disks.hasSpace(),
      next: (event) => this.progress.next(event),
      log: this.#options.log,
    });
    return this.#guest;
  }

  async #writeRecord(qemu: MachineRecord['qemu'] | undefined): Promise<void> {
    await this.#options.records.write({
      format: 1,
      spec: this.spec,
      folder: this.#options.folder,
      user: this.#options.user ?? null,
      accelerator: this.#accelerator?.accelerator ?? 'tcg',
      startedAtMs: this.startedAtMs,
      restarts: this.#restarts,
      qemu: qemu ?? null,
      ...(this.shown.list.length === 0 ? {} : { shown: [...this.shown.list] }),
    });
  }

  #log(text: string): void {
    this.#options.log(`${this.spec.machine}: ${text}`);
  }
}
