/**
 * The serving thread's way to open bases: one thread does it, one base after the other (base-worker.ts). It is started when it is first wanted
 * and stays: each commit opens a base, and a thread that begins costs the guests a fifth of a second of a processor each time.
 */
import { Worker } from 'node:worker_threads';
import { CollectiveError, type Digest } from '@collective/shared';
import type { SentError } from '../fetch/thread-messages.js';
import type { BaseFile } from './base-file.js';
import type { OpenedBase } from './open-base.js';

export type ToBaseWorker = { readonly folder: string; readonly digest: Digest };
/** In the order of what was asked. */
export type FromBaseWorker =
  | {
      readonly kind: 'opened';
      readonly file: BaseFile;
      readonly kinds: Uint8Array<ArrayBuffer>;
      readonly digestBytes: Uint8Array<ArrayBuffer>;
    }
  | { readonly kind: 'failed'; readonly error: SentError };

type Waiting = { readonly resolve: (answer: FromBaseWorker) => void; readonly reject: (error: Error) => void };

export class BaseThread {
  readonly #script: URL;
  #worker: Worker | undefined;
  #waiting: Waiting[] = [];

  /** `script`: the built base-worker.js; only tests that run on the sources give another. */
  constructor(script: URL = new URL('./base-worker.js', import.meta.url)) {
    this.#script = script;
  }

  /** As openBase, on the real disk. Errors: also `internal` when the thread ends; the next call starts another. */
  async open(folder: string, digest: Digest): Promise<OpenedBase> {
    const asked: ToBaseWorker = { folder, digest };
    const answer = await new Promise<FromBaseWorker>((resolve, reject) => {
      const worker = (this.#worker ??= this.#start());
      this.#waiting.push({ resolve, reject });
      worker.ref();
      worker.postMessage(asked);
    });
    if (answer.kind === 'failed')
      throw new CollectiveError(answer.error.code, answer.error.message, { data: answer.error.data });
    const { file, kinds, digestBytes } = answer;
    return {
      ...{ digest, file, diskBytes: file.diskBytes, blockBytes: file.blockBytes, blockCount: kinds.length, kinds },
      digestBytes: Buffer.from(digestBytes.buffer),
    };
  }

  /** What is under way is refused. */
  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(this.#script, { name: 'base' });
    worker.on('message', (answer: FromBaseWorker) => {
      this.#waiting.shift()?.resolve(answer);
      if (this.#waiting.length === 0) worker.unref(); // of itself it keeps no process alive
    });
    const fail = (error: Error): void => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    };
    worker.once('error', (error) => fail(error instanceof Error ? error : new Error(String(error))));
    worker.once('exit', () => fail(new CollectiveError('internal', 'the thread that opens bases has ended')));
    return worker;
  }
}
