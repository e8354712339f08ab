/**
 * Keeps one block daemon running for all machines of the home, and the listening sockets of their disks open meanwhile: when
 * it dies it is started again at once, told everything again, and given the sockets, in whose backlog QEMU waits.
 *
 * A daemon that was adopted from an earlier supervisor cannot be given sockets; it makes new ones itself, and when it dies the
 * disks get held ones in the same places.
 */
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError, hasCode } from '@collective/shared';
import type { ControlClient } from '../blockd/control/control-client.js';
import type { BlockdStatus, ControlEvent } from '../blockd/control/control-protocol.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import { letQemuConnect } from '../machine/launcher.js';
import { signalProcess } from '../machine/process-identity.js';
import { withTimeout } from '../machine/qmp-client.js';
import { type BlockdProgram, BlockdProcess } from './blockd-process.js';
import { type BlockdTrouble, BlockdTroubles } from './blockd-troubles.js';
import {
  isDiskOfPerson,
  type DiskAttachment,
  type DiskService,
  type DiskServiceEvents,
  type MissingBlocks,
} from './disk-service.js';
import { HeldSocket } from './held-socket.js';
import type { Repository, RepositoryFile } from './repository-file.js';

type Attached = { attachment: DiskAttachment; held: HeldSocket | undefined };

export type BlockdKeeperOptions = {
  readonly program: BlockdProgram;
  /** Remembers the repository (without the token) for the supervisor after a crash: guests go on though no agent is there. */
  readonly repositoryFile: RepositoryFile;
  /** An adopted daemon of another one is replaced. Undefined: any will do. */
  readonly software?: string;
  /** How often the daemon is asked whether it lives, and how long it may take to answer. */
  readonly watch?: { readonly intervalMs: number; readonly answerMs: number };
  readonly log: (text: string) => void;
};

/** One that dies again within this time is waited for a little longer each time. */
const QUICK_DEATH_MS = 5_000;
const RESTART_DELAYS_MS = [0, 100, 500, 1_000, 2_000, 5_000] as const;
/** A disk that a restarted daemon could not open (the file system was full, say) is tried again: its machine is paused until then. */
const ATTACH_RETRY_MS = 3_000;
/** How long a request waits for a daemon that is being restarted. */
const DAEMON_WAIT_MS = 60_000;
const STATUS_TIMEOUT_MS = 2_000;
const STOP_GRACE_MS = 25_000;
/** A daemon that hangs would let guests hang: it is killed, which loses nothing, and started again. Twice, because one stall is a busy host. */
const WATCH = { intervalMs: 5_000, answerMs: 15_000 };
const UNANSWERED_MAX = 2;

export class BlockdKeeper extends EventEmitter<DiskServiceEvents> implements DiskService {
  readonly #options: BlockdKeeperOptions;
  readonly #attached = new Map<string, Attached>();
  readonly #attaching = new Set<Attached>();
  #repository: Repository | undefined;
  #daemon: BlockdProcess | undefined;
  readonly #troubles = new BlockdTroubles();
  #restarts = 0;
  #handedOver = 0;
  #closing = false;
  /** Told when a daemon serves. */
  #waiters: (() => void)[] = [];
  #keeping: Promise<void>;

  private constructor(
    options: BlockdKeeperOptions,
    adopted: BlockdProcess | undefined,
    repository: Repository | undefined,
  ) {
    super();
    this.#repository = repository;
    this.setMaxListeners(0); // a few for each machine
    this.#options = options;
    this.#daemon = adopted;
    this.#keeping = this.#keep();
  }

  /** Adopts the daemon that is there, or begins to start one; requests wait for it. */
  static async open(options: BlockdKeeperOptions): Promise<BlockdKeeper> {
    const early: ControlEvent[] = [];
    let take = (event: ControlEvent): void => void early.push(event);
    let adopted = await BlockdProcess.adopt(options.program.controlSocket, (event) => take(event));
    if (adopted !== undefined && options.software !== undefined && adopted.software !== options.software) {
      // An update: it ends its requests and makes the overlays durable; QEMU waits for the next one.
      options.log(`blockd ${adopted.identity.pid} is ${adopted.software ?? 'of older software'} and is replaced`);
      await adopted.stop(STOP_GRACE_MS);
      adopted = undefined;
      early.length = 0;
    }
    const keeper = new BlockdKeeper(options, adopted, await options.repositoryFile.read());
    take = (event) => keeper.take(event);
    for (const event of early) take(event);
    return keeper;
  }

  get pid(): number | null {
    return this.#daemon?.identity.pid ?? null;
  }

  get software(): string | null {
    return this.#daemon?.software ?? null;
  }

  /** What the daemon has said lately, for people. */
  get troubles(): BlockdTrouble[] {
    return this.#troubles.list();
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** Where blocks come from; told again to a daemon that was restarted. */
  async setRepository(repository: Repository): Promise<void> {
    this.#repository = repository;
    await this.#options.repositoryFile.write(repository);
    await this.#withDaemon(({ client }) => client.request('repository', repository));
  }

  async attach(
    attachment: DiskAttachment,
    options: { readonly fresh: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    const key = keyOf(attachment.machine, attachment.disk);
    const known = this.#attached.get(key);
    const attached: Attached = { attachment, held: known?.held };
    this.#attaching.add(attached);
    try {
      await this.#withDaemon((daemon) => this.#attachTo(daemon, attached, options), options.signal);
    } catch (error) {
      if (known === undefined) await attached.held?.close();
      throw error;
    } finally {
      this.#attaching.delete(attached);
    }
    this.#attached.set(key, attached);
  }

  async adopt(attachment: DiskAttachment): Promise<void> {
    const { machine, disk } = attachment;
    // However long the answer takes: a disk that is attached must not be taken for one that is not.
    const status = await this.#withDaemon(({ client }) => client.request('status', {}));
    if (!status.disks.some((each) => each.session === machine && each.disk === disk)) {
      try {
        return await this.attach(attachment, { fresh: false });
      } catch (error) {
        // The daemon was just attaching it for the supervisor that died.
        if (!hasCode(error, 'exists')) throw error;
      }
    }
    // Held already when this is a repetition: an earlier disk of the machine was attached, a later one could not be.
    const key = keyOf(machine, disk);
    this.#attached.set(key, { attachment, held: this.#attached.get(key)?.held });
    // The supervisor that died may not have come to that.
    await letQemuConnect(attachment.socketPath, attachment.qemuUser).catch((error: unknown) =>
      this.#options.log(`blockd: the socket of ${disk} of ${machine}: ${String(error)}`),
    );
  }

  async detach(machine: string, disk: string, options: { readonly keepOverlay?: boolean } = {}): Promise<void> {
    const key = keyOf(machine, disk);
    const attached = this.#attached.get(key);
    try {
      // Kept ones are made durable, so that needs a daemon that has it attached: one that is just being started attaches it first.
      if (options.keepOverlay === true) {
        await this.#withDaemon(({ client }) => client.request('detach', { session: machine, disk, keep: true }));
        return;
      }
      this.#attached.delete(key);
      // A daemon that is away has nothing attached, and will not be told to attach this again.
      await this.#daemon?.client.request('detach', { session: machine, disk });
    } catch (error) {
      if (!hasCode(error, 'not-found') && !hasCode(error, 'shutting-down')) throw error;
    } finally {
      this.#attached.delete(key);
      await attached?.held?.close();
    }
  }

  async setBlockKeys(machine: string, blockKeys: BlockKeys): Promise<void> {
    // Also those whose attach waits for a daemon that is being started.
    for (const attached of [...this.#attached.values(), ...this.#attaching]) {
      const { attachment } = attached;
      if (attachment.machine === machine && isDiskOfPerson(attachment))
        attached.attachment = { ...attachment, blockKeys };
    }
    // A daemon that is away is told when it attaches the disks again.
    const asked = this.#daemon?.client.request('keys', { blockKeys });
    await asked?.catch((error: unknown) => this.#options.log(`blockd: keys of ${machine}: ${String(error)}`));
  }

  async setWait(machine: string, waitMs: number | undefined): Promise<void> {
    const mine = [...this.#attached.values()].filter(({ attachment }) => attachment.machine === machine);
    const wanted = waitMs ?? Math.min(...mine.map(({ attachment }) => attachment.waitMs));
    if (mine.length === 0) return;
    // A daemon that is away is told the usual time when it attaches the disks again.
    const asked = this.#daemon?.client.request('wait', { session: machine, waitMs: wanted });
    await asked?.catch((error: unknown) => this.#options.log(`blockd: wait of ${machine}: ${String(error)}`));
  }

  async warm(machine: string, disk: string, { signal }: { readonly signal?: AbortSignal }): Promise<void> {
    // Asked again and again by the caller: a short time, so that it can say what is missing.
    await this.#withDaemon(
      ({ client }) => abortable(client.request('warm', { session: machine, disk, timeoutMs: 5_000 }), signal),
      signal,
    );
  }

  async missing(machine: string): Promise<readonly MissingBlocks[] | undefined> {
    const status = await this.status();
    return status?.disks
      .filter(({ session }) => session === machine)
      .map(({ disk, waiting }) => {
        const lost = waiting.filter(({ isUnavailable }) => isUnavailable);
        const why = (lost[0] ?? waiting[0])?.reason ?? status.lastError?.message;
        return { disk, blocks: lost.map(({ blockIndex }) => blockIndex), why };
      });
  }

  async traceStart(machine: string): Promise<void> {
    await this.#withDaemon(({ client }) => client.request('trace-start', { session: machine }));
  }

  /** Undefined when the daemon does not answer just now. */
  async status(): Promise<BlockdStatus | undefined> {
    const daemon = this.#daemon;
    if (daemon === undefined) return undefined;
    return await withTimeout(daemon.client.request('status', {}), STATUS_TIMEOUT_MS, 'blockd did not answer').catch(
      () => undefined,
    );
  }

  /** Ends the daemon; no machine may be running. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const { held } of this.#attached.values()) await held?.close();
    await this.#daemon?.stop(STOP_GRACE_MS);
    await this.#keeping;
  }

  take(event: ControlEvent): void {
    switch (event.event) {
      case 'block-unavailable':
        this.emit('unavailable', event.session, event.disk, event.blockIndex, event.reason);
        return;
      case 'block-arrived':
        if (event.stillUnavailable === 0) this.emit('arrived', event.session);
        return;
      case 'disk-full':
        this.#troubles.add({ code: 'disk-full', machine: event.session, disk: event.disk, message: event.message });
        return;
      case 'token-refused':
        this.#troubles.add({
          code: 'not-logged-in',
          message: 'The repository refuses to send blocks: it wants another login.',
        });
        return;
      default:
        return event satisfies never;
    }
  }

  /** Ends with the daemon. */
  async #watch(daemon: BlockdProcess): Promise<void> {
    const { intervalMs, answerMs } = this.#options.watch ?? WATCH;
    let isOver = false;
    const ended = daemon.ended.then(() => (isOver = true));
    for (let unanswered = 0; !isOver;) {
      await Promise.race([ended, delay(intervalMs, undefined, { ref: false })]);
      if (isOver) return;
      const answers = await daemon.client.request('hello', {}, { timeoutMs: answerMs }).then(
        () => true,
        (error: unknown) => !isTimeout(error),
      );
      unanswered = answers ? 0 : unanswered + 1;
      if (unanswered < UNANSWERED_MAX) continue;
      this.#options.log(`blockd ${daemon.identity.pid} does not answer and is killed`);
      await signalProcess(daemon.identity, 'SIGKILL');
      return;
    }
  }

  async #keep(): Promise<void> {
    let quickDeaths = 0;
    while (!this.#closing) {
      const startedAtMs = Date.now();
      try {
        const adopted = this.#daemon;
        if (adopted === undefined) await this.#endStranger();
        const daemon = adopted ?? (await BlockdProcess.start(this.#options.program, (event) => this.take(event)));
        // First: one that hangs while it is told is killed, too. Its guests wait.
        void this.#watch(daemon).catch((error: unknown) => this.#options.log(String(error)));
        if (adopted === undefined) await this.#tellAgain(daemon);
        else
          void this.#tellRepositoryIfNone(daemon).catch((error: unknown) =>
            this.#options.log(`blockd: ${String(error)}`),
          );
        this.#daemon = daemon;
        for (const waiter of this.#waiters.splice(0)) waiter();
        if (this.#closing) await daemon.stop(STOP_GRACE_MS);
        if (adopted === undefined && this.#restarts > 0) this.emit('restarted');
        await daemon.ended;
        if (!this.#closing) this.#options.log(`blockd ${daemon.identity.pid} has ended; it is started again`);
      } catch (error) {
        this.#options.log(`blockd: ${error instanceof Error ? error.message : String(error)}`);
      }
      this.#daemon = undefined;
      this.#restarts += 1;
      quickDeaths = Date.now() - startedAtMs < QUICK_DEATH_MS ? quickDeaths + 1 : 0;
      if (!this.#closing) await delay(RESTART_DELAYS_MS[Math.min(quickDeaths, RESTART_DELAYS_MS.length - 1)]);
    }
    for (const waiter of this.#waiters.splice(0)) waiter();
  }

  /**
   * One that serves this home and is not ours: an earlier supervisor had just started it when it was killed. It has the lock, so
   * none of ours could ever start beside it, and nobody else commands it: this process holds the supervisor's lock.
   */
  async #endStranger(): Promise<void> {
    const stranger = await BlockdProcess.adopt(this.#options.program.controlSocket, () => undefined);
    if (stranger === undefined) return;
    this.#options.log(`blockd ${stranger.identity.pid} was started by another supervisor; it is ended`);
    await stranger.stop(STOP_GRACE_MS);
  }

  /**
   * An adopted one may have just begun when its supervisor was killed, before it was told. One that knows a repository may have its token
   * too, which nobody here has.
   */
  async #tellRepositoryIfNone({ client }: BlockdProcess): Promise<void> {
    const { repository } = await client.request('status', {});
    if (repository === null && this.#repository !== undefined) await client.request('repository', this.#repository);
  }

  /** What a daemon that begins knows nothing of: the repository and every disk. One disk's failure is its own. */
  async #tellAgain(daemon: BlockdProcess): Promise<void> {
    if (this.#repository !== undefined) await daemon.client.request('repository', this.#repository);
    await Promise.all(
      [...this.#attached].map(async ([key, attached]) => {
        if (!(await this.#attachAgain(daemon, key, attached))) void this.#keepAttaching(daemon, key, attached);
      }),
    );
  }

  /** False when it failed. */
  async #attachAgain(daemon: BlockdProcess, key: string, attached: Attached): Promise<boolean> {
    const { machine, disk } = attached.attachment;
    try {
      await this.#attachTo(daemon, attached, { fresh: false });
      // Detached meanwhile, when there was nobody to tell.
      if (this.#attached.get(key) !== attached) await daemon.client.request('detach', { session: machine, disk });
      return true;
    } catch (error) {
      this.#options.log(`blockd: disk ${disk} of ${machine} could not be attached again: ${String(error)}`);
      return false;
    }
  }

  async #keepAttaching(daemon: BlockdProcess, key: string, attached: Attached): Promise<void> {
    let hasEnded = false;
    void daemon.ended.then(() => (hasEnded = true)); // the next one is told everything anew
    const isWanted = (): boolean => !hasEnded && !this.#closing && this.#attached.get(key) === attached;
    for (;;) {
      await delay(ATTACH_RETRY_MS, undefined, { ref: false });
      if (!isWanted()) return;
      if (await this.#attachAgain(daemon, key, attached)) break;
    }
    if (isWanted()) this.emit('restarted');
  }

  async #attachTo(
    daemon: BlockdProcess,
    attached: Attached,
    { fresh, signal }: { readonly fresh: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    const { machine, disk, source, overlay, diskKey, blockKeys, waitMs, graceMs, socketPath, qemuUser } =
      attached.attachment;
    // A name of its own each time: one that came too late for a failed attempt is not taken for the next.
    const name = `${machine}.${disk}.${++this.#handedOver}`;
    // Else the daemon makes its own, in the place of one of an earlier supervisor.
    if (daemon.takesSockets) attached.held ??= await HeldSocket.open(socketPath);
    const { held } = attached;
    // Nothing is asked after the signal: it would come to the daemon behind the detach of who gave it.
    signal?.throwIfAborted();
    const request = daemon.client.request('attach', {
      session: machine,
      disk,
      source,
      ...(overlay === undefined ? {} : { overlay: { ...overlay, fresh } }),
      ...(diskKey === undefined ? {} : { diskKey }),
      ...(blockKeys === undefined ? {} : { blockKeys }),
      waitMs,
      ...(graceMs === 0 ? {} : { graceMs }),
      listen: daemon.takesSockets && held !== undefined ? { handle: name } : { path: socketPath },
    });
    if (daemon.takesSockets && held !== undefined) daemon.handOver(name, held);
    await abortable(request, signal);
    await letQemuConnect(socketPath, qemuUser);
  }

  /**
   * The action with the daemon that serves; once more when it died under it. The signal ends the waiting for one; in the action it is
   * the action's. Errors: the action's, `shutting-down`, the signal's reason.
   */
  async #withDaemon<T>(
    action: (daemon: BlockdProcess & { readonly client: ControlClient }) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      signal?.throwIfAborted();
      const daemon = this.#daemon ?? (await this.#nextDaemon(signal));
      try {
        return await action(daemon);
      } catch (error) {
        signal?.throwIfAborted();
        if (attempt >= 3 || !hasCode(error, 'shutting-down')) throw error;
        await Promise.race([daemon.ended, delay(DAEMON_WAIT_MS)]);
      }
    }
  }

  async #nextDaemon(signal: AbortSignal | undefined): Promise<BlockdProcess> {
    const serving = new Promise<void>((resolve) => this.#waiters.push(resolve));
    const late = delay(DAEMON_WAIT_MS, undefined, { ref: false, ...(signal === undefined ? {} : { signal }) });
    await Promise.race([serving, late]);
    if (this.#daemon === undefined)
      throw new CollectiveError('local-io', `the block daemon does not start; see ${this.#options.program.logFile}`);
    return this.#daemon;
  }
}

const isTimeout = (error: unknown): boolean => error instanceof CollectiveError && error.data['timedOut'] === true;

const keyOf = (machine: string, disk: string): string => `${machine}/${disk}`;

/** The promise, or the signal's reason when that comes first; what the promise does afterwards is nobody's concern. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new CollectiveError('shutting-down', 'The machine is being stopped'));
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    signal.throwIfAborted();
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
