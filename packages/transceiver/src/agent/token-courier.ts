/**
 * Brings the session's bearer token to the processes that fetch private blocks: whenever it is another one, and at once when one was
 * refused. They keep it in memory only, and go on with the one they have while no agent is there. And the keys of blocks to the machines
 * that run, when a new epoch has begun since: blockd has them from a rebase, but one that is started again has what the supervisor holds. And to blockd whether
 * the link is metered, which it does not see itself.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import type { MachinePort } from './machine-port.js';
import type { Session } from './session.js';

const LOOK_EVERY_MS = 60_000;
const RECONNECT_MS = 2_000;

export class TokenCourier {
  readonly #home: Pick<Home, 'blockdSocket'>;
  readonly #session: Session;
  readonly #machines: Pick<MachinePort, 'authorize' | 'addKeys'>;
  readonly #up: () => readonly string[];
  readonly #lookEveryMs: number;
  #keysBrought = '';
  readonly #ended = new AbortController();
  readonly #running: Promise<unknown>;
  #brought: string | undefined;
  readonly #isMetered: () => Promise<boolean>;
  #blockd: ControlClient | undefined;
  /** What it was told; it takes a link to cost nothing. */
  #meteredBrought = false;
  #bringingMetered: Promise<void> | undefined;

  constructor(options: {
    readonly home: Home;
    readonly session: Session;
    readonly machines: Pick<MachinePort, 'authorize' | 'addKeys'>;
    /** Machines of the person that run. */
    readonly up: () => readonly string[];
    readonly isMetered: () => Promise<boolean>;
    readonly lookEveryMs?: number;
  }) {
    this.#isMetered = options.isMetered;
    this.#lookEveryMs = options.lookEveryMs ?? LOOK_EVERY_MS;
    this.#up = options.up;
    this.#home = options.home;
    this.#session = options.session;
    this.#machines = options.machines;
    this.#running = Promise.allSettled([this.#look(), this.#listen()]);
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#running;
  }

  async #bring(): Promise<void> {
    const blocks = await this.#session.blocks();
    if (blocks.token === undefined || blocks.token === this.#brought) return;
    await this.#machines.authorize(blocks);
    this.#brought = blocks.token;
  }

  async #bringKeys(): Promise<void> {
    const { blockKeys } = this.#session;
    const text = JSON.stringify(blockKeys);
    if (text === this.#keysBrought) return;
    const brought = await Promise.allSettled(this.#up().map(async (name) => this.#machines.addKeys(name, blockKeys)));
    // One that ended meanwhile is tried once more, too.
    if (brought.length > 0 && brought.every(({ status }) => status === 'fulfilled')) this.#keysBrought = text;
  }

  /** A new connection and a look may come together: it is said once. */
  #bringMetered(): Promise<void> {
    this.#bringingMetered ??= this.#sayMetered().finally(() => (this.#bringingMetered = undefined));
    return this.#bringingMetered;
  }

  /** Where nobody can tell, nothing is to travel that nobody waits for. */
  async #sayMetered(): Promise<void> {
    const metered = await this.#isMetered().catch(() => true);
    if (metered === this.#meteredBrought || this.#blockd === undefined) return;
    const told = await this.#blockd.request('metered', { metered }).catch(() => undefined);
    if (told !== undefined) this.#meteredBrought = metered;
  }

  async #look(): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      await this.#bring();
      await this.#bringKeys();
      await this.#bringMetered();
      await delay(this.#lookEveryMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async #listen(): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      const client = await ControlClient.connect(this.#home.blockdSocket, {
        onEvent: ({ event }) => {
          if (event === 'token-refused') void this.#renew();
        },
      }).catch(() => undefined);
      if (client !== undefined) {
        this.#brought = undefined; // one that was just started has none
        await client.request('events', {}).catch(() => undefined);
        await this.#bring();
        this.#blockd = client;
        this.#meteredBrought = false;
        await this.#bringMetered();
        await Promise.race([client.closed, aborted(signal)]);
        this.#blockd = undefined;
        client.close();
      }
      await delay(RECONNECT_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async #renew(): Promise<void> {
    const refused = this.#brought;
    const token = await this.#session.tokens.token(refused).catch(() => undefined);
    // None to be had, of a revoked device or in an outage: the same one again would be refused at once, again and again.
    if (token === undefined || token === refused) return;
    this.#brought = undefined;
    await this.#bring();
  }
}

const aborted = async (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
