/**
 * One machine: how it begins (started, resumed, taken over from an earlier supervisor), what may be asked of it and when. Its life, which goes
 * on by itself, is machine-life.ts. A unit knows nothing of other machines, and nothing that goes wrong in it leaves it.
 */
import { EventEmitter } from 'node:events';
import { CollectiveError } from '@collective/shared';
import { endUnfinishedMove } from '../machine/device-state.js';
import type { GuestAgent } from '../machine/guest-agent.js';
import { sessionPaths } from '../machine/machine-session.js';
import type { QemuProcess } from '../machine/qemu-process.js';
import { BlockKeyRing, type BlockKeys } from '../blockd/private/block-key-ring.js';
import { adoptQemu, endQemu } from './found-qemu.js';
import { type MachineBeginning, MachineLife, type MachineOptions } from './machine-life.js';
import type { MachineRecord, MachineSpec, ShownDisk } from './machine-spec.js';
import { isAtRest, isOver, type MachineState, type MachineStatus } from './machine-state.js';
import type { MemoryImage } from './memory-image.js';
import type { SerialConsole } from './serial-console.js';
import { syncGuest } from './suspend-steps.js';

export class MachineUnit extends EventEmitter<{ change: [state: MachineState] }> {
  readonly spec: MachineSpec;
  readonly #options: MachineOptions;
  readonly #life: MachineLife;
  #over: Promise<void> = Promise.resolve();

  private constructor(spec: MachineSpec, options: MachineOptions, beginning: MachineBeginning) {
    super();
    this.spec = spec;
    this.#options = options;
    this.#life = new MachineLife(spec, options, { ...beginning, onChange: (state) => this.emit('change', state) });
  }

  /** Begins to start the machine; `state` and `change` say how far it is. */
  static start(spec: MachineSpec, options: MachineOptions): MachineUnit {
    const unit = new MachineUnit(spec, options, { startedAtMs: Date.now() });
    unit.#over = unit.#life.live(undefined);
    return unit;
  }

  /** A machine of which only the image is left. */
  static atRest(image: MemoryImage, options: MachineOptions): MachineUnit {
    const unit = new MachineUnit(image.spec, options, beginningOf(image));
    unit.#life.progress.become({ name: 'suspended', sinceMs: image.suspendedAtMs });
    return unit;
  }

  /** Begins to resume it (checkResumable has passed); suspended again when that fails. */
  static resume(image: MemoryImage, options: MachineOptions): MachineUnit {
    const unit = new MachineUnit(image.spec, options, beginningOf(image));
    unit.#over = unit.#life.live(undefined);
    return unit;
  }

  /** The supervisor died between the image and its machine's end, or while it resumed it: nothing of the guest has run since. */
  static async finishSuspending(
    record: MachineRecord,
    image: MemoryImage,
    options: MachineOptions,
  ): Promise<MachineUnit> {
    const unit = new MachineUnit(image.spec, options, beginningOf(image));
    await endQemu(record, options.log);
    // Attached by a daemon that lives on, or now: what the guest wrote is made durable when they are let go.
    await unit.#life.disks.adopt((error) => options.log(String(error)));
    unit.#life.progress.next({ type: 'suspended', sinceMs: image.suspendedAtMs });
    await unit.#life.cleanUp();
    return unit;
  }

  /** Takes over a machine of an earlier supervisor. One whose QEMU is gone is cleaned up and over when it resolves. */
  static async adopt(record: MachineRecord, options: MachineOptions): Promise<MachineUnit> {
    const accelerator = { accelerator: record.accelerator, reason: 'as it was started' };
    const { startedAtMs, restarts, shown = [] } = record;
    const unit = new MachineUnit(record.spec, options, { startedAtMs, restarts, shown, accelerator });
    const life = unit.#life;
    const isBegun = await options.images.isBegun(record.spec.machine);
    const found = await adoptQemu(record, options.log);
    if (found === undefined && record.qemu === null && !isBegun) {
      // Before its first QEMU, or between two: the start that was asked for goes on. A block daemon that lives on may have its disks still.
      unit.#over = life.disks.letGo({ keepOverlay: life.isOverlayKept }).then(() => life.live(undefined));
      return unit;
    }
    if (found === undefined) {
      const lost = isBegun ? ', when it was being suspended or resumed: what it had in memory is lost' : '';
      life.progress.next({ type: 'failed', why: `The machine ended while no supervisor was there${lost}` });
      await life.cleanUp();
      return unit;
    }
    life.progress.become({ name: 'running' });
    // It was being suspended, or had just been resumed: it stands still for nobody.
    if (isBegun) await endUnfinishedMove(found.qemu.qmp).catch((error: unknown) => options.log(String(error)));
    unit.#over = life.live({ ...found, isStopped: isBegun });
    return unit;
  }

  get console(): SerialConsole {
    return this.#life.console;
  }

  get state(): MachineState {
    return this.#life.progress.state;
  }

  /** Resolves when a next supervisor would find the machine, or when it is over. */
  get recorded(): Promise<void> {
    return this.#life.recorded;
  }

  /** Resolves when the machine is over and cleaned up; never rejects. */
  get over(): Promise<void> {
    return this.#over;
  }

  status(): MachineStatus {
    const { startedAtMs, restarts, accelerator } = this.#life;
    return {
      machine: this.spec.machine,
      state: this.state,
      startedAtMs,
      restarts,
      accelerator,
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
    const { progress, guest } = this.#life;
    const before = progress.reached;
    if (isOver(before)) return;
    this.#assertNotSuspended();
    const cannotShutDown =
      before.name === 'paused' ||
      before.name === 'suspending' ||
      (before.name === 'stopping' && before.why !== undefined);
    progress.next({ type: 'stop', deadlineAtMs: Date.now() + deadlineMs });
    this.#life.suspension.cancel();
    if (guest === undefined || before.name === 'preparing' || before.name === 'starting') this.#life.abort();
    else if (cannotShutDown || deadlineMs === 0) void guest.quit();
    else void guest.shutDown(() => (progress.state.name === 'stopping' ? progress.state.deadlineAtMs : Date.now()));
  }

  /**
   * Saves the machine and ends QEMU; resolves when only the image is left. It goes on when that fails. Errors: `in-use` for one that is
   * not up, `local-io`, `disk-full`, `shutting-down` when it was stopped meanwhile.
   */
  async suspend(): Promise<void> {
    if (this.#life.progress.reached.name === 'suspended') return;
    await (this.#life.suspension.saving ?? this.#save());
    await this.#life.guest?.quit();
    await this.#over;
  }

  #save(): Promise<void> {
    const { guest, shown: disks, progress, suspension, startedAtMs, restarts, accelerator } = this.#life;
    const { name } = progress.state;
    const [shown] = disks.list;
    if (shown !== undefined)
      throw new CollectiveError('in-use', `${this.spec.machine} is shown ${shown.name}: close that first`);
    if (disks.isChanging)
      throw new CollectiveError('in-use', `${this.spec.machine} is being shown a disk: try again in a moment`);
    if (guest === undefined || (name !== 'running' && name !== 'paused'))
      throw new CollectiveError('in-use', `${this.spec.machine} is ${name} and cannot be suspended now`);
    progress.next({ type: 'suspend', nowMs: Date.now() });
    return suspension.save(guest, {
      startedAtMs,
      restarts,
      accelerator: accelerator?.accelerator ?? 'tcg',
      mustSync: name === 'running',
    });
  }

  /** Shows the running guest one more disk. Errors: `in-use` when it does not run, those of ShownDisks.show. */
  async showDisk(disk: ShownDisk): Promise<void> {
    await this.#life.shown.show(this.#runningQemu(), disk);
  }

  /** Errors: `in-use` when it does not run, those of ShownDisks.hide. */
  async hideDisk(name: string): Promise<void> {
    await this.#life.shown.hide(this.#runningQemu(), name);
  }

  /** What the guest's system has in memory of its disks is on them, if its agent answers. Errors: `in-use` when it does not run. */
  async sync(): Promise<void> {
    this.#runningQemu();
    const agent = this.guestAgent;
    if (agent !== undefined && this.state.name === 'running')
      await syncGuest(agent, (text) => this.#options.log(`${this.spec.machine}: ${text}`));
  }

  #runningQemu(): QemuProcess {
    const { qemu } = this;
    const { name } = this.state;
    if (qemu !== undefined && (name === 'running' || name === 'paused')) return qemu;
    throw new CollectiveError('in-use', `${this.spec.machine} is ${name}`);
  }

  /** Throws the memory image of a suspended machine away: it is stopped then. Its kept disks stay. */
  async discard(): Promise<void> {
    if (this.state.name !== 'suspended' || this.image === undefined)
      throw new CollectiveError('conflict', `${this.spec.machine} is not suspended`);
    await this.#life.suspension.discard();
    await this.#life.disks.removeTemporaryOverlays();
    this.#life.progress.become({ name: 'stopped', how: 'asked' });
  }

  get image(): MemoryImage | undefined {
    return this.#life.suspension.image;
  }

  /** Ends the machine at once, as if its plug were pulled. */
  kill(): void {
    this.#assertNotSuspended();
    this.#life.progress.next({ type: 'stop', deadlineAtMs: Date.now() });
    this.#life.suspension.cancel();
    this.#life.abort();
    void this.qemu?.kill().catch((error: unknown) => this.#options.log(`${this.spec.machine}: ${String(error)}`));
  }

  /**
   * Keys of blocks of new epochs come to those of the start, for a next supervisor too. Errors: `conflict` when nothing of the machine
   * runs, `disk-full`, `local-io`.
   */
  async setBlockKeys(added: BlockKeys): Promise<void> {
    const { disks } = this.#life;
    const ring = new BlockKeyRing(disks.blockKeys);
    // What the guest's disks were written with stays, whoever is logged in now.
    ring.add(added);
    const blockKeys = ring.keys;
    if (isAtRest(this.state)) throw new CollectiveError('conflict', `${this.spec.machine} does not run`);
    const { keys, machineKeys } = this.#options;
    await keys.keep(this.spec.machine, { ...machineKeys, blockKeys });
    if (isAtRest(this.state))
      await keys.forget(this.spec.machine); // it ended meanwhile, and has forgotten what was there
    else await disks.setBlockKeys(blockKeys);
  }

  /** The running QEMU, if any. */
  get qemu(): QemuProcess | undefined {
    return this.#life.guest?.qemu;
  }

  /** Of the guest that runs; undefined when none runs, or it has no agent. */
  get guestAgent(): GuestAgent | undefined {
    return this.#life.guest?.agent;
  }

  #assertNotSuspended(): void {
    if (this.state.name === 'suspended' || this.#life.suspension.isCommitted)
      throw new CollectiveError('suspended', `${this.spec.machine} is suspended`);
  }
}

const beginningOf = (image: MemoryImage): MachineBeginning => ({
  startedAtMs: image.startedAtMs,
  restarts: image.restarts,
  image,
});
