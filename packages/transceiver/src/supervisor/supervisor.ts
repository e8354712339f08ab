/**
 * The supervisor: the machines of one home and their block daemon. It outlives the agent; when it is killed itself, QEMU and the
 * block daemon live on and the next one adopts them (docs/adr/0005-supervisor.md).
 */
import { EventEmitter } from 'node:events';
import { createHash } from 'node:crypto';
import { chmod, constants, mkdir, open, rm } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { checkMachineDescription, checkMachineDisks, CollectiveError, hasCode } from '@collective/shared';
import type { Home } from '../home.js';
import { SOFTWARE } from '../software.js';
import type { GuestCommandResult } from '../machine/guest-exec.js';
import { qemuUser } from '../machine/qemu-user.js';
import { assertDiskKey } from '../blockd/overlay/layer-keys.js';
import { BlockdKeeper } from './blockd-keeper.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import { DiskKeys, type MachineKeys } from './disk-keys.js';
import type { BlockdProgram } from './blockd-process.js';
import { trimLog } from './bounded-log.js';
import { runInMaintainedGuest } from './guest-run.js';
import { MachineRecords } from './machine-record.js';
import { type MemoryImage, MemoryImages } from './memory-image.js';
import type { MachineSpec, ShownDisk } from './machine-spec.js';
import { isAtRest, isOver, type MachineState } from './machine-state.js';
import type { MachineOptions } from './machine-life.js';
import { MachineUnit } from './machine-unit.js';
import { checkResumable } from './suspend-steps.js';
import { RepositoryFile } from './repository-file.js';
import { SUPERVISOR_PROTOCOL, type SupervisorParams, type SupervisorStatus } from './supervisor-protocol.js';

export type SupervisorOptions = {
  readonly home: Home;
  readonly blockd: BlockdProgram;
  /** The log files of the processes, kept short. */
  readonly logFiles: readonly string[];
  readonly log: (text: string) => void;
};

const LOG_TRIM_INTERVAL_MS = 60_000;
const MACHINES_MAX = 64;
const SCREENDUMP_BYTES_MAX = 32 << 20;
/** Machines whose QEMU runs as a user of its own cannot have their sockets below a person's home. */
const ROOT_RUN_FOLDER = '/run/collective';

export class Supervisor extends EventEmitter<{ machine: [machine: string, state: MachineState] }> {
  readonly #options: SupervisorOptions;
  readonly #keeper: BlockdKeeper;
  readonly #records: MachineRecords;
  readonly #images: MemoryImages;
  readonly #keys: DiskKeys;
  readonly #runFolder: string;
  readonly #units = new Map<string, MachineUnit>();
  /** Machines whose memory image is there and cannot be read, and why. */
  readonly #badImages = new Map<string, unknown>();
  readonly #startedAtMs = Date.now();
  readonly #logTimer: NodeJS.Timeout;
  #closing = false;

  private constructor(options: SupervisorOptions, keeper: BlockdKeeper, keys: DiskKeys, runFolder: string) {
    super();
    this.setMaxListeners(0);
    this.#options = options;
    this.#keeper = keeper;
    this.#records = new MachineRecords(options.home.machinesDirectory);
    this.#images = new MemoryImages(options.home.machinesDirectory);
    this.#keys = keys;
    this.#runFolder = runFolder;
    this.#logTimer = setInterval(() => {
      for (const file of options.logFiles) void trimLog(file).catch(() => undefined);
    }, LOG_TRIM_INTERVAL_MS);
    this.#logTimer.unref();
  }

  /** The caller holds the home's supervisor lock. Adopts what an earlier supervisor left running. */
  static async open(options: SupervisorOptions): Promise<Supervisor> {
    const runFolder = await makeRunFolder(options.home);
    const repositoryFile = new RepositoryFile(join(options.home.directory, 'supervisor-repository.json'));
    const keeper = await BlockdKeeper.open({
      program: options.blockd,
      repositoryFile,
      software: SOFTWARE,
      log: options.log,
    });
    const supervisor = new Supervisor(options, keeper, await DiskKeys.open(options.home), runFolder);
    const records = await supervisor.#records.list((machine, error) =>
      options.log(`${machine}: bad record: ${String(error)}`),
    );
    const images = await supervisor.#images.list((machine, error) => {
      options.log(`${machine}: bad memory image: ${String(error)}`);
      supervisor.#badImages.set(machine, error);
    });
    for (const image of images) {
      if (!records.some(({ spec }) => spec.machine === image.machine))
        supervisor.#add(MachineUnit.atRest(image, supervisor.#unitOptions(image.machine)));
    }
    await Promise.all(
      records.map(async (record) => {
        const { machine } = record.spec;
        const unitOptions = {
          ...supervisor.#unitOptions(machine, await supervisor.#keys.read(machine)),
          folder: record.folder,
          user: record.user ?? undefined,
        };
        try {
          const image = images.find((each) => each.machine === machine);
          supervisor.#add(
            image === undefined
              ? await MachineUnit.adopt(record, unitOptions)
              : await MachineUnit.finishSuspending(record, image, unitOptions),
          );
          options.log(`${machine}: ${image === undefined ? 'adopted' : 'suspended'}`);
        } catch (error) {
          options.log(`${record.spec.machine}: could not be adopted: ${String(error)}`);
        }
      }),
    );
    await supervisor.#keys.forgetAllBut(records.map(({ spec }) => spec.machine));
    return supervisor;
  }

  status(): SupervisorStatus {
    return {
      protocol: SUPERVISOR_PROTOCOL,
      software: SOFTWARE,
      pid: process.pid,
      startedAtMs: this.#startedAtMs,
      blockd: {
        pid: this.#keeper.pid,
        software: this.#keeper.software,
        restarts: this.#keeper.restarts,
        troubles: this.#keeper.troubles,
      },
      machines: [...this.#units.values()].map((unit) => unit.status()),
    };
  }

  /**
   * Resolves when the start outlives this supervisor. `machineKeys`: what the machine leaves on the local disk is encrypted with its disk key, the blocks of the person's snapshots with the others. Errors: `exists`, `suspended`, `cannot-resume` (what it has
   * in memory cannot be read), `bad-machine`, `bad-request` (an overlay, snapshot or trace outside the home, too many machines), `shutting-down`.
   */
  async start(spec: MachineSpec, machineKeys: MachineKeys = {}): Promise<MachineState> {
    if (this.#closing) throw new CollectiveError('shutting-down', 'The supervisor is shutting down');
    const known = this.#units.get(spec.machine);
    if (known?.state.name === 'suspended') throw new CollectiveError('suspended', `${spec.machine} is suspended`);
    if (known !== undefined && !isOver(known.state))
      throw new CollectiveError('exists', `The machine ${spec.machine} is running already`);
    if (known === undefined && this.#units.size >= MACHINES_MAX) this.#forgetOver();
    if (this.running.length >= MACHINES_MAX)
      throw new CollectiveError('bad-request', `At most ${MACHINES_MAX} machines run at once`);
    checkSpec(spec);
    for (const { overlay, source, trace } of spec.disks) {
      if (source.kind === 'snapshot' && !isInside(source.folder, this.#options.home.directory))
        throw new CollectiveError(
          'bad-request',
          `The snapshot in ${source.folder} does not lie in ${this.#options.home.directory}`,
        );
      if (trace !== undefined && !isInside(trace.path, this.#options.home.directory))
        throw new CollectiveError(
          'bad-request',
          `The trace ${trace.path} does not lie in ${this.#options.home.directory}`,
        );
      // A temporary overlay is removed as a whole: never anything that is not the home's own.
      if (overlay !== undefined && !isInside(overlay.path, this.#options.home.directory)) {
        throw new CollectiveError(
          'bad-request',
          `The overlay ${overlay.path} does not lie in ${this.#options.home.directory}`,
        );
      }
    }
    this.#refuseBadImage(spec.machine);
    const unit = MachineUnit.start(spec, this.#unitOptions(spec.machine, machineKeys));
    this.#add(unit);
    await unit.recorded;
    return unit.state;
  }

  /** Errors: `not-found`, and those of MachineUnit.suspend. */
  async suspend(machine: string): Promise<MachineState> {
    const unit = this.unit(machine);
    await unit.suspend();
    return unit.state;
  }

  /** Errors: `not-found`, `conflict` when it is not suspended, `cannot-resume` with what differs, `wrong-key`, `shutting-down`. */
  async resume(machine: string, machineKeys: MachineKeys = {}): Promise<MachineState> {
    const { diskKey } = machineKeys;
    const key = diskKey === undefined ? undefined : Buffer.from(diskKey, 'base64url');
    assertDiskKey(key, this.#imageOf(machine).encryption?.keyCheck ?? null, `the memory of ${machine}`);
    await checkResumable(this.#imageOf(machine));
    const image = this.#imageOf(machine); // nobody else was faster
    if (this.#closing) throw new CollectiveError('shutting-down', 'The supervisor is shutting down');
    if (this.running.length >= MACHINES_MAX)
      throw new CollectiveError('bad-request', `At most ${MACHINES_MAX} machines run at once`);
    const unit = MachineUnit.resume(image, this.#unitOptions(machine, machineKeys));
    this.#add(unit);
    this.emit('machine', machine, unit.state);
    return unit.state;
  }

  /** As MachineUnit.setBlockKeys. Error also: `not-found`. */
  async setBlockKeys(machine: string, blockKeys: BlockKeys): Promise<void> {
    await this.unit(machine).setBlockKeys(blockKeys);
  }

  /** Throws the memory image away. Errors: `not-found`, `conflict` when it is not suspended. */
  async discard(machine: string): Promise<MachineState> {
    if (this.#badImages.has(machine)) {
      await this.#images.remove(machine);
      await this.#images.removeRest(machine);
      this.#badImages.delete(machine);
      return { name: 'stopped', how: 'asked' };
    }
    const unit = this.#suspendedUnit(machine);
    await unit.discard();
    return unit.state;
  }

  /** A later software may have written it, or the disk may be readable again: a start would throw it away unasked. */
  #refuseBadImage(machine: string): void {
    const cause = this.#badImages.get(machine);
    if (cause === undefined) return;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CollectiveError('cannot-resume', `${machine} is suspended, and its memory image cannot be read: ${why}`, {
      cause,
    });
  }

  /** Of a machine that can be resumed. Errors: `not-found`, `conflict` also when the image is being thrown away. */
  #imageOf(machine: string): MemoryImage {
    const { image } = this.#suspendedUnit(machine);
    if (image === undefined)
      throw new CollectiveError('conflict', `The memory image of ${machine} is being thrown away`);
    return image;
  }

  #suspendedUnit(machine: string): MachineUnit {
    const unit = this.unit(machine);
    if (unit.state.name !== 'suspended') throw new CollectiveError('conflict', `${machine} is not suspended`);
    return unit;
  }

  stop(machine: string, deadlineMs: number, options: { readonly onlyIfPreparing?: boolean } = {}): MachineState {
    const unit = this.unit(machine);
    if (options.onlyIfPreparing !== true || unit.state.name === 'preparing') unit.stop(deadlineMs);
    return unit.state;
  }

  /** Errors: `not-found`, and those of MachineUnit.showDisk. */
  async showDisk(machine: string, disk: ShownDisk): Promise<void> {
    await this.unit(machine).showDisk(disk);
  }

  /** Errors: `not-found`, and those of MachineUnit.hideDisk. */
  async hideDisk(machine: string, name: string): Promise<void> {
    await this.unit(machine).hideDisk(name);
  }

  /** Errors: `not-found`, `in-use`. */
  async sync(machine: string): Promise<void> {
    await this.unit(machine).sync();
  }

  kill(machine: string): MachineState {
    const unit = this.unit(machine);
    unit.kill();
    return unit.state;
  }

  /** Errors: `not-found`. */
  unit(machine: string): MachineUnit {
    const unit = this.#units.get(machine);
    if (unit === undefined) throw new CollectiveError('not-found', `There is no machine ${machine}`);
    return unit;
  }

  get running(): MachineUnit[] {
    return [...this.#units.values()].filter(({ state }) => !isAtRest(state));
  }

  async setRepository(repository: SupervisorParams<'repository'>): Promise<void> {
    await this.#keeper.setRepository(repository);
  }

  /** Errors: `not-found`, and those of runInMaintainedGuest. */
  async runInGuest({ machine, ...run }: SupervisorParams<'guest-run'>): Promise<GuestCommandResult> {
    return await runInMaintainedGuest(this.unit(machine), run);
  }

  /** What the machine's screen shows, a PNG. Errors: `not-found`, `local-io`. */
  async screendump(machine: string): Promise<Buffer> {
    const { qemu, spec } = this.unit(machine);
    if (qemu === undefined || spec.description.display === 'none')
      throw new CollectiveError('not-found', `${machine} has no screen now`);
    // QEMU may write only into its own folder, where it could also put a link in the way: it is not followed.
    const path = join(qemu.paths.own, 'screen.png');
    await qemu.qmp.execute('screendump', { filename: path, format: 'png' });
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { size } = await file.stat();
      if (size > SCREENDUMP_BYTES_MAX) throw new CollectiveError('too-large', `The screendump has ${size} bytes`);
      const png = Buffer.alloc(size);
      const { bytesRead } = await file.read(png, 0, size, 0);
      return png.subarray(0, bytesRead);
    } finally {
      await file.close();
      await rm(path, { force: true });
    }
  }

  /** Ends the block daemon too. Errors: `in-use` while machines run, unless they are to be stopped. */
  async close(options: { readonly stopMachines: boolean; readonly deadlineMs: number }): Promise<void> {
    const { running } = this;
    if (running.length > 0 && !options.stopMachines) {
      throw new CollectiveError(
        'in-use',
        `${running.length} machines are running: ${running.map(({ spec }) => spec.machine).join(', ')}`,
      );
    }
    this.#closing = true;
    for (const unit of running) stopUnlessSuspended(unit, options.deadlineMs);
    await Promise.all([...this.#units.values()].map(({ over }) => over));
    await this.#keeper.close();
    clearInterval(this.#logTimer);
    if (this.#runFolder !== this.#options.home.runDirectory)
      await rm(this.#runFolder, { recursive: true, force: true });
  }

  #unitOptions(machine: string, machineKeys: MachineKeys = {}): MachineOptions {
    const { home, log } = this.#options;
    const user = qemuUser({ home: home.directory, machine });
    // Ten hexadecimal digits: a unix socket's path is short.
    const folder = join(this.#runFolder, `m-${createHash('sha256').update(machine).digest('hex').slice(0, 10)}`);
    return {
      disks: this.#keeper,
      records: this.#records,
      images: this.#images,
      keys: this.#keys,
      machineKeys,
      folder,
      user,
      log,
    };
  }

  #add(unit: MachineUnit): void {
    this.#units.set(unit.spec.machine, unit);
    unit.on('change', (state) => this.emit('machine', unit.spec.machine, state));
  }

  #forgetOver(): void {
    for (const [machine, unit] of this.#units) if (isOver(unit.state)) this.#units.delete(machine);
  }
}

/** One that has its image and is about to be suspended is waited for: it keeps the image. */
function stopUnlessSuspended(unit: MachineUnit, deadlineMs: number): void {
  try {
    unit.stop(deadlineMs);
  } catch (error) {
    if (!hasCode(error, 'suspended')) throw error;
  }
}

/** What the schema cannot say. Errors: `bad-machine`. */
function checkSpec({ description, disks }: MachineSpec): void {
  checkMachineDescription(description);
  checkMachineDisks(description, disks);
  if (new Set(disks.map(({ name }) => name)).size !== disks.length) {
    throw new CollectiveError('bad-machine', 'Two disks of the machine have one name');
  }
}

/** Where the machines' folders lie. Errors: `local-io`. */
async function makeRunFolder(home: Home): Promise<string> {
  if (process.getuid?.() !== 0) return home.runDirectory;
  const folder = join(ROOT_RUN_FOLDER, createHash('sha256').update(home.directory).digest('hex').slice(0, 12));
  for (const made of [ROOT_RUN_FOLDER, folder]) {
    await mkdir(made, { recursive: true, mode: 0o711 });
    await chmod(made, 0o711); // to be passed, not to be listed
  }
  return folder;
}

const isInside = (path: string, folder: string): boolean =>
  path.startsWith(folder + sep) && !path.split(sep).includes('..');
