/**
 * A running QEMU: its process, its QMP connection, and how it ended. It may be our child or one that an earlier
 * supervisor started; both are treated alike, by process identity and by the end of the QMP connection.
 *
 * `close` lets go of it and leaves it running.
 */
import { EventEmitter } from 'node:events';
import { open } from 'node:fs/promises';
import { constants } from 'node:fs';
import { CollectiveError } from '@collective/shared';
import { launchQemu, type LaunchOptions, limitFiles } from './launcher.js';
import { SHUTDOWN_TRACE } from './qemu-arguments.js';
import { sessionPaths, type SessionPaths } from './machine-session.js';
import { identifyProcess, isAlive, type ProcessIdentity, signalProcess, waitForEnd } from './process-identity.js';
import { field, QmpClient, type QmpEvent } from './qmp-client.js';

export type QemuEnd = {
  /** `guest-reset`, `guest-shutdown`, `host-qmp-quit`, `guest-panic`…; undefined when QEMU did not say: it crashed or was killed. */
  readonly reason: string | undefined;
  /** The last lines of its stderr. */
  readonly stderrTail: string;
};

type QemuProcessEvents = {
  /** A QMP event, SHUTDOWN included. */
  qmp: [event: QmpEvent];
  end: [end: QemuEnd];
  /** The control connection was lost and is there again: events may have been missed. */
  reconnected: [];
};

const QMP_WAIT_MS = 20_000;
/** QEMU flushes its disks when it ends. */
const SHUTDOWN_GRACE_MS = 30_000;
const STDERR_TAIL_BYTES = 4_096;
const LIVENESS_INTERVAL_MS = 1_000;

export class QemuProcess extends EventEmitter<QemuProcessEvents> {
  readonly identity: ProcessIdentity;
  readonly paths: SessionPaths;
  #qmp: QmpClient | undefined;
  #reason: string | undefined;
  #end: QemuEnd | undefined;
  readonly #watch: NodeJS.Timeout;
  #closed = false;

  private constructor(identity: ProcessIdentity, paths: SessionPaths) {
    super();
    this.identity = identity;
    this.paths = paths;
    // The end is noticed by the QMP connection; this is for a QEMU whose connection is not there.
    this.#watch = setInterval(() => void this.#look(), LIVENESS_INTERVAL_MS);
    this.#watch.unref();
  }

  /** Starts QEMU, stopped, and connects. `onSpawn` is awaited before anything else, so that its record is durable before the guest runs. */
  static async launch(
    options: LaunchOptions & {
      readonly onSpawn: (identity: ProcessIdentity) => Promise<void>;
      /** Abort kills QEMU. */
      readonly signal: AbortSignal;
    },
  ): Promise<QemuProcess> {
    const child = await launchQemu(options);
    child.unref();
    const paths = sessionPaths(options.session.folder);
    const identity = child.pid === undefined ? undefined : await identifyProcess(child.pid);
    if (identity === undefined)
      throw new CollectiveError('local-io', `QEMU ended at once: ${await readTail(paths.stderr)}`);
    const qemu = new QemuProcess(identity, paths);
    child.once('exit', () => void qemu.#look());
    const onAbort = (): void => void qemu.kill().catch(() => undefined);
    options.signal.addEventListener('abort', onAbort, { once: true });
    try {
      options.signal.throwIfAborted();
      await options.onSpawn(identity);
      await qemu.#connect(paths.qmp);
      await limitFiles(identity.pid, options.user);
    } catch (error) {
      await qemu.kill();
      qemu.close();
      const said = await readTail(paths.stderr);
      throw new CollectiveError('local-io', `QEMU did not start: ${said === '' ? messageOf(error) : said}`, {
        cause: error,
      });
    } finally {
      options.signal.removeEventListener('abort', onAbort);
    }
    return qemu;
  }

  /** Connects to a QEMU that an earlier supervisor started. Undefined when it is gone. */
  static async adopt(identity: ProcessIdentity, folder: string): Promise<QemuProcess | undefined> {
    if (!(await isAlive(identity))) return undefined;
    const qemu = new QemuProcess(identity, sessionPaths(folder));
    try {
      // QMP serves one connection a socket: the earlier supervisor's died with it, and the spare one is free in any case.
      await qemu.#connect(qemu.paths.qmp).catch(() => qemu.#connect(qemu.paths.qmpSpare));
      return qemu;
    } catch (error) {
      if (!(await isAlive(identity))) {
        qemu.close();
        return undefined;
      }
      qemu.close();
      throw error;
    }
  }

  /** Errors: `local-io` when the connection is gone. */
  get qmp(): QmpClient {
    if (this.#qmp === undefined) throw new CollectiveError('local-io', 'QEMU has no control connection');
    return this.#qmp;
  }

  get ended(): QemuEnd | undefined {
    return this.#end;
  }

  /** SIGKILL. Resolves when the process is gone; what the guest wrote is in the block path and survives. */
  async kill(): Promise<void> {
    await signalProcess(this.identity, 'SIGKILL');
    if (!(await waitForEnd(this.identity, 10_000)))
      throw new CollectiveError('local-io', `QEMU ${this.identity.pid} cannot be killed`);
    await this.#look();
  }

  /** Asks QEMU to end; kills it when it has not within `graceMs`: its main loop can hang on a pending read. */
  async quit(graceMs: number): Promise<void> {
    const giveUpAt = performance.now() + graceMs;
    await this.#qmp?.quit({ timeoutMs: graceMs }).catch(() => undefined);
    if (!(await waitForEnd(this.identity, Math.max(0, giveUpAt - performance.now())))) await this.kill();
    await this.#look();
  }

  /** Lets go; QEMU runs on. Idempotent. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#watch);
    this.#qmp?.close();
  }

  async #connect(path: string): Promise<void> {
    const giveUp = new AbortController();
    this.once('end', () => giveUp.abort());
    const qmp = await QmpClient.open(path, { waitMs: QMP_WAIT_MS, signal: giveUp.signal });
    this.#qmp = qmp;
    qmp.on('event', (event) => {
      if (event.name === 'SHUTDOWN') {
        const reason = field(event.data, 'reason');
        // The first one counts: ending QEMU is one as well.
        this.#reason ??= typeof reason === 'string' ? reason : 'unknown';
        void this.#endShutDown();
      }
      if (event.name === 'STOP' && this.#reason !== undefined) return; // for good: no pause
      this.emit('qmp', event);
    });
    qmp.once('close', () => void this.#onDisconnect());
    if (qmp.closed) return await this.#onDisconnect();
    // Shut down or reset while nobody was there.
    const { status } = await qmp.queryStatus();
    if (status !== 'shutdown') return;
    this.#reason ??= causeOf(await readTail(this.paths.stderr));
    void this.#endShutDown();
  }

  /** The guest is through and stands still (`shutdown=pause`): nothing is left to do for QEMU. */
  async #endShutDown(): Promise<void> {
    await this.quit(SHUTDOWN_GRACE_MS).catch(() => undefined); // one that cannot be killed is still watched
  }

  async #onDisconnect(): Promise<void> {
    if (this.#closed) return;
    // The process outlives its sockets by a moment. If it stays, only the connection was lost: the spare one is left.
    if (await waitForEnd(this.identity, 2_000)) return await this.#look();
    if (this.#closed) return;
    const isThere = await this.#connect(this.paths.qmpSpare).then(
      () => true,
      () => false,
    );
    if (isThere) this.emit('reconnected');
  }

  async #look(): Promise<void> {
    if (this.#end !== undefined || this.#closed || (await isAlive(this.identity))) return;
    clearInterval(this.#watch);
    const stderrTail = withoutTraces(await readTail(this.paths.stderr));
    if (this.#end !== undefined) return;
    this.#end = { reason: this.#reason, stderrTail };
    this.#qmp?.close();
    this.emit('end', this.#end);
  }
}

/** QEMU's ShutdownCause by number, as traced. A reset is not traced. */
const CAUSES: Readonly<Record<string, string>> = { 4: 'host-signal', 6: 'guest-shutdown', 8: 'guest-panic' };

/** Why a guest stands still in the state `shutdown`. */
const causeOf = (stderr: string): string => {
  const traced = [...stderr.matchAll(TRACES)].at(-1)?.[1];
  return traced === undefined ? 'guest-reset' : (CAUSES[traced] ?? 'unknown');
};

const TRACES = new RegExp(`^.*${SHUTDOWN_TRACE} reason=(\\d+).*$`, 'gm');
const withoutTraces = (stderr: string): string => stderr.replaceAll(TRACES, '').trim();

/** QEMU's folder is hostile: a link in the place of the file is not followed. */
async function readTail(path: string): Promise<string> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { size } = await file.stat();
      const tail = Buffer.alloc(Math.min(size, STDERR_TAIL_BYTES));
      const { bytesRead } = await file.read(tail, 0, tail.length, size - tail.length);
      return tail.subarray(0, bytesRead).toString('utf8').trim();
    } finally {
      await file.close();
    }
  } catch {
    return '';
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
