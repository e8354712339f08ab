/**
 * One block daemon that is kept running: when it dies it is started again at once, when it hangs it is killed, and who wants something of
 * it meanwhile waits. What a new one has to be told is its owner's affair (blockd-keeper.ts).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError, hasCode } from '@collective/shared';
import type { ControlEvent } from '../blockd/control/control-protocol.js';
import { signalProcess } from '../machine/process-identity.js';
import { BlockdProcess, type BlockdProgram } from './blockd-process.js';

export type KeptBlockdOptions = {
  readonly program: BlockdProgram;
  /** An adopted daemon of another one is replaced. Undefined: any will do. */
  readonly software?: string;
  /** How often the daemon is asked whether it lives, and how long it may take to answer. */
  readonly watch?: { readonly intervalMs: number; readonly answerMs: number };
  readonly log: (text: string) => void;
  readonly onEvent: (event: ControlEvent) => void;
  /** Tells one that was just started what it knows nothing of; it serves when this has resolved. */
  readonly tell: (daemon: BlockdProcess) => Promise<void>;
  /** The same for one that was adopted, which serves meanwhile. */
  readonly tellAdopted: (daemon: BlockdProcess) => Promise<void>;
  /** Another one serves in the place of one that ended. */
  readonly onRestarted: () => void;
};

/** One that dies again within this time is waited for a little longer each time. */
const QUICK_DEATH_MS = 5_000;
const RESTART_DELAYS_MS = [0, 100, 500, 1_000, 2_000, 5_000] as const;
/** How long a request waits for a daemon that is being restarted. */
const DAEMON_WAIT_MS = 60_000;
const STOP_GRACE_MS = 25_000;
/** A daemon that hangs would let guests hang: it is killed, which loses nothing, and started again. Twice, because one stall is a busy host. */
const WATCH = { intervalMs: 5_000, answerMs: 15_000 };
const UNANSWERED_MAX = 2;

/** The daemon that an earlier supervisor started; undefined when none is there, or it was of other software and has been ended. */
export const adoptBlockd = async (
  { program, software, log }: Pick<KeptBlockdOptions, 'program' | 'software' | 'log'>,
  onEvent: (event: ControlEvent) => void,
): Promise<BlockdProcess | undefined> => {
  const adopted = await BlockdProcess.adopt(program.controlSocket, onEvent);
  if (adopted === undefined || software === undefined || adopted.software === software) return adopted;
  // An update: it ends its requests and makes the overlays durable; QEMU waits for the next one.
  log(`blockd ${adopted.identity.pid} is ${adopted.software ?? 'of older software'} and is replaced`);
  await adopted.stop(STOP_GRACE_MS);
  return undefined;
};

export class KeptBlockd {
  readonly #options: KeptBlockdOptions;
  #daemon: BlockdProcess | undefined;
  #restarts = 0;
  #isClosing = false;
  /** Told when a daemon serves. */
  #waiters: (() => void)[] = [];
  readonly #keeping: Promise<void>;

  /** Begins to start one unless one was adopted. */
  constructor(options: KeptBlockdOptions, adopted: BlockdProcess | undefined) {
    this.#options = options;
    this.#daemon = adopted;
    this.#keeping = this.#keep();
  }

  /** The one that serves; undefined while it is being started. */
  get daemon(): BlockdProcess | undefined {
    return this.#daemon;
  }

  get restarts(): number {
    return this.#restarts;
  }

  get isClosing(): boolean {
    return this.#isClosing;
  }

  /**
   * The action with the daemon that serves; once more when it died under it. The signal ends the waiting for one; in the action it is
   * the action's. Errors: the action's, `shutting-down`, the signal's reason.
   */
  async use<T>(action: (daemon: BlockdProcess) => Promise<T>, signal?: AbortSignal): Promise<T> {
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

  /** Ends the daemon, and starts none again. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#daemon?.stop(STOP_GRACE_MS);
    await this.#keeping;
  }

  async #keep(): Promise<void> {
    let quickDeaths = 0;
    while (!this.#isClosing) {
      const startedAtMs = Date.now();
      try {
        const adopted = this.#daemon;
        if (adopted === undefined) await this.#endStranger();
        const daemon = adopted ?? (await BlockdProcess.start(this.#options.program, this.#options.onEvent));
        // Before it is told anything: it may hang in that, too.
        void this.#watch(daemon).catch((error: unknown) => this.#options.log(String(error)));
        if (adopted === undefined) await this.#options.tell(daemon);
        else
          void this.#options
            .tellAdopted(daemon)
            .catch((error: unknown) => this.#options.log(`blockd: ${String(error)}`));
        this.#daemon = daemon;
        for (const waiter of this.#waiters.splice(0)) waiter();
        if (this.#isClosing) await daemon.stop(STOP_GRACE_MS);
        if (adopted === undefined && this.#restarts > 0) this.#options.onRestarted();
        await daemon.ended;
        if (!this.#isClosing) this.#options.log(`blockd ${daemon.identity.pid} has ended; it is started again`);
      } catch (error) {
        this.#options.log(`blockd: ${error instanceof Error ? error.message : String(error)}`);
      }
      this.#daemon = undefined;
      this.#restarts += 1;
      quickDeaths = Date.now() - startedAtMs < QUICK_DEATH_MS ? quickDeaths + 1 : 0;
      if (!this.#isClosing) await delay(RESTART_DELAYS_MS[Math.min(quickDeaths, RESTART_DELAYS_MS.length - 1)]);
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
