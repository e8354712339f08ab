/**
 * Starts the agent again when it died while machines run: then session, status and (later) backup are there with nobody at the keyboard.
 * The agent watches the supervisor in the same way (agent/supervisor-keeper.ts), so that only the death of both at the same moment
 * waits for the next command of a person; guests go on even then until they need a supervisor.
 *
 * An agent says that it is there on a connection that it keeps open, and takes leave before it ends in order.
 */
import { setTimeout as delay } from 'node:timers/promises';

export type AgentKeeperOptions = {
  /** Finds the agent, or starts one and waits until it serves. */
  readonly startAgent: () => Promise<unknown>;
  readonly hasMachines: () => boolean;
  readonly log: (text: string) => void;
  /** Tests. */
  readonly waitsMs?: readonly number[];
};

/** Between attempts; the last one is repeated. */
const WAITS_MS = [200, 1_000, 2_000, 5_000, 15_000, 30_000] as const;

export class AgentKeeper {
  readonly #options: AgentKeeperOptions;
  /** Connections of agents that are there: one, or two while one follows the other. */
  readonly #present = new Set<object>();
  #isStarting = false;
  #closed = false;

  constructor(options: AgentKeeperOptions) {
    this.#options = options;
  }

  /** The agent on this connection is there. */
  arrived(connection: object): void {
    this.#present.add(connection);
  }

  /** It ends because it was told to. */
  takesLeave(connection: object): void {
    this.#present.delete(connection);
  }

  /** The connection has ended; without leave, its agent has died. */
  disconnected(connection: object): void {
    if (!this.#present.delete(connection) || this.#present.size > 0) return;
    void this.#startAgain();
  }

  /** An agent has died and none has come yet. */
  get isStarting(): boolean {
    return this.#isStarting;
  }

  close(): void {
    this.#closed = true;
  }

  async #startAgain(): Promise<void> {
    if (this.#isStarting) return;
    this.#isStarting = true;
    const waitsMs = this.#options.waitsMs ?? WAITS_MS;
    try {
      for (let attempt = 0; ; attempt += 1) {
        await delay(waitsMs[Math.min(attempt, waitsMs.length - 1)]);
        if (this.#closed || this.#present.size > 0 || !this.#options.hasMachines()) return;
        this.#options.log('the agent has died; it is started again');
        await this.#options.startAgent().catch((error: unknown) => this.#options.log(`agent: ${String(error)}`));
      }
    } finally {
      this.#isStarting = false;
    }
  }
}
