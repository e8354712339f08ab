/** Somebody who asks for status and looks at the display all the time: how long the slowest answer took. */
import { setTimeout as delay } from 'node:timers/promises';
import { SupervisorClient, type Home } from '@collective/transceiver';
import { awakeMs } from '../support/promise-time.js';
import { takePicture } from '../support/vnc-client.js';

/** Slowest answers, in milliseconds, and how often was asked. */
export type Answers = {
  readonly statusMs: number;
  readonly displayMs: number;
  readonly screendumpMs: number;
  readonly statusCount: number;
  readonly displayCount: number;
  readonly screendumpCount: number;
};

const STATUS_EVERY_MS = 100;
const DISPLAY_EVERY_MS = 500;
const SCREENDUMP_EVERY_MS = 1_000;

export class Probes implements AsyncDisposable {
  readonly #abort = new AbortController();
  readonly #loops: readonly Promise<{ readonly slowestMs: number; readonly count: number }>[];
  readonly #client: SupervisorClient;

  private constructor(client: SupervisorClient, machine: string, vncSocket: string) {
    this.#client = client;
    this.#loops = [
      this.#loop(STATUS_EVERY_MS, () => client.request('status', {})),
      this.#loop(DISPLAY_EVERY_MS, () => takePicture(vncSocket)),
      this.#loop(SCREENDUMP_EVERY_MS, () => client.request('screendump', { machine })),
    ];
    for (const loop of this.#loops) loop.catch(() => undefined); // told by `end`
  }

  /** On a connection of its own to the supervisor of this home. */
  static async begin(home: Home, machine: string): Promise<Probes> {
    const client = await SupervisorClient.connect(home);
    const { machines } = await client.request('status', {});
    const vncSocket = machines.find((each) => each.machine === machine)?.vncSocket;
    if (vncSocket === undefined || vncSocket === null) throw new Error(`machine ${machine} has no display`);
    return new Probes(client, machine, vncSocket);
  }

  /** Ends asking; rejects when an answer was an error. */
  async end(): Promise<Answers> {
    this.#abort.abort();
    const [status, display, screendump] = await Promise.all(this.#loops);
    this.#client.close();
    return {
      statusMs: Math.round(status?.slowestMs ?? 0),
      displayMs: Math.round(display?.slowestMs ?? 0),
      screendumpMs: Math.round(screendump?.slowestMs ?? 0),
      statusCount: status?.count ?? 0,
      displayCount: display?.count ?? 0,
      screendumpCount: screendump?.count ?? 0,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await Promise.allSettled(this.#loops);
    this.#client.close();
  }

  async #loop(everyMs: number, ask: () => Promise<unknown>): Promise<{ slowestMs: number; count: number }> {
    let slowestMs = 0;
    let count = 0;
    while (!this.#abort.signal.aborted) {
      const askedAtMs = awakeMs();
      await ask();
      slowestMs = Math.max(slowestMs, awakeMs() - askedAtMs);
      count += 1;
      await delay(everyMs, undefined, { signal: this.#abort.signal }).catch(() => undefined);
    }
    return { slowestMs, count };
  }
}
