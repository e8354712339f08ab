/**
 * The agent: one per person and home. It holds the session, decides what may run, and asks the machine port to run it.
 * Everything that a client can ask is one method here; HTTP is in agent-server.ts, the command line in cli/.
 *
 * It may be killed at any time: machines, block daemon and their connections to the repository go on without it, and the
 * next agent finds the session in the session file.
 */
import { CollectiveError, isApplianceName } from '@collective/shared';
import type {
  AgentStatus,
  AppliancesReply,
  ExportRequest,
  LoginPrepareReply,
  LoginPrepareRequest,
  LoginReply,
  LoginRequest,
  PublishRequest,
  StartRequest,
  StartedMachine,
  StopRequest,
} from './agent-types.js';
import type { AgentCalls, JobContext } from './agent-server.js';
import { readDeviceFile, type DeviceFile } from './device-file.js';
import { loadDiskMap } from './disk-maps.js';
import type { Home } from '../home.js';
import { logIn, prepareLogin } from './login.js';
import type { MachinePort, PlannedDisk } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { Session } from './session.js';
import { eraseSession, loadSession, saveSession } from './session-file.js';
import type { VerifiedVersion } from './trust-client.js';
import { publishAppliance } from '../publish/publish-appliance.js';
import { registerPublishingKey } from '../publish/publishing-key.js';
import { parseReference } from './reference.js';

const SOFTWARE = 'collective 0.1.0';
const DEFAULT_WAIT_MS = 600_000;

/** Said while machines are there, until QEMU runs in namespaces of its own (DESIGN §4). */
const NOT_CONFINED =
  'Not confined: a machine that breaks out of QEMU, or its network, reaches more than it should; see collective doctor.';

export class Agent implements AgentCalls {
  readonly #home: Home;
  readonly #objects: ObjectCache;
  readonly #machines: MachinePort;
  readonly #onShutdown: () => void;
  readonly #since = Math.floor(Date.now() / 1000);
  #device: DeviceFile | undefined;
  #session: Session | undefined;
  /** Logins, logouts and starts run one after the other: each may change what the next one finds. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: { home: Home; objects: ObjectCache; machines: MachinePort; onShutdown: () => void }) {
    this.#home = options.home;
    this.#objects = options.objects;
    this.#machines = options.machines;
    this.#onShutdown = options.onShutdown;
  }

  /** Takes up the session that an earlier agent left. Owns objects and machines from here on. */
  static async open(options: {
    home: Home;
    objects: ObjectCache;
    machines: MachinePort;
    onShutdown: () => void;
  }): Promise<Agent> {
    const agent = new Agent(options);
    agent.#device = await readDeviceFile(options.home.deviceFile);
    const keys = await loadSession(options.home);
    if (agent.#device !== undefined && keys?.account === agent.#device.account) {
      agent.#session = await Session.open({
        device: agent.#device,
        keys,
        home: options.home,
        objects: options.objects,
      });
    }
    return agent;
  }

  async close(): Promise<void> {
    await this.#session?.close();
    await this.#machines.close();
    await this.#objects.close();
  }

  async status(): Promise<AgentStatus> {
    const session = this.#session;
    const path = await this.#machines.status();
    const stale = session?.trust.staleNote();
    const heads = session?.trust.heads;
    return {
      agent: { pid: process.pid, since: this.#since, home: this.#home.directory, software: SOFTWARE },
      session:
        session === undefined
          ? null
          : { account: session.keys.account, since: session.keys.since, connected: session.isConnected !== false },
      repository:
        this.#device === undefined
          ? null
          : {
              origin: this.#device.repository.origin,
              identity: this.#device.repository.identity,
              reachable: session?.isConnected ?? null,
              newsAt: heads?.createdAt ?? null,
            },
      device: this.#device !== undefined,
      ...path,
      notes: [...(stale === undefined ? [] : [stale]), ...(path.machines.length === 0 ? [] : [NOT_CONFINED])],
    };
  }

  async prepareLogin(request: LoginPrepareRequest): Promise<LoginPrepareReply> {
    return prepareLogin(request.target, this.#device);
  }

  async login(request: LoginRequest): Promise<LoginReply> {
    return this.#inTurn(async () => {
      const { device, keys, isNewDevice } = await logIn(request, this.#device, this.#home);
      const session = await Session.open({ device, keys, home: this.#home, objects: this.#objects });
      this.#device = device;
      try {
        const { note } = await session.refresh();
        if (note === undefined && session.tokens.role !== 'user') await registerPublishingKey(session);
        await saveSession(this.#home, keys);
        await this.#session?.close();
        this.#session = session;
        this.#machines.prepare(session.client.address);
        return {
          account: device.account,
          origin: device.repository.origin,
          connected: note === undefined,
          ...(session.tokens.role === undefined ? {} : { role: session.tokens.role }),
          ...(note === undefined
            ? isNewDevice
              ? { note: `This device is now "${device.deviceName}".` }
              : {}
            : { note }),
        };
      } catch (error) {
        await session.close();
        throw error;
      }
    });
  }

  async logout(): Promise<void> {
    await this.#inTurn(async () => {
      await eraseSession(this.#home);
      const session = this.#session;
      this.#session = undefined;
      await session?.end();
    });
  }

  async appliances(): Promise<AppliancesReply> {
    const session = this.#requireSession();
    const { source, note } = await session.refresh();
    const seen = (name: string): { seen?: number } => {
      const version = session.trust.seenVersion(name);
      return version === undefined ? {} : { seen: version };
    };
    const stale = session.trust.staleNote();
    const shownNote = note ?? stale;
    const more = shownNote === undefined ? {} : { note: shownNote };
    if (source === undefined) {
      const heads = session.trust.heads?.heads ?? [];
      const appliances = heads.map((head) => ({
        name: head.appliance,
        title: '',
        latest: head.version,
        access: 'use',
        ...seen(head.appliance),
      }));
      return { appliances, connected: false, ...more };
    }
    const rows = await session.client.call('appliances', {});
    return { appliances: rows.map((row) => ({ ...row, ...seen(row.name) })), connected: true, ...more };
  }

  async start(request: StartRequest, job: JobContext): Promise<readonly StartedMachine[]> {
    const references = request.names.map((text) => parseReference(text));
    if (new Set(references.map(({ name }) => name)).size !== references.length)
      throw new CollectiveError('usage', 'An appliance is named twice.');
    const beganAt = performance.now();
    const started: StartedMachine[] = [];
    await this.#inTurn(async () => {
      const session = this.#requireSession();
      const { source, note } = await session.refresh(job.signal);
      if (note !== undefined) job.emit({ event: 'note', text: note });
      for (const { name, version } of references) {
        job.emit({ event: 'progress', step: 'verify', text: `Verifying ${name}` });
        const verified = await this.#verified(session, {
          name,
          ...(version === undefined ? {} : { version }),
          isOnline: source !== undefined,
          signal: job.signal,
        });
        const disks = await this.#disks(session, verified, source !== undefined, job.signal);
        job.emit({ event: 'progress', step: 'start', text: `Starting ${name}@${String(verified.manifest.version)}` });
        const { notes } = await this.#machines.start(
          {
            name,
            version: verified.manifest.version,
            manifest: verified.digest,
            machine: verified.manifest.machine,
            disks,
            blocks: session.client.address,
            ...(request.accel === undefined ? {} : { accel: request.accel }),
          },
          job.signal,
        );
        started.push({ name, version: verified.manifest.version, notes: [...verified.notes, ...notes] });
      }
    });
    const { waitFor } = request;
    if (waitFor === undefined) return started;
    return Promise.all(
      started.map(async (machine) => {
        job.emit({
          event: 'progress',
          step: 'wait',
          text: `Waiting for ${waitFor === 'login' ? 'the login prompt' : `"${waitFor}"`} of ${machine.name}`,
        });
        await this.#machines.waitForConsole(machine.name, {
          text: waitFor,
          timeoutMs: request.waitMs ?? DEFAULT_WAIT_MS,
          signal: job.signal,
        });
        return { ...machine, readyMs: Math.round(performance.now() - beganAt) };
      }),
    );
  }

  async stop(request: StopRequest): Promise<readonly string[]> {
    const { machines } = await this.#machines.status();
    const names =
      request.all === true
        ? machines
            .filter((machine) => machine.state !== 'stopped' && machine.state !== 'failed')
            .map((machine) => machine.name)
        : request.names;
    for (const name of names)
      if (!isApplianceName(name)) throw new CollectiveError('usage', `"${name}" is no appliance.`);
    // All at once: each guest takes its own time to shut down.
    await Promise.all(
      names.map(async (name) =>
        this.#machines.stop(name, { force: request.force === true, wait: request.wait !== false }),
      ),
    );
    return names;
  }

  async console(name: string): Promise<{ readonly socket: string }> {
    return { socket: await this.#machines.consoleSocket(name) };
  }

  async publish(request: PublishRequest, job: JobContext): Promise<unknown> {
    const session = this.#requireSession();
    return publishAppliance(request, {
      session,
      home: this.#home,
      objects: this.#objects,
      machines: this.#machines,
      job,
    });
  }

  async export(request: ExportRequest, job: JobContext): Promise<unknown> {
    const session = this.#requireSession();
    const { source, note } = await session.refresh(job.signal);
    if (note !== undefined) job.emit({ event: 'note', text: note });
    const verified = await this.#verified(session, {
      name: request.name,
      ...(request.version === undefined ? {} : { version: request.version }),
      isOnline: source !== undefined,
      signal: job.signal,
    });
    for (const text of verified.notes) job.emit({ event: 'note', text });
    const disks = await this.#disks(session, verified, source !== undefined, job.signal);
    const disk = disks.find(({ description }) => description.name === request.disk);
    if (disk === undefined) {
      const known = disks.map(({ description }) => description.name).join(', ');
      throw new CollectiveError(
        'not-found',
        `${request.name}@${String(verified.manifest.version)} has no disk ${request.disk}; it has ${known}.`,
      );
    }
    const reference = `${request.name}@${String(verified.manifest.version)}`;
    await this.#machines.export(
      {
        name: request.name,
        version: verified.manifest.version,
        disk,
        blocks: session.client.address,
        socketPath: request.socket,
        writable: request.writable,
      },
      {
        signal: job.signal,
        onServing: () =>
          job.emit({
            event: 'progress',
            step: 'serving',
            text: `Serving disk ${request.disk} of ${reference} at ${request.socket}.`,
          }),
      },
    );
    return {};
  }

  async shutdown(): Promise<void> {
    await this.#machines.shutdown();
    // After the answer has left.
    setImmediate(this.#onShutdown);
  }

  async #verified(
    session: Session,
    wanted: {
      readonly name: string;
      readonly version?: number;
      readonly isOnline: boolean;
      readonly signal: AbortSignal;
    },
  ): Promise<VerifiedVersion> {
    const source = wanted.isOnline ? session.source(wanted.signal) : undefined;
    return wanted.version === undefined
      ? session.trust.newest(wanted.name, source)
      : session.trust.version(wanted.name, wanted.version, source);
  }

  async #disks(
    session: Session,
    verified: VerifiedVersion,
    isOnline: boolean,
    signal: AbortSignal,
  ): Promise<PlannedDisk[]> {
    const { manifest } = verified;
    const client = isOnline ? session.client : undefined;
    const disks: PlannedDisk[] = [];
    for (const description of manifest.disks) {
      disks.push({
        description,
        map: await loadDiskMap({ manifest, disk: description, objects: this.#objects, client, signal }),
      });
    }
    return disks;
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
