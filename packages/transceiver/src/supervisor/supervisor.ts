/**
 * The supervisor: the machines of one home and their block daemon. It outlives the agent; when it is killed itself, QEMU and the
 * block daemon live on and the next one adopts them (docs/adr/0005-supervisor.md).
 */
import { EventEmitter } from 'node:events';
import { createHash } from 'node:crypto';
import { chmod, constants, mkdir, open, rm } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { checkMachineDescription, checkMachineDisks, CollectiveError } from '@collective/shared';
import type { Home } from '../home.js';
import { qemuUser } from '../machine/qemu-user.js';
import { BlockdKeeper } from './blockd-keeper.js';
import type { BlockdProgram } from './blockd-process.js';
import { trimLog } from './bounded-log.js';
import { MachineRecords } from './machine-record.js';
import type { MachineSpec } from './machine-spec.js';
import { isOver, type MachineState } from './machine-state.js';
import { MachineUnit, type MachineUnitOptions } from './machine-unit.js';
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
  readonly #runFolder: string;
  readonly #units = new Map<string, MachineUnit>();
  readonly #startedAtMs = Date.now();
  readonly #logTimer: NodeJS.Timeout;
  #closing = false;

  private constructor(options: SupervisorOptions, keeper: BlockdKeeper, runFolder: string) {
    super();
    this.setMaxListeners(0);
    this.#options = options;
    this.#keeper = keeper;
    this.#records = new MachineRecords(options.home.machinesDirectory);
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
    const keeper = await BlockdKeeper.open({ program: options.blockd, repositoryFile, log: options.log });
    const supervisor = new Supervisor(options, keeper, runFolder);
    const records = await supervisor.#records.list((machine, error) =>
      options.log(`${machine}: bad record: ${String(error)}`),
    );
    await Promise.all(
      records.map(async (record) => {
        try {
          supervisor.#add(
            await MachineUnit.adopt(record, {
              ...supervisor.#unitOptions(record.spec.machine),
              folder: record.folder,
              user: record.user ?? undefined,
            }),
          );
          options.log(`${record.spec.machine}: adopted`);
        } catch (error) {
          options.log(`${record.spec.machine}: could not be adopted: ${String(error)}`);
        }
      }),
    );
    return supervisor;
  }

  status(): SupervisorStatus {
    return {
      protocol: SUPERVISOR_PROTOCOL,
      pid: process.pid,
      startedAtMs: this.#startedAtMs,
      blockd: { pid: this.#keeper.pid, restarts: this.#keeper.restarts },
      machines: [...this.#units.values()].map((unit) => unit.status()),
    };
  }

  /** Errors: `exists`, `bad-machine`, `bad-request` (an overlay outside the home, too many machines), `shutting-down`. */
  start(spec: MachineSpec): MachineState {
    if (this.#closing) throw new CollectiveError('shutting-down', 'The supervisor is shutting down');
    const known = this.#units.get(spec.machine);
    if (known !== undefined && !isOver(known.state))
      throw new CollectiveError('exists', `The machine ${spec.machine} is running already`);
    if (known === undefined && this.#units.size >= MACHINES_MAX) this.#forgetOver();
    if (this.running.length >= MACHINES_MAX)
      throw new CollectiveError('bad-request', `At most ${MACHINES_MAX} machines run at once`);
    checkSpec(spec);
    for (const { overlay } of spec.disks) {
      // A temporary overlay is removed as a whole: never anything that is not the home's own.
      if (overlay !== undefined && !isInside(overlay.path, this.#options.home.directory)) {
        throw new CollectiveError(
          'bad-request',
          `The overlay ${overlay.path} does not lie in ${this.#options.home.directory}`,
        );
      }
    }
    const unit = MachineUnit.start(spec, this.#unitOptions(spec.machine));
    this.#add(unit);
    return unit.state;
  }

  stop(machine: string, deadlineMs: number): MachineState {
    const unit = this.unit(machine);
    unit.stop(deadlineMs);
    return unit.state;
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
    return [...this.#units.values()].filter(({ state }) => !isOver(state));
  }

  async setRepository(repository: SupervisorParams<'repository'>): Promise<void> {
    await this.#keeper.setRepository(repository);
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
    for (const unit of running) unit.stop(options.deadlineMs);
    await Promise.all([...this.#units.values()].map(({ over }) => over));
    await this.#keeper.close();
    clearInterval(this.#logTimer);
    if (this.#runFolder !== this.#options.home.runDirectory)
      await rm(this.#runFolder, { recursive: true, force: true });
  }

  #unitOptions(machine: string): MachineUnitOptions {
    const { home, log } = this.#options;
    const user = qemuUser({ home: home.directory, machine });
    // Ten hexadecimal digits: a unix socket's path is short.
    const folder = join(this.#runFolder, `m-${createHash('sha256').update(machine).digest('hex').slice(0, 10)}`);
    return { disks: this.#keeper, records: this.#records, folder, user, log };
  }

  #add(unit: MachineUnit): void {
    this.#units.set(unit.spec.machine, unit);
    unit.on('change', (state) => this.emit('machine', unit.spec.machine, state));
  }

  #forgetOver(): void {
    for (const [machine, unit] of this.#units) if (isOver(unit.state)) this.#units.delete(machine);
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
