/**
 * Worker processes that run block work, so that hashing and compressing use the machine's cores and the agent stays
 * responsive. A task goes to the first idle worker. Under tests that run from the sources (`workers: 0`) it runs here.
 *
 * Processes and not threads: the zstd library has one static context a process (shared/src/zstd.ts), and what a worker
 * reads is an image that nobody vouches for.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { CollectiveError, isErrorCode } from '@collective/shared';
import { BlockWork, type WorkResult, type WorkTask } from './block-work.js';

/** More workers than this only fight for the disk. */
const WORKERS_MAX = 4;

export type WorkerReply =
  { readonly ok: WorkResult } | { readonly failed: { readonly code: string; readonly message: string } };

type Waiting = {
  readonly task: WorkTask;
  readonly resolve: (result: WorkResult) => void;
  readonly reject: (error: Error) => void;
};
type Slot = { readonly worker: ChildProcess; current: Waiting | undefined };

export class WorkPool {
  readonly workers: number;
  readonly #slots: Slot[] = [];
  readonly #queue: Waiting[] = [];
  readonly #inline: BlockWork | undefined;
  #closed = false;

  private constructor(workers: number) {
    this.workers = workers;
    this.#inline = workers === 0 ? new BlockWork() : undefined;
    for (let index = 0; index < workers; index += 1) this.#slots.push(this.#start());
  }

  /** `workers`: default the machine's cores, at most 4; 0 runs tasks on the calling thread. */
  static open(options: { readonly workers?: number } = {}): WorkPool {
    return new WorkPool(options.workers ?? Math.min(WORKERS_MAX, availableParallelism()));
  }

  /** Errors: those of BlockWork. */
  async run(task: WorkTask): Promise<WorkResult> {
    if (this.#closed) throw new CollectiveError('shutting-down', 'The publish has ended.');
    if (this.#inline !== undefined) return this.#inline.run(task);
    return new Promise((resolve, reject) => {
      this.#queue.push({ task, resolve, reject });
      this.#next();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#queue.splice(0))
      waiting.reject(new CollectiveError('shutting-down', 'The publish has ended.'));
    await this.#inline?.close();
    for (const { worker } of this.#slots) {
      if (worker.exitCode !== null || worker.signalCode !== null) continue;
      const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      worker.kill('SIGKILL');
      await exited;
    }
  }

  #start(): Slot {
    const worker = fork(fileURLToPath(new URL('./block-worker.js', import.meta.url)), {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      execArgv: [],
    });
    const slot: Slot = { worker, current: undefined };
    const finish = (settle: (waiting: Waiting) => void): void => {
      const waiting = slot.current;
      slot.current = undefined;
      if (waiting !== undefined) settle(waiting);
      this.#next();
    };
    worker.on('message', (message) => {
      const reply = message as WorkerReply;
      finish((waiting) => {
        if ('ok' in reply) waiting.resolve(reply.ok);
        else
          waiting.reject(
            new CollectiveError(isErrorCode(reply.failed.code) ? reply.failed.code : 'internal', reply.failed.message),
          );
      });
    });
    worker.on('error', (error) => {
      finish((waiting) => waiting.reject(error));
    });
    worker.on('exit', () => {
      const why = this.#closed
        ? new CollectiveError('shutting-down', 'The publish has ended.')
        : new CollectiveError('internal', 'A worker of the publish died.');
      finish((waiting) => waiting.reject(why));
      for (const waiting of this.#closed ? [] : this.#queue.splice(0)) waiting.reject(why);
    });
    return slot;
  }

  #next(): void {
    if (this.#closed) return;
    for (const slot of this.#slots) {
      if (slot.current !== undefined) continue;
      const waiting = this.#queue.shift();
      if (waiting === undefined) return;
      slot.current = waiting;
      slot.worker.send(waiting.task);
    }
  }
}
