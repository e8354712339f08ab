/**
 * The agent: one per person and home. It holds the session, decides what may run, and asks the machine port to run it.
 * Everything that a client can ask is one method here; HTTP is in agent-server.ts, the command line in cli/.
 *
 * It may be killed at any time: machines, block daemon and their connections to the repository go on without it, and the
 * next agent finds the session in the session file.
 */
import { CollectiveError } from '@collective/shared';
import { agentStatus } from './agent-status.js';
import { listAppliances } from './appliance-list.js';
import type {
  AgentStatus,
  AppliancesReply,
  ExportRequest,
  LoginPrepareReply,
  LoginPrepareRequest,
  LoginReply,
  LoginRequest,
  LogoutReply,
  LogoutRequest,
  PublishRequest,
  ScrubRequest,
  StartRequest,
  StartedMachine,
  Stay,
  StopRequest,
  SuspendRequest,
} from './agent-types.js';
import type { AgentCalls, JobContext } from './agent-server.js';
import { localDisks } from './backup-settling.js';
import { DataDesk } from './data-desk.js';
import { readDeviceFile, type DeviceFile } from './device-file.js';
import { exportVersionDisk } from './export-version-disk.js';
import type { Home } from '../home.js';
import { prepareLogin } from './login.js';
import { logOut } from './logout.js';
import type { MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { PersonData } from './person-data.js';
import { Session } from './session.js';
import { loadSession } from './session-file.js';
import { startMachines, waitUntilReady } from './start-machines.js';
import {
  assertFitsTemporary,
  foundTemporaryHome,
  isMarked,
  mark,
  removePerson,
  temporaryHome,
} from './temporary-home.js';
import { publishAppliance } from '../publish/publish-appliance.js';
import { KeysDesk } from './keys-desk.js';
import { OfferedCodes } from './offered-code.js';
import { openSession } from './open-session.js';
import { assertName, stopMachines } from './stop-machines.js';
import { VersionsDesk } from './versions-desk.js';

export type AgentOptions = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: MachinePort;
  readonly onShutdown: () => void;
};

export class Agent implements AgentCalls {
  readonly #home: Home;
  /** Where the person's files lie: the home, or that of somebody who is here only for now. */
  #place: Home;
  readonly #objects: ObjectCache;
  readonly #machines: MachinePort;
  readonly #onShutdown: () => void;
  readonly #since = Math.floor(Date.now() / 1000);
  readonly #offers = new OfferedCodes();
  readonly keys: KeysDesk;
  readonly data: DataDesk;
  readonly versions: VersionsDesk;
  #device: DeviceFile | undefined;
  #session: Session | undefined;
  /** Of the session. */
  #data: PersonData | undefined;
  /** Long work that writes into the home, beside the turns. */
  readonly #jobs = new Set<string>();
  /** Logins, logouts and starts run one after the other: each may change what the next one finds. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: AgentOptions) {
    this.#home = options.home;
    this.#place = options.home;
    this.#objects = options.objects;
    this.#machines = options.machines;
    this.#onShutdown = options.onShutdown;
    this.versions = new VersionsDesk({
      home: options.home,
      objects: options.objects,
      machines: options.machines,
      inTurn: async (work) => this.#inTurn(async () => work(this.#requireSession())),
      session: () => this.#requireSession(),
      asJob: async (name, work) => this.#asJob(name, work),
      onNews: () => this.#data?.prefetcher.wake(),
    });
    this.keys = new KeysDesk({
      offers: this.#offers,
      inTurn: async (work) =>
        this.#inTurn(async () => {
          const session = this.#requireSession();
          try {
            return await work(session);
          } finally {
            // Under another password, maybe.
            this.#device = session.device;
          }
        }),
    });
    const withData = async <T>(work: (session: Session, data: PersonData) => Promise<T>): Promise<T> =>
      work(this.#requireSession(), this.#requireData());
    this.data = new DataDesk({
      home: options.home,
      machines: options.machines,
      inTurn: async (work) => this.#inTurn(async () => withData(work)),
      beside: withData,
      onSettings: () => this.#data?.prefetcher.wake(),
    });
  }

  /** Takes up the session that an earlier agent left. Owns objects and machines from here on. */
  static async open(options: AgentOptions): Promise<Agent> {
    const agent = new Agent(options);
    const { home, objects } = options;
    const keys = await loadSession(home);
    if (keys?.stay === 'now') agent.#place = await foundTemporaryHome(home);
    const device = await readDeviceFile(agent.#place.deviceFile);
    agent.#device = device;
    if (device !== undefined && keys?.account === device.account) {
      agent.#session = await Session.open({ device, keys, home: agent.#place, objects });
      await agent.#session.keep();
      await agent.#openData(agent.#session);
    }
    return agent;
  }

  async close(): Promise<void> {
    await this.#closeData();
    await this.#session?.close();
    await this.#machines.close();
    await this.#objects.close();
  }

  async status(): Promise<AgentStatus> {
    return agentStatus({
      homeDirectory: this.#home.directory,
      since: this.#since,
      session: this.#session,
      device: this.#device,
      stay: this.#stay,
      path: await this.#machines.status(),
      prefetch: this.#data?.prefetcher.status,
      data: (await this.#data?.status()) ?? new Map(),
    });
  }

  async prepareLogin(request: LoginPrepareRequest): Promise<LoginPrepareReply> {
    return prepareLogin(request.target, this.#device, this.#offers);
  }

  async login(request: LoginRequest): Promise<LoginReply> {
    return this.#inTurn(async () => {
      const isFirst = this.#device === undefined;
      const stay = request.stay ?? this.#stay;
      if (isFirst) await this.#prepareHome(stay);
      else if (stay !== this.#stay) throw otherStay(this.#home, stay);
      try {
        const { session, reply } = await openSession(request, {
          home: this.#place,
          stay,
          device: this.#device,
          offers: this.#offers,
          objects: this.#objects,
          before: this.#session,
        });
        await this.#closeData();
        this.#session = session;
        this.#device = session.device;
        this.#machines.prepare(session.client.address);
        await this.#openData(session);
        return reply;
      } catch (error) {
        // When that fails the mark stays: it is done before the next login.
        if (isFirst && stay === 'now') await this.#removePerson().catch((cause: unknown) => console.error(cause));
        await this.#lookAgain();
        await this.#reopenData();
        throw error;
      }
    });
  }

  async logout(request: LogoutRequest, job: JobContext): Promise<LogoutReply> {
    return this.#inTurn(async () => {
      const isRemoval = request.remove === true || this.#stay === 'now';
      if (isRemoval && this.#jobs.size > 0)
        throw new CollectiveError('in-use', `${[...this.#jobs].join(' and ')} goes on: end it first.`);
      try {
        return await logOut(request, {
          home: this.#place,
          objects: this.#objects,
          machines: this.#machines,
          backup: this.#data ?? localDisks(this.#home),
          session: this.#session,
          isRemoval,
          beforeEnd: async () => this.#closeData({ isForGood: isRemoval }),
          job,
        });
      } finally {
        await this.#lookAgain();
        await this.#reopenData();
      }
    });
  }

  async appliances(): Promise<AppliancesReply> {
    return listAppliances(this.#requireSession(), {
      objects: this.#objects,
      machines: this.#machines,
      machinesDirectory: this.#home.machinesDirectory,
      nameHere: (subscription) => this.#data?.nameHere(subscription),
    });
  }

  async start(request: StartRequest, job: JobContext): Promise<readonly StartedMachine[]> {
    const beganAt = performance.now();
    const started = await this.#inTurn(async () =>
      startMachines(request, {
        session: this.#requireSession(),
        objects: this.#objects,
        machines: this.#machines,
        machinesDirectory: this.#home.machinesDirectory,
        data: this.#requireData(),
        job,
      }),
    );
    return waitUntilReady(request, { started, machines: this.#machines, job, beganAt });
  }

  async suspend({ names }: SuspendRequest): Promise<readonly string[]> {
    for (const name of names) assertName(name);
    await Promise.all(
      names.map(async (name) => {
        await this.#data?.beforeSuspend(name);
        await this.#machines.suspend(name);
      }),
    );
    return names;
  }

  async stop(request: StopRequest): Promise<readonly string[]> {
    return stopMachines(request, this.#machines);
  }

  async console(name: string): Promise<{ readonly socket: string }> {
    return { socket: await this.#machines.consoleSocket(name) };
  }

  async publish(request: PublishRequest, job: JobContext): Promise<unknown> {
    const session = this.#requireSession();
    return this.#asJob(`the publishing of ${request.name}`, async () =>
      publishAppliance(request, {
        session,
        home: this.#home,
        objects: this.#objects,
        machines: this.#machines,
        job,
      }),
    );
  }

  async export(request: ExportRequest, job: JobContext): Promise<unknown> {
    const session = this.#requireSession();
    await exportVersionDisk(request, {
      ...{ session, objects: this.#objects, machines: this.#machines, job },
      asJob: async (name, work) => this.#asJob(name, work),
    });
    return {};
  }

  async scrub(request: ScrubRequest, job: JobContext): Promise<unknown> {
    return this.#machines.scrub(request, {
      signal: job.signal,
      onProgress: ({ running }) => {
        if (running === null) return;
        const { bytes, bytesExpected, damaged } = running;
        job.emit({
          event: 'progress',
          step: 'scrub',
          text: `Checking the cache${damaged === 0 ? '' : `, ${String(damaged)} damaged`}`,
          done: Math.min(bytes, bytesExpected),
          total: bytesExpected,
        });
      },
    });
  }

  /** For an update: agent and supervisor end, machines and blockd go on. */
  async leave(): Promise<void> {
    await this.#inTurn(async () => {
      await this.#closeData();
      await this.#machines.leave().catch(async (error: unknown) => {
        await this.#reopenData();
        throw error;
      });
    });
    setImmediate(this.#onShutdown);
  }

  async shutdown(): Promise<void> {
    await this.#inTurn(async () => {
      // First: a backup that goes on would start what is being ended.
      await this.#closeData();
      await this.#machines.shutdown().catch(async (error: unknown) => {
        await this.#reopenData();
        throw error;
      });
    });
    // After the answer has left.
    setImmediate(this.#onShutdown);
  }

  get #stay(): Stay {
    return this.#place === this.#home ? 'mine' : 'now';
  }

  /** For the first person of a home. Errors: those of assertFitsTemporary. */
  async #prepareHome(stay: Stay): Promise<void> {
    // Of a removal that failed: it would take the next person with it.
    if (await isMarked(this.#home)) await this.#removePerson();
    if (stay === 'mine') return;
    await assertFitsTemporary(this.#home);
    await mark(this.#home);
    this.#place = temporaryHome(this.#home);
  }

  async #removePerson(): Promise<void> {
    await this.#machines.shutdown();
    await this.#objects.away(async () => removePerson(this.#place));
  }

  /** What is there after a login that failed, or a logout. */
  async #lookAgain(): Promise<void> {
    if ((await loadSession(this.#home)) === undefined) this.#session = undefined;
    this.#device = await readDeviceFile(this.#place.deviceFile);
    if (this.#device === undefined) this.#place = this.#home;
  }

  /** `work`, of which a logout that removes everything knows. */
  async #asJob<T>(name: string, work: () => Promise<T>): Promise<T> {
    this.#jobs.add(name);
    return work().finally(() => this.#jobs.delete(name));
  }

  async #openData(session: Session): Promise<void> {
    this.#data = await PersonData.open({
      home: this.#home,
      objects: this.#objects,
      machines: this.#machines,
      session,
      log: (text) => console.error(new Date().toISOString(), text),
    });
  }

  /** What was closed for something that failed: a session without its data starts nothing and saves nothing. */
  async #reopenData(): Promise<void> {
    if (this.#session !== undefined && this.#data === undefined) await this.#openData(this.#session);
  }

  async #closeData(options: { readonly isForGood?: boolean } = {}): Promise<void> {
    const data = this.#data;
    this.#data = undefined;
    await data?.close(options);
  }

  #requireData(): PersonData {
    if (this.#data === undefined) throw new CollectiveError('not-logged-in');
    return this.#data;
  }

  #requireSession(): Session {
    if (this.#session === undefined) throw new CollectiveError('not-logged-in');
    return this.#session;
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work, work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}

const otherStay = (home: Home, wanted: Stay): CollectiveError =>
  wanted === 'now'
    ? new CollectiveError(
        'exists',
        `${home.directory} keeps somebody's keys already: use another home for a session that is only for now, with --home DIR.`,
      )
    : new CollectiveError('exists', 'You are logged in only for now: log out first, which removes everything.');
