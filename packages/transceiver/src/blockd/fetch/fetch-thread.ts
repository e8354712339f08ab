/**
 * The serving thread's handle of the fetching thread.
 *
 * When the thread dies the process must: it is the only writer of the cache, and the supervisor starts both anew.
 */
import { MessageChannel, Worker } from 'node:worker_threads';
import { CollectiveError } from '@collective/shared';
import { FetchClient, type FetchClientEvents } from './fetch-client.js';
import type { FetchWorkerData, FromFetcher, OpenPrivate, PrivateOpened } from './thread-messages.js';

export type FetchThreadEvents = FetchClientEvents & {
  /** The thread has died. Nothing more will be answered. */
  readonly onDeath: (error: Error) => void;
};

export class FetchThread extends FetchClient {
  readonly #worker: Worker;
  readonly #events: FetchThreadEvents;
  #closing: Promise<void> | undefined;

  /** `script`: the built fetch-worker.js; only tests that run on the sources give another. */
  constructor(
    data: FetchWorkerData,
    events: FetchThreadEvents,
    script: URL = new URL('./fetch-worker.js', import.meta.url),
  ) {
    const worker = new Worker(script, { workerData: data, name: 'fetch' });
    super((messages, transfer) => worker.postMessage(messages, transfer), events);
    this.#events = events;
    this.#worker = worker;
    worker.on('message', (messages: readonly FromFetcher[]) => this.receive(messages));
    worker.once('error', (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    worker.once('exit', () => this.#die(new CollectiveError('shutting-down', 'the fetching thread has ended')));
  }

  /**
   * A client of a second service in this thread, of private blocks with their cache in `folder`, which nobody else has open. It is closed by itself,
   * before the thread. Errors: `disk-full`, `local-io`.
   */
  async openPrivate(data: Omit<OpenPrivate, 'kind' | 'port'>, events: FetchClientEvents): Promise<FetchClient> {
    const { port1: mine, port2: port } = new MessageChannel();
    const opened = new Promise<PrivateOpened>((resolve, reject) => {
      mine.once('message', resolve);
      mine.once('close', () => reject(new CollectiveError('shutting-down', 'the fetching thread has ended')));
    });
    const request: OpenPrivate = { kind: 'open-private', port, ...data };
    this.#worker.postMessage(request, [port]);
    const answer = await opened;
    if (answer.kind === 'failed') {
      const { code, message, data: details } = answer.error;
      throw new CollectiveError(code, message, { data: details });
    }
    const client = new FetchClient((messages, transfer) => mine.postMessage(messages, transfer), events);
    mine.on('message', (messages: readonly FromFetcher[]) => client.receive(messages));
    mine.once('close', () => client.fail(new CollectiveError('shutting-down', 'the private blocks are closed')));
    return client;
  }

  /** Gives up what is being fetched, writes the tables and ends the thread. Idempotent. */
  override close(): Promise<void> {
    this.#closing ??= (async () => {
      await super.close();
      await this.#worker.terminate();
    })();
    return this.#closing;
  }

  #die(error: Error): void {
    this.fail(error);
    if (this.#closing === undefined) this.#events.onDeath(error);
  }
}
