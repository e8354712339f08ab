/**
 * Keeps a supervisor alive while machines are there: a supervisor that died is started again at once, so that it adopts them,
 * continues what is paused and keeps the block daemon running, with nobody at the keyboard. Machines are there when their
 * records are (HOME/machines/NAME/machine.json), so an agent that was restarted keeps them as well. The supervisor does the same for
 * the agent (supervisor/agent-keeper.ts).
 */
import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { withTimeout } from '../machine/qmp-client.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import type { Home } from '../home.js';

/** Between two attempts when one died or could not be started. */
const RETRY_MS = 500;
const LEAVE_MS = 2_000;

export type KeeperOptions = {
  /** Connects, after starting the supervisor when there is none; for tests. */
  readonly open?: (home: Home) => Promise<Pick<SupervisorClient, 'once' | 'close' | 'closed' | 'request'>>;
  readonly retryMs?: number;
};

export class SupervisorKeeper {
  readonly #home: Home;
  readonly #open: NonNullable<KeeperOptions['open']>;
  readonly #retryMs: number;
  readonly #ended = new AbortController();
  #wake: () => void = () => undefined;
  readonly #running: Promise<void>;

  constructor(home: Home, options: KeeperOptions = {}) {
    this.#home = home;
    this.#open = options.open ?? ((where) => SupervisorClient.open(where));
    this.#retryMs = options.retryMs ?? RETRY_MS;
    this.#running = this.#run();
  }

  /** A machine has been started: look again. */
  wake(): void {
    this.#wake();
  }

  /** Lets the supervisor be. Resolves when nothing is being started any more. */
  async close(): Promise<void> {
    this.#ended.abort();
    this.#wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      // Before the look, so that a machine that is started during it is not missed.
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      if (!(await this.#hasMachines())) {
        await woken;
        continue;
      }
      try {
        const client = await this.#open(this.#home);
        // It starts the agent again, should that die.
        await client.request('agent', { stays: true });
        await Promise.race([
          new Promise<void>((resolve) => (client.closed ? resolve() : client.once('close', resolve))),
          new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true })),
        ]);
        if (signal.aborted && !client.closed)
          await withTimeout(client.request('agent', { stays: false }), LEAVE_MS, 'the supervisor did not answer');
        client.close();
      } catch {
        // The start that a person asks for says why it cannot be; here it is tried again.
      }
      await delay(this.#retryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #hasMachines(): Promise<boolean> {
    const names = await readdir(this.#home.machinesDirectory).catch(() => []);
    const found = await Promise.all(
      names.map((name) =>
        access(join(this.#home.machinesDirectory, name, 'machine.json')).then(
          () => true,
          () => false,
        ),
      ),
    );
    return found.includes(true);
  }
}
