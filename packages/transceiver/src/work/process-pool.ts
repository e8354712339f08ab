/**
 * Worker processes for work that takes a core: hashing, compressing, encrypting. The agent stays responsive, and more than
 * one core is used. A task goes to the first idle worker; workers are started when they are first needed. Under tests that
 * run from the sources (`workers: 0`) tasks run here.
 *
 * Processes and not threads: the zstd library has one static context a process (shared/src/zstd.ts), and what a worker
 * reads is sometimes an image that nobody vouches for.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { CollectiveError, isErrorCode } from '@collective/shared';

/** More workers than this only fight for the disk. */
const WORKERS_MAX = 4;

type Failure = { readonly code: string; readonly message: string; readonly data?: CollectiveError['data'] };
type WorkerReply<R> = { readonly ok: R } | { readonly failed: Failure };

/** What runs the tasks of one worker, one after the other. */
export type TaskRunner<T, R> = {
  readonly run: (task: T) => Promise<R>;
  readonly close?: () => Promise<void>;
};

export type PoolOptions<T, R> = {
  /** The worker's main program, which calls `serveTasks`. */
  readonly script: URL;
  /** The same without a process. */
  readonly inline: () => TaskRunner<T, R>;
  /** Default the machine's cores, at most 4; 0 runs tasks on the calling thread. */
  readonly workers?: number;
  /** A session of its own for each worker, so that it can stand behind the others (background.ts). */
  readonly isBackground?: boolean;
};

type Waiting<T, R> = {
  readonly task: T;
  readonly resolve: (result: R) => void;
  readonly reject: (error: Error) => void;
};
type Slot<T, R> = { readonly worker: ChildProcess; current: Waiting<T, R> | undefined };

export class ProcessPool<T, R> {
  readonly workers: number;
  readonly #script: URL;
  readonly #isBackground: boolean;
  readonly #slots: Slot<T, R>[] = [];
  readonly #queue: Waiting<T, R>[] = [];
  readonly #inline: TaskRunner<T, R> | undefined;
  #closed = false;

  private constructor(options: PoolOptions<T, R>) {
    this.workers = options.workers ?? Math.min(WORKERS_MAX, availableParallelism());
    this.#script = options.script;
    this.#isBackground = options.isBackground ?? false;
    this.#inline = this.workers === 0 ? options.inline() : undefined;
  }

  static open<T, R>(options: PoolOptions<T, R>): ProcessPool<T, R> {
    return new ProcessPool(options);
  }

  /** Of the workers that run now. */
  get pids(): number[] {
    return this.#slots.flatMap(({ worker }) => worker.pid ?? []);
  }

  /** Errors: those of the task; `internal` when a worker dies (also for what waits), `shutting-down` after `close`. */
  async run(task: T): Promise<R> {
    if (this.#closed) throw ended();
    if (this.#inline !== undefined) return this.#inline.run(task);
    return new Promise((resolve, reject) => {
      this.#queue.push({ task, resolve, reject });
      this.#next();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#queue.splice(0)) waiting.reject(ended());
    await this.#inline?.close?.();
    for (const { worker } of [...this.#slots]) {
      if (worker.exitCode !== null || worker.signalCode !== null) continue;
      const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      worker.kill('SIGKILL');
      await exited;
    }
  }

  #start(): Slot<T, R> {
    const worker = fork(this.#script, {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      execArgv: [],
      detached: this.#isBackground,
    });
    const slot: Slot<T, R> = { worker, current: undefined };
    const finish = (settle: (waiting: Waiting<T, R>) => void): void => {
      const waiting = slot.current;
      slot.current = undefined;
      if (waiting !== undefined) settle(waiting);
      this.#next();
    };
    worker.on('message', (message) => {
      const reply = message as WorkerReply<R>;
      finish((waiting) => {
        if ('ok' in reply) waiting.resolve(reply.ok);
        else {
          const { code, message: text, data = {} } = reply.failed;
          waiting.reject(new CollectiveError(isErrorCode(code) ? code : 'internal', text, { data }));
        }
      });
    });
    const remove = (): void => {
      const at = this.#slots.indexOf(slot);
      if (at >= 0) this.#slots.splice(at, 1);
    };
    worker.on('error', (error) => {
      // One that could not be started has no exit; the next task tries anew.
      if (worker.pid === undefined) remove();
      finish((waiting) => waiting.reject(error));
    });
    worker.on('exit', () => {
      remove();
      const why = this.#closed ? ended() : new CollectiveError('internal', 'A worker process died.');
      // What waits goes with it: a task that kills its worker must not kill one after the other.
      for (const waiting of this.#closed ? [] : this.#queue.splice(0)) waiting.reject(why);
      finish((waiting) => waiting.reject(why));
    });
    return slot;
  }

  #next(): void {
    while (!this.#closed && this.#queue.length > 0) {
      const slot = this.#idleSlot();
      const waiting = slot === undefined ? undefined : this.#queue.shift();
      if (slot === undefined || waiting === undefined) return;
      slot.current = waiting;
      try {
        slot.worker.send(waiting.task as never);
      } catch (error) {
        // A task that cannot be sent, or a worker that is just going.
        slot.current = undefined;
        waiting.reject(error instanceof Error ? error : new Error(String(error)));
      }
    }
  }

  #idleSlot(): Slot<T, R> | undefined {
    const idle = this.#slots.find(({ current }) => current === undefined);
    if (idle !== undefined || this.#slots.length >= this.workers) return idle;
    const slot = this.#start();
    this.#slots.push(slot);
    return slot;
  }
}

const ended = (): CollectiveError => new CollectiveError('shutting-down', 'The work has ended.');

/** In the worker's main program: runs what the pool sends, and ends with its parent. */
export const serveTasks = <T, R>(run: (task: T) => Promise<R>): void => {
  const reply = (message: WorkerReply<R>): void => {
    // Whoever wanted it may have been killed: then nobody hears it, and `disconnect` follows.
    process.send?.(message, undefined, undefined, () => undefined);
  };
  process.on('message', (message) => {
    run(message as T).then(
      (ok) => reply({ ok }),
      (error: unknown) => {
        const text = error instanceof Error ? error.message : String(error);
        reply({
          failed:
            error instanceof CollectiveError
              ? { code: error.code, message: text, data: error.data }
              : { code: 'internal', message: text },
        });
      },
    );
  });
  process.on('disconnect', () => process.exit(0));
};
