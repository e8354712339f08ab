/** The agent's calls about versions: maintain, publish from it, candidates, promote, withdraw, mandatory, updates. */
import { CollectiveError, hasCode } from '@collective/shared';
import type { JobContext } from './agent-server.js';
import type {
  HoardReply,
  HoardRequest,
  CandidateRow,
  CandidatesRequest,
  DiscardMaintenanceRequest,
  MaintainReply,
  MaintainRequest,
  MandatoryRequest,
  PromoteReply,
  PromoteRequest,
  PublishMaintainedRequest,
  PublishReply,
  UpdateRow,
  UpdatesReply,
  UpdatesRequest,
  WithdrawReply,
  WithdrawRequest,
} from './agent-types.js';
import type { Home } from '../home.js';
import { changeCandidates, promoteCandidate } from '../publish/candidates.js';
import { publishMaintained } from '../publish/publish-maintained.js';
import { allowedPublishingKey } from '../publish/publishing-key.js';
import { withdrawVersion } from '../publish/withdraw-version.js';
import { hoard } from './hoard.js';
import type { MachinePort } from './machine-port.js';
import { Maintenance, maintenanceMachine } from './maintenance.js';
import type { ObjectCache } from './object-cache.js';
import { parseReference } from './reference.js';
import { resumeIfSuspended } from './resume-if-suspended.js';
import { type RunnableVersion, runnableVersion } from './runnable-version.js';
import type { Session } from './session.js';

export interface VersionsCalls {
  maintain(request: MaintainRequest, job: JobContext): Promise<MaintainReply>;
  discardMaintenance(request: DiscardMaintenanceRequest): Promise<void>;
  publishMaintained(request: PublishMaintainedRequest, job: JobContext): Promise<PublishReply>;
  candidates(request: CandidatesRequest, job: JobContext): Promise<readonly CandidateRow[]>;
  promote(request: PromoteRequest, job: JobContext): Promise<PromoteReply>;
  withdraw(request: WithdrawRequest, job: JobContext): Promise<WithdrawReply>;
  setMandatory(request: MandatoryRequest): Promise<void>;
  updates(request: UpdatesRequest): Promise<UpdatesReply>;
  hoard(request: HoardRequest, job: JobContext): Promise<HoardReply>;
}

export type VersionsDeskOptions = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: MachinePort;
  /** Runs `work` with the session, after what the agent is doing and before what it does next. Errors: `not-logged-in`. */
  readonly inTurn: <T>(work: (session: Session) => Promise<T>) => Promise<T>;
  /** Errors: `not-logged-in`. */
  readonly session: () => Session;
  /** Long work that writes into the home, of which a logout that removes everything knows. */
  readonly asJob: <T>(name: string, work: () => Promise<T>) => Promise<T>;
  /** There may be a newer version of something. */
  readonly onNews: () => void;
};

const DEFAULT_WAIT_MS = 600_000;

export class VersionsDesk implements VersionsCalls {
  readonly #options: VersionsDeskOptions;
  /** Sessions that are being published: nothing else may be done with them meanwhile. */
  readonly #busy = new Set<string>();

  constructor(options: VersionsDeskOptions) {
    this.#options = options;
  }

  async maintain(request: MaintainRequest, job: JobContext): Promise<MaintainReply> {
    const reference = parseReference(request.name);
    const machine = maintenanceMachine(reference.name);
    const reply = await this.#alone(reference.name, async () =>
      this.#options.inTurn(async (session) => this.#start(session, request, job)),
    );
    if (request.waitFor !== undefined) {
      job.emit({ event: 'progress', step: 'wait', text: `Waiting for "${request.waitFor}" of ${machine}` });
      const timeoutMs = request.waitMs ?? DEFAULT_WAIT_MS;
      await this.#options.machines.waitForConsole(machine, { text: request.waitFor, timeoutMs, signal: job.signal });
    }
    return reply;
  }

  async hoard(request: HoardRequest, job: JobContext): Promise<HoardReply> {
    const session = this.#options.session();
    return this.#options.asJob(`the hoarding of ${request.name}`, async () =>
      hoard(request, { ...this.#options, session, job }),
    );
  }

  async #start(session: Session, request: MaintainRequest, job: JobContext): Promise<MaintainReply> {
    const { home, machines } = this.#options;
    const { name, version } = parseReference(request.name);
    const held = await Maintenance.find(home.machinesDirectory, name);
    if (held !== undefined && version !== undefined && version !== held.version)
      throw new CollectiveError(
        'exists',
        `There is a maintain session of ${name} already, of version ${String(held.version)}: publish or discard it first.`,
      );
    const blocks = session.client.address;
    const { diskKeys } = session;
    // Before it runs: what it does from now on has not been cleaned.
    await held?.setReady(false);
    if (held !== undefined) {
      const resumed = await resumeIfSuspended(
        machines,
        { name: held.machine },
        { blocks, diskKeys, isFresh: false, job },
      );
      if (resumed !== undefined) return { machine: held.machine, version: held.version, goesOn: true, notes: [] };
    }
    const { source, note } = await session.refresh(job.signal);
    if (note !== undefined) job.emit({ event: 'note', text: note });
    // A system that keeps its changes is for those who publish it.
    await allowedPublishingKey(session, name, job.signal);
    const isOnline = source !== undefined;
    const { verified, disks } = await this.#version(
      session,
      { name, version: held?.version ?? version, isOnline },
      job,
    );
    if (held !== undefined && held.manifest !== verified.digest)
      throw new CollectiveError('untrusted', `${name}@${String(held.version)} is not what the session began as.`);
    const of = { appliance: name, version: verified.manifest.version, manifest: verified.digest };
    const maintenance = held ?? (await Maintenance.begin(home.machinesDirectory, of));
    const reference = `${name}@${String(of.version)}`;
    job.emit({ event: 'progress', step: 'start', text: `Starting ${maintenance.machine}, of ${reference}` });
    const { notes } = await machines.start(
      {
        name: maintenance.machine,
        maintains: name,
        version: of.version,
        manifest: verified.digest,
        machine: verified.manifest.machine,
        disks,
        blocks,
        diskKeys,
        ...(request.accel === undefined ? {} : { accel: request.accel }),
      },
      job.signal,
    );
    return { machine: maintenance.machine, version: of.version, goesOn: held !== undefined, notes };
  }

  /** A candidate needs no letter for one who publishes the appliance. */
  async #version(
    session: Session,
    wanted: { readonly name: string; readonly version: number | undefined; readonly isOnline: boolean },
    job: JobContext,
  ): Promise<RunnableVersion> {
    const { name, version, isOnline } = wanted;
    const options = { session, objects: this.#options.objects, signal: job.signal };
    if (version === undefined) return runnableVersion({ name, isOnline }, options);
    const isCandidate = session.trust.heads?.candidates?.some(
      (each) => each.appliance === name && each.version === version,
    );
    return runnableVersion(
      { name, version, isOnline, ...(isCandidate === true ? { asPublisher: true } : {}) },
      options,
    );
  }

  async discardMaintenance({ name }: DiscardMaintenanceRequest): Promise<void> {
    const { home, machines } = this.#options;
    await this.#alone(name, async () => {
      const maintenance = await this.#maintenance(name);
      const { machine } = maintenance;
      const state = (await machines.status()).machines.find((each) => each.name === machine)?.state ?? 'stopped';
      if (state === 'suspended') await machines.discard(machine);
      else if (state !== 'stopped' && state !== 'failed') await machines.stop(machine, { force: true, wait: true });
      await maintenance.remove(home.exportsDirectory);
    });
  }

  async publishMaintained(request: PublishMaintainedRequest, job: JobContext): Promise<PublishReply> {
    const { home, objects, machines, asJob } = this.#options;
    const session = this.#options.session();
    return this.#alone(request.name, async () => {
      const maintenance = await this.#maintenance(request.name);
      return asJob(`the publishing of ${request.name}`, async () =>
        publishMaintained(request, maintenance, { session, home, objects, machines, job }),
      );
    });
  }

  async candidates(request: CandidatesRequest, { signal }: JobContext): Promise<readonly CandidateRow[]> {
    return changeCandidates(request, { session: this.#options.session(), signal });
  }

  async promote(request: PromoteRequest, { signal }: JobContext): Promise<PromoteReply> {
    return promoteCandidate(request, { session: this.#options.session(), signal });
  }

  async withdraw(request: WithdrawRequest, job: JobContext): Promise<WithdrawReply> {
    return withdrawVersion(request, { session: this.#options.session(), home: this.#options.home, job });
  }

  async setMandatory({ name, mark }: MandatoryRequest): Promise<void> {
    const { client } = this.#options.session();
    if (mark === null) await client.call('removeMandatory', { params: { name } });
    else await client.call('setMandatory', { params: { name }, body: mark });
  }

  async updates({ name }: UpdatesRequest): Promise<UpdatesReply> {
    const session = this.#options.session();
    const { source, note } = await session.refresh();
    if (source !== undefined) this.#options.onNews();
    const { trust } = session;
    const { machines } = await this.#options.machines.status();
    const known = source === undefined ? undefined : await session.client.call('appliances', {});
    const names = new Set([
      ...(trust.heads?.heads ?? []).map(({ appliance }) => appliance),
      ...(trust.heads?.candidates ?? []).map(({ appliance }) => appliance),
    ]);
    const updates: UpdateRow[] = [];
    for (const appliance of [...names].sort()) {
      if (name !== undefined ? appliance !== name : known?.some((row) => row.name === appliance) === false) continue;
      const forAll = trust.heads?.heads.find((head) => head.appliance === appliance)?.version ?? 0;
      const candidate = trust.candidates(appliance).at(-1)?.version ?? 0;
      if (Math.max(forAll, candidate) === 0) continue;
      const running = machines.find((machine) => machine.name === appliance && !isOver(machine.state));
      const { mark } = trust.mandatory(appliance);
      updates.push({
        name: appliance,
        newest: Math.max(forAll, candidate),
        isCandidate: candidate > forAll,
        running: running?.version ?? null,
        mandatory: mark === undefined ? null : { version: mark.version, from: mark.from, graceDays: mark.graceDays },
      });
    }
    if (name !== undefined && updates.length === 0)
      throw new CollectiveError('not-found', `There is no appliance ${name}, or none that you may use.`);
    return { updates, connected: source !== undefined, ...(note === undefined ? {} : { note }) };
  }

  async #maintenance(name: string): Promise<Maintenance> {
    const found = await Maintenance.find(this.#options.home.machinesDirectory, name);
    if (found !== undefined) return found;
    throw new CollectiveError('not-found', `There is no maintain session of ${name}: collective maintain ${name}`);
  }

  async #alone<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(name))
      throw new CollectiveError('in-use', `The maintain session of ${name} is being started, published or discarded.`);
    this.#busy.add(name);
    try {
      return await work();
    } catch (error) {
      if (hasCode(error, 'in-use') && error.data['appliance'] === maintenanceMachine(name))
        throw new CollectiveError('in-use', `${maintenanceMachine(name)} is running already.`, { cause: error });
      throw error;
    } finally {
      this.#busy.delete(name);
    }
  }
}

const isOver = (state: string): boolean => state === 'stopped' || state === 'failed';
