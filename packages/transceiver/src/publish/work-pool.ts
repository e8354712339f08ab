/**
 * Worker threads that run block work, so that hashing and compressing use the machine's cores and the agent stays
 * responsive. A task goes to the first idle worker. Under tests that run from the sources (`threads: 0`) it runs here.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { CollectiveError, isErrorCode } from '@collective/shared';
import { BlockWork, type WorkResult, type WorkTask } from './block-work.js';

/** More threads than this only fight for the disk. */
const THREADS_MAX = 4;

export type WorkerReply = { readonly ok: WorkResult } | { readonly failed: { readonly code: string; readonly message: string } };

type Waiting = { readonly task: WorkTask; readonly resolve: (result: WorkResult) => void; readonly reject: (error: Error) => void };
type Slot = { readonly worker: Worker; current: Waiting | undefined };

export class WorkPool {
  readonly threads: number;
  readonly #slots: Slot[] = [];
  readonly #queue: Waiting[] = [];
  readonly #inline: BlockWork | undefined;
  #closed = false;

  private constructor(threads: number) {
    this.threads = threads;
    this.#inline = threads === 0 ? new BlockWork() : undefined;
    for (let index = 0; index < threads; index += 1) this.#slots.push(this.#start());
  }

  /** `threads`: default the machine's cores, at most 4; 0 runs tasks on the calling thread. */
  static open(options: { readonly threads?: number } = {}): WorkPool {
    return new WorkPool(options.threads ?? Math.min(THREADS_MAX, availableParallelism()));
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
    for (const waiting of this.#queue.splice(0)) waiting.reject(new CollectiveError('shutting-down', 'The publish has ended.'));
    await this.#inline?.close();
    await Promise.all(this.#slots.map(async (slot) => slot.worker.terminate()));
  }

  #start(): Slot {
    const worker = new Worker(new URL('./block-worker.js', import.meta.url));
    const slot: Slot = { worker, current: undefined };
    const finish = (settle: (waiting: Waiting) => void): void => {
      const waiting = slot.current;
      slot.current = undefined;
      if (waiting !== undefined) settle(waiting);
      this.#next();
    };
    worker.on('message', (reply: WorkerReply) => {
      finish((waiting) => {
        if ('ok' in reply) waiting.resolve(reply.ok);
        else waiting.reject(new CollectiveError(isErrorCode(reply.failed.code) ? reply.failed.code : 'internal', reply.failed.message));
      });
    });
    worker.on('error', (error) => {
      finish((waiting) => waiting.reject(error));
    });
    worker.on('exit', () => {
      finish((waiting) => waiting.reject(new CollectiveError('shutting-down', 'The publish has ended.')));
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
      slot.worker.postMessage(waiting.task);
    }
  }
}
