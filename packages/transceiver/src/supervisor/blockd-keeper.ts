/**
 * The disks of all machines of the home in one block daemon that is kept running (kept-blockd.ts), and their listening sockets, open
 * meanwhile: one that was started again is told everything again, and given the sockets, in whose backlog QEMU waits.
 *
 * A daemon that was adopted from an earlier supervisor cannot be given sockets; it makes new ones itself, and when it dies the
 * disks get held ones in the same places.
 */
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { BOOT_PHASE, CollectiveError, hasCode } from '@collective/shared';
import type { BlockdStatus, ControlEvent } from '../blockd/control/control-protocol.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import { letQemuConnect } from '../machine/launcher.js';
import { withTimeout } from '../machine/qmp-client.js';
import type { BlockdProcess } from './blockd-process.js';
import { type BlockdTrouble, BlockdTroubles } from './blockd-troubles.js';
import {
  isDiskOfPerson,
  type DiskAttachment,
  type DiskService,
  type DiskServiceEvents,
  type MissingBlocks,
} from './disk-service.js';
import { HeldSocket } from './held-socket.js';
import { adoptBlockd, KeptBlockd, type KeptBlockdOptions } from './kept-blockd.js';
import type { Repository, RepositoryFile } from './repository-file.js';

type Attached = { attachment: DiskAttachment; held: HeldSocket | undefined };

export type BlockdKeeperOptions = Pick<KeptBlockdOptions, 'program' | 'software' | 'watch' | 'log'> & {
  /** Remembers the repository (without the token) for the supervisor after a crash: guests go on though no agent is there. */
  readonly repositoryFile: RepositoryFile;
};

/** A disk that a restarted daemon could not open (the file system was full, say) is tried again: its machine is paused until then. */
const ATTACH_RETRY_MS = 3_000;
const STATUS_TIMEOUT_MS = 2_000;

export class BlockdKeeper extends EventEmitter<DiskServiceEvents> implements DiskService {
  readonly #options: BlockdKeeperOptions;
  readonly #attached = new Map<string, Attached>();
  readonly #attaching = new Set<Attached>();
  #repository: Repository | undefined;
  readonly #kept: KeptBlockd;
  readonly #troubles = new BlockdTroubles();
  #handedOver = 0;

  private constructor(
    options: BlockdKeeperOptions,
    adopted: BlockdProcess | undefined,
    repository: Repository | undefined,
  ) {
    super();
    this.#repository = repository;
    this.setMaxListeners(0); // a few for each machine
    this.#options = options;
    this.#kept = new KeptBlockd(
      {
        ...options,
        onEvent: (event) => this.take(event),
        tell: (daemon) => this.#tellAgain(daemon),
        tellAdopted: (daemon) => this.#tellRepositoryIfNone(daemon),
        onRestarted: () => this.emit('restarted'),
      },
      adopted,
    );
  }

  /** Adopts the daemon that is there, or begins to start one; requests wait for it. */
  static async open(options: BlockdKeeperOptions): Promise<BlockdKeeper> {
    const early: ControlEvent[] = [];
    let take = (event: ControlEvent): void => void early.push(event);
    const adopted = await adoptBlockd(options, (event) => take(event));
    if (adopted === undefined) early.length = 0; // of one that was replaced
    const keeper = new BlockdKeeper(options, adopted, await options.repositoryFile.read());
    take = (event) => keeper.take(event);
    for (const event of early) take(event);
    return keeper;
  }

  get pid(): number | null {
    return this.#kept.daemon?.identity.pid ?? null;
  }

  get software(): string | null {
    return this.#kept.daemon?.software ?? null;
  }

  /** What the daemon has said lately, for people. */
  get troubles(): BlockdTrouble[] {
    return this.#troubles.list();
  }

  get restarts(): number {
    return this.#kept.restarts;
  }

  /** Where blocks come from; told again to a daemon that was restarted. */
  async setRepository(repository: Repository): Promise<void> {
    this.#repository = repository;
    await this.#options.repositoryFile.write(repository);
    await this.#kept.use(({ client }) => client.request('repository', repository));
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
      await this.#kept.use((daemon) => this.#attachTo(daemon, attached, options), options.signal);
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
    const status = await this.#kept.use(({ client }) => client.request('status', {}));
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
        await this.#kept.use(({ client }) => client.request('detach', { session: machine, disk, keep: true }));
        return;
      }
      this.#attached.delete(key);
      // A daemon that is away has nothing attached, and will not be told to attach this again.
      await this.#kept.daemon?.client.request('detach', { session: machine, disk });
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
    const asked = this.#kept.daemon?.client.request('keys', { blockKeys });
    await asked?.catch((error: unknown) => this.#options.log(`blockd: keys of ${machine}: ${String(error)}`));
  }

  async setWait(machine: string, waitMs: number | undefined): Promise<void> {
    const mine = [...this.#attached.values()].filter(({ attachment }) => attachment.machine === machine);
    const wanted = waitMs ?? Math.min(...mine.map(({ attachment }) => attachment.waitMs));
    if (mine.length === 0) return;
    // A daemon that is away is told the usual time when it attaches the disks again.
    const asked = this.#kept.daemon?.client.request('wait', { session: machine, waitMs: wanted });
    await asked?.catch((error: unknown) => this.#options.log(`blockd: wait of ${machine}: ${String(error)}`));
  }

  async warm(machine: string, disk: string, { signal }: { readonly signal?: AbortSignal }): Promise<void> {
    // Asked again and again by the caller: a short time, so that it can say what is missing.
    await this.#kept.use(
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
    await this.#kept.use(({ client }) => client.request('trace-start', { session: machine }));
  }

  async traceIdle(machine: string): Promise<void> {
    await this.#kept.use(({ client }) => client.request('phase', { session: machine, phase: BOOT_PHASE.idle }));
  }

  /** Undefined when the daemon does not answer just now. */
  async status(): Promise<BlockdStatus | undefined> {
    const { daemon } = this.#kept;
    if (daemon === undefined) return undefined;
    return await withTimeout(daemon.client.request('status', {}), STATUS_TIMEOUT_MS, 'blockd did not answer').catch(
      () => undefined,
    );
  }

  /** Ends the daemon; no machine may be running. */
  async close(): Promise<void> {
    const ended = this.#kept.close();
    await Promise.all([ended, ...[...this.#attached.values()].map(({ held }) => held?.close())]);
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
    const isWanted = (): boolean => !hasEnded && !this.#kept.isClosing && this.#attached.get(key) === attached;
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
    const { machine, disk, source, overlay, trace, diskKey, blockKeys, waitMs, graceMs, socketPath, qemuUser } =
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
      ...(trace === undefined ? {} : { trace }),
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
}

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
