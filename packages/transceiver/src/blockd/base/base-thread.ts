/**
 * The serving thread's way to open bases: one thread does it, one base after the other (base-worker.ts). It is started when it is first wanted
 * and stays: each commit opens a base, and a thread that begins costs the guests a fifth of a second of a processor each time.
 */
import { Worker } from 'node:worker_threads';
import { CollectiveError, type Digest } from '@collective/shared';
import type { SentError } from '../fetch/thread-messages.js';
import type { BaseFile } from './base-file.js';
import type { OpenedBase } from './open-base.js';

export type ToBaseWorker = { readonly id: number; readonly folder: string; readonly digest: Digest };
export type FromBaseWorker = { readonly id: number } & (
  | {
      readonly kind: 'opened';
      readonly file: BaseFile;
      readonly kinds: Uint8Array<ArrayBuffer>;
      readonly digestBytes: Uint8Array<ArrayBuffer>;
    }
  | { readonly kind: 'failed'; readonly error: SentError }
);

type Waiting = { readonly resolve: (answer: FromBaseWorker) => void; readonly reject: (error: Error) => void };

export class BaseThread {
  readonly #script: URL;
  #worker: Worker | undefined;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #isClosed = false;

  /** `script`: the built base-worker.js; only tests that run on the sources give another. */
  constructor(script: URL = new URL('./base-worker.js', import.meta.url)) {
    this.#script = script;
  }

  /** As openBase, on the real disk. Errors: also `shutting-down` after `close`, `internal` when the thread ends; the next call starts another. */
  async open(folder: string, digest: Digest): Promise<OpenedBase> {
    if (this.#isClosed) throw shuttingDown();
    const id = this.#nextId++;
    const answer = await new Promise<FromBaseWorker>((resolve, reject) => {
      const worker = (this.#worker ??= this.#start());
      this.#waiting.set(id, { resolve, reject });
      worker.ref();
      worker.postMessage({ id, folder, digest } satisfies ToBaseWorker);
    });
    if (answer.kind === 'failed')
      throw new CollectiveError(answer.error.code, answer.error.message, { data: answer.error.data });
    const { file, kinds, digestBytes } = answer;
    return {
      ...{ digest, file, diskBytes: file.diskBytes, blockBytes: file.blockBytes, blockCount: kinds.length, kinds },
      digestBytes: Buffer.from(digestBytes.buffer),
    };
  }

  /** What is under way is refused, and whatever comes. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#refuseAll(shuttingDown());
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(this.#script, { name: 'base' });
    worker.on('message', (answer: FromBaseWorker) => {
      this.#waiting.get(answer.id)?.resolve(answer);
      this.#waiting.delete(answer.id);
      if (this.#waiting.size === 0) worker.unref(); // of itself it keeps no process alive
    });
    const fail = (error: Error): void => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.#refuseAll(error);
    };
    worker.once('error', (error) => fail(error instanceof Error ? error : new Error(String(error))));
    worker.once('exit', () => fail(new CollectiveError('internal', 'the thread that opens bases has ended')));
    return worker;
  }

  #refuseAll(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

const shuttingDown = (): CollectiveError => new CollectiveError('shutting-down', 'blockd is shutting down');
