/**
 * One machine, carried through its life (machine-state.ts): disks attached, QEMU started, paused and continued, restarted when the
 * guest reboots, stopped, cleaned up. A unit knows nothing of other machines, and nothing that goes wrong in it leaves it.
 *
 * It is over (`stopped` or `failed`) only when nothing of it is left: no process, no socket, no temporary overlay, no record.
 *
 * Its parts: the disks (machine-disks.ts), the guest while QEMU is there (running-guest.ts), the memory when it is a file (suspension.ts).
 * Here is only which of them acts when, and what is undone when a step fails.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { findAccelerator, type AcceleratorFinding } from '../machine/accelerator.js';
import { CollectiveError } from '@collective/shared';
import { endUnfinishedMove } from '../machine/device-state.js';
import type { GuestAgent } from '../machine/guest-agent.js';
import { makeMachineFolder } from '../machine/launcher.js';
import { sessionPaths } from '../machine/machine-session.js';
import { QemuProcess } from '../machine/qemu-process.js';
import type { QemuUser } from '../machine/qemu-user.js';
import { BlockKeyRing, type BlockKeys } from '../blockd/private/block-key-ring.js';
import type { DiskKeys, MachineKeys } from './disk-keys.js';
import type { DiskService } from './disk-service.js';
import { adoptQemu, endQemu, type FoundQemu } from './found-qemu.js';
import { MachineDisks } from './machine-disks.js';
import type { MachineRecords } from './machine-record.js';
import type { MachineRecord, MachineSpec, ShownDisk } from './machine-spec.js';
import {
  isAtRest,
  isOver,
  type MachineEvent,
  type MachineState,
  type MachineStatus,
  nextState,
} from './machine-state.js';
import type { MemoryImage, MemoryImages } from './memory-image.js';
import { RebootPlan } from './reboot-plan.js';
import { RunningGuest } from './running-guest.js';
import { SerialConsole } from './serial-console.js';
import { ShownDisks } from './shown-disks.js';
import { syncGuest } from './suspend-steps.js';
import { Suspension } from './suspension.js';

/** A guest that is shutting down and lacks a block gets so long for it, whatever its deadline: `stop` works in an outage. */
const STUCK_STOP_MS = 10_000;

export type MachineUnitOptions = {
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

export class MachineUnit extends EventEmitter<{ change: [state: MachineState] }> {
  readonly spec: MachineSpec;
  readonly console = new SerialConsole();
  readonly #options: MachineUnitOptions;
  readonly #abort = new AbortController();
  readonly #startedAtMs: number;
  #state: MachineState = { name: 'preparing' };
  #accelerator: AcceleratorFinding | null = null;
  readonly #disks: MachineDisks;
  readonly #suspension: Suspension;
  readonly #shown: ShownDisks;
  #guest: RunningGuest | undefined;
  #restarts = 0;
  #over: Promise<void> = Promise.resolve();
  #setRecorded = (): void => undefined;
  /** Resolves when a next supervisor would find the machine, or when it is over. */
  readonly recorded = new Promise<void>((resolve) => (this.#setRecorded = resolve));
  /** Held back until everything is cleaned up. */
  #outcome: MachineState | undefined;
  #stuckTimer: NodeJS.Timeout | undefined;

  private constructor(
    spec: MachineSpec,
    startedAtMs: number,
    options: MachineUnitOptions,
    found: { readonly image?: MemoryImage; readonly shown?: readonly ShownDisk[] } = {},
  ) {
    super();
    this.spec = spec;
    this.#startedAtMs = startedAtMs;
    this.#options = options;
    const { disks, folder, user, images, machineKeys, log } = options;
    const { diskKey } = machineKeys;
    this.#disks = new MachineDisks({ spec, disks, folder, user, machineKeys, log });
    const next = (event: MachineEvent): void => this.#next(event);
    const isSuspending = (): boolean => this.#state.name === 'suspending';
    this.#suspension = new Suspension({ spec, disks, images, user, diskKey, next, isSuspending, log }, found.image);
    const record = (): Promise<void> => this.#writeRecord(this.qemu?.identity);
    const keysNow = (): MachineKeys => ({ ...machineKeys, blockKeys: this.#disks.blockKeys });
    this.#shown = new ShownDisks({ spec, disks, folder, user, machineKeys: keysNow, record, log }, found.shown);
  }

  /** Begins to start the machine; `state` and `change` say how far it is. */
  static start(spec: MachineSpec, options: MachineUnitOptions): MachineUnit {
    const unit = new MachineUnit(spec, Date.now(), options);
    unit.#over = unit.#live(undefined);
    return unit;
  }

  /** A machine of which only the image is left. */
  static atRest(image: MemoryImage, options: MachineUnitOptions): MachineUnit {
    const unit = new MachineUnit(image.spec, image.startedAtMs, options, { image });
    unit.#restarts = image.restarts;
    unit.#state = { name: 'suspended', sinceMs: image.suspendedAtMs };
    return unit;
  }

  /** Begins to resume it (checkResumable has passed); suspended again when that fails. */
  static resume(image: MemoryImage, options: MachineUnitOptions): MachineUnit {
    const unit = MachineUnit.atRest(image, options);
    unit.#state = { name: 'preparing' };
    unit.#over = unit.#live(undefined);
    return unit;
  }

  /** The supervisor died between the image and its machine's end, or while it resumed it: nothing of the guest has run since. */
  static async finishSuspending(
    record: MachineRecord,
    image: MemoryImage,
    options: MachineUnitOptions,
  ): Promise<MachineUnit> {
    const unit = MachineUnit.atRest(image, options);
    await endQemu(record, options.log);
    // Attached by a daemon that lives on, or now: what the guest wrote is made durable when they are let go.
    await unit.#disks.adopt((error) => options.log(String(error)));
    unit.#outcome = { name: 'suspended', sinceMs: image.suspendedAtMs };
    await unit.#cleanUp();
    return unit;
  }

  /** Takes over a machine of an earlier supervisor. One whose QEMU is gone is cleaned up and over when it resolves. */
  static async adopt(record: MachineRecord, options: MachineUnitOptions): Promise<MachineUnit> {
    const { shown = [] } = record;
    const unit = new MachineUnit(record.spec, record.startedAtMs, options, { shown });
    unit.#restarts = record.restarts;
    unit.#accelerator = { accelerator: record.accelerator, reason: 'as it was started' };
    const isBegun = await options.images.isBegun(record.spec.machine);
    const found = await adoptQemu(record, options.log);
    if (found === undefined && record.qemu === null && !isBegun) {
      // Before its first QEMU, or between two: the start that was asked for goes on. A block daemon that lives on may have its disks still.
      unit.#over = unit.#disks.letGo({ keepOverlay: unit.#isOverlayKept }).then(() => unit.#live(undefined));
      return unit;
    }
    if (found === undefined) {
      const lost = isBegun ? ', when it was being suspended or resumed: what it had in memory is lost' : '';
      unit.#next({ type: 'failed', why: `The machine ended while no supervisor was there${lost}` });
      await unit.#cleanUp();
      return unit;
    }
    unit.#state = { name: 'running' };
    // It was being suspended, or had just been resumed: it stands still for nobody.
    if (isBegun) await endUnfinishedMove(found.qemu.qmp).catch((error: unknown) => options.log(String(error)));
    unit.#over = unit.#live({ ...found, isStopped: isBegun });
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
      qemuPid: this.qemu?.identity.pid ?? null,
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
    this.#assertNotSuspended();
    const cannotShutDown =
      before.name === 'paused' ||
      before.name === 'suspending' ||
      (before.name === 'stopping' && before.why !== undefined);
    this.#next({ type: 'stop', deadlineAtMs: Date.now() + deadlineMs });
    this.#suspension.cancel();
    const guest = this.#guest;
    if (guest === undefined || before.name === 'preparing' || before.name === 'starting') this.#abort.abort();
    else if (cannotShutDown || deadlineMs === 0) void guest.quit();
    else void guest.shutDown(() => (this.#state.name === 'stopping' ? this.#state.deadlineAtMs : Date.now()));
  }

  /**
   * Saves the machine and ends QEMU; resolves when only the image is left. It goes on when that fails. Errors: `in-use` for one that is
   * not up, `local-io`, `disk-full`, `shutting-down` when it was stopped meanwhile.
   */
  async suspend(): Promise<void> {
    if ((this.#outcome ?? this.#state).name === 'suspended') return;
    await (this.#suspension.saving ?? this.#save());
    await this.#guest?.quit();
    await this.#over;
  }

  #save(): Promise<void> {
    const { name } = this.#state;
    const [shown] = this.#shown.list;
    if (shown !== undefined)
      throw new CollectiveError('in-use', `${this.spec.machine} is shown ${shown.name}: close that first`);
    if (this.#shown.isChanging)
      throw new CollectiveError('in-use', `${this.spec.machine} is being shown a disk: try again in a moment`);
    if (this.#guest === undefined || (name !== 'running' && name !== 'paused'))
      throw new CollectiveError('in-use', `${this.spec.machine} is ${name} and cannot be suspended now`);
    this.#next({ type: 'suspend', nowMs: Date.now() });
    return this.#suspension.save(this.#guest, {
      startedAtMs: this.#startedAtMs,
      restarts: this.#restarts,
      accelerator: this.#accelerator?.accelerator ?? 'tcg',
      mustSync: name === 'running',
    });
  }

  /** Shows the running guest one more disk. Errors: `in-use` when it does not run, those of ShownDisks.show. */
  async showDisk(disk: ShownDisk): Promise<void> {
    await this.#shown.show(this.#runningQemu(), disk);
  }

  /** Errors: `in-use` when it does not run, those of ShownDisks.hide. */
  async hideDisk(name: string): Promise<void> {
    await this.#shown.hide(this.#runningQemu(), name);
  }

  /** What the guest's system has in memory of its disks is on them, if its agent answers. Errors: `in-use` when it does not run. */
  async sync(): Promise<void> {
    this.#runningQemu();
    const agent = this.#guest?.agent;
    if (agent !== undefined && this.#state.name === 'running') await syncGuest(agent, (text) => this.#log(text));
  }

  #runningQemu(): QemuProcess {
    const { qemu } = this;
    const { name } = this.#state;
    if (qemu !== undefined && (name === 'running' || name === 'paused')) return qemu;
    throw new CollectiveError('in-use', `${this.spec.machine} is ${name}`);
  }

  /** Throws the memory image of a suspended machine away: it is stopped then. Its kept disks stay. */
  async discard(): Promise<void> {
    if (this.#state.name !== 'suspended' || this.image === undefined)
      throw new CollectiveError('conflict', `${this.spec.machine} is not suspended`);
    await this.#suspension.discard();
    await this.#disks.removeTemporaryOverlays();
    this.#state = { name: 'stopped', how: 'asked' };
    this.emit('change', this.#state);
  }

  get image(): MemoryImage | undefined {
    return this.#suspension.image;
  }

  /** Ends the machine at once, as if its plug were pulled. */
  kill(): void {
    this.#assertNotSuspended();
    this.#next({ type: 'stop', deadlineAtMs: Date.now() });
    this.#suspension.cancel();
    this.#abort.abort();
    void this.qemu?.kill().catch((error: unknown) => this.#log(String(error)));
  }

  /**
   * Keys of blocks of new epochs come to those of the start, for a next supervisor too. Errors: `conflict` when nothing of the machine
   * runs, `disk-full`, `local-io`.
   */
  async setBlockKeys(added: BlockKeys): Promise<void> {
    const ring = new BlockKeyRing(this.#disks.blockKeys);
    // What the guest's disks were written with stays, whoever is logged in now.
    ring.add(added);
    const blockKeys = ring.keys;
    if (isAtRest(this.#state)) throw new CollectiveError('conflict', `${this.spec.machine} does not run`);
    const { keys, machineKeys } = this.#options;
    await keys.keep(this.spec.machine, { ...machineKeys, blockKeys });
    if (isAtRest(this.#state))
      await keys.forget(this.spec.machine); // it ended meanwhile, and has forgotten what was there
    else await this.#disks.setBlockKeys(blockKeys);
  }

  /** The running QEMU, if any. */
  get qemu(): QemuProcess | undefined {
    return this.#guest?.qemu;
  }

  /** Of the guest that runs; undefined when none runs, or it has no agent. */
  get guestAgent(): GuestAgent | undefined {
    return this.#guest?.agent;
  }

  async #live(found: (FoundQemu & { readonly isStopped: boolean }) | undefined): Promise<void> {
    try {
      if (found === undefined) {
        await makeMachineFolder(this.#options.folder, this.#options.user);
        await this.#options.keys.keep(this.spec.machine, this.#options.machineKeys);
        await this.#writeRecord(undefined);
        this.#setRecorded();
        await this.#disks.attach({ fresh: !this.#isOverlayKept, signal: this.#abort.signal });
      }
      const rebootPlan = new RebootPlan();
      for (;;) {
        const isStopped = found?.isStopped ?? this.image !== undefined;
        const guest = found === undefined ? await this.#bringUp() : await this.#takeOver(found);
        found = undefined;
        const servedFromMs = performance.now();
        const end = await guest.serve({
          isStopped,
          onGoing: () => this.#suspension.removeRest().catch((error: unknown) => this.#options.log(String(error))),
          signal: this.#abort.signal,
        });
        this.#guest = undefined;
        await this.#shown.letGo();
        // QEMU may end as soon as its memory is held open: the image is completed without it.
        if ((await this.#suspension.isSaved()) && this.image !== undefined) {
          this.#next({ type: 'suspended', sinceMs: this.image.suspendedAtMs });
          break;
        }
        this.#next({ type: 'ended', reason: end.reason, detail: end.stderrTail });
        if (this.#outcome !== undefined || this.#state.name !== 'preparing') break;
        this.#restarts += 1;
        this.#log('the guest reboots');
        await this.#writeRecord(undefined);
        // A guest that we started again has not done anything by itself.
        if (!guest.startsAgain) await this.#waitToReboot(rebootPlan.waitMsAfter(performance.now() - servedFromMs));
        await this.#disks.renew(this.#abort.signal);
      }
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#log(why);
      const isStopped = this.#state.name === 'stopping';
      if (this.image === undefined) this.#next({ type: 'failed', why });
      else this.#next({ type: 'suspended', sinceMs: this.image.suspendedAtMs, ...(isStopped ? {} : { why }) });
    }
    await this.#cleanUp();
  }

  /** It is resumed; or it rebooted in `maintain` before an earlier supervisor died, and its system overlay is the guest's. */
  get #isOverlayKept(): boolean {
    return this.image !== undefined || (this.spec.keepSystemOverlay === true && this.#restarts > 0);
  }

  async #waitToReboot(waitMs: number): Promise<void> {
    if (waitMs === 0) return;
    this.#next({ type: 'waits', why: `the guest reboots again and again: it is started in ${waitMs / 1_000} s` });
    await delay(waitMs, undefined, { signal: this.#abort.signal });
  }

  #assertNotSuspended(): void {
    if (this.#state.name === 'suspended' || this.#suspension.isCommitted)
      throw new CollectiveError('suspended', `${this.spec.machine} is suspended`);
  }

  async #bringUp(): Promise<RunningGuest> {
    const { folder, user, disks } = this.#options;
    const { spec, image } = this;
    await this.#disks.warm(this.#abort.signal, (why) => this.#next({ type: 'waits', why }));
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
    if (image !== undefined) await this.#suspension.load(qemu, this.#abort.signal);
    else await disks.traceStart(spec.machine).catch((error: unknown) => this.#log(`no trace: ${String(error)}`));
    return guest;
  }

  async #takeOver({ qemu, isPastKnown }: FoundQemu): Promise<RunningGuest> {
    const guest = this.#watch(qemu, { isPastKnown });
    await this.console.connect(qemu.paths.serial, this.#abort.signal).catch(() => this.#log('no console'));
    // Before anything that may wait for the guest: without its disks it makes no step.
    await this.#disks.adoptOfGuest({ hasEnded: () => qemu.ended !== undefined, signal: this.#abort.signal });
    await this.#shown.adopt();
    return guest;
  }

  #watch(qemu: QemuProcess, options: { readonly isPastKnown: boolean }): RunningGuest {
    this.#guest = new RunningGuest(qemu, {
      ...options,
      spec: this.spec,
      disks: this.#options.disks,
      hasSpace: () => this.#disks.hasSpace(),
      next: (event) => this.#next(event),
      log: this.#options.log,
    });
    return this.#guest;
  }

  /** Ends what is left, in reverse order, then says how it went. */
  async #cleanUp(): Promise<void> {
    const { records, keys, folder } = this.#options;
    const attempt = async (what: string, step: () => Promise<unknown>): Promise<void> => {
      await step().catch((error: unknown) => this.#log(`cleaning up ${what}: ${String(error)}`));
    };
    const { qemu } = this;
    if (qemu !== undefined) {
      await attempt('QEMU', () => qemu.kill());
      qemu.close();
      this.#guest = undefined;
    }
    this.console.close();
    const isSuspended = this.#outcome?.name === 'suspended' && this.image !== undefined;
    await this.#shown.letGo();
    await this.#disks.letGo({ keepOverlay: isSuspended });
    if (isSuspended) await attempt('the image', () => this.#suspension.nameLayers());
    else {
      // A block daemon that was restarted, or never there, has not deleted them.
      await this.#disks.removeTemporaryOverlays();
      await attempt('the memory', () => this.#suspension.removeRest());
    }
    await attempt('the folder', () => rm(folder, { recursive: true, force: true }));
    await attempt('the record', () => records.remove(this.spec.machine));
    await attempt('the key', () => keys.forget(this.spec.machine));
    const outcome = this.#outcome ?? { name: 'failed', why: 'the machine ended' };
    this.#state = outcome;
    this.#setRecorded();
    this.emit('change', outcome);
  }

  #log(text: string): void {
    this.#options.log(`${this.spec.machine}: ${text}`);
  }

  #next(event: MachineEvent): void {
    if (this.#outcome !== undefined) return;
    const state = nextState(this.#state, event);
    if (state === this.#state) return;
    if (isAtRest(state)) {
      clearTimeout(this.#stuckTimer);
      this.#outcome = state; // shown when the cleaning up is done
      return;
    }
    const isStuck = state.name === 'stopping' && state.why !== undefined;
    if (!isStuck) {
      clearTimeout(this.#stuckTimer);
      this.#stuckTimer = undefined;
    } else this.#stuckTimer ??= setTimeout(() => void this.#guest?.quit(), STUCK_STOP_MS);
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
      ...(this.#shown.list.length === 0 ? {} : { shown: [...this.#shown.list] }),
    });
  }
}
