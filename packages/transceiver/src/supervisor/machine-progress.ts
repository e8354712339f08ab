/**
 * How far one machine is (machine-state.ts): its state as everybody may see it, and what it has ended as, which is held back until everything
 * of it is cleaned up.
 */
import { isAtRest, type MachineEvent, type MachineState, nextState } from './machine-state.js';

/** A guest that is shutting down and lacks a block gets so long for it, whatever its deadline: `stop` works in an outage. */
const STUCK_STOP_MS = 10_000;

export type MachineProgressOptions = {
  readonly onChange: (state: MachineState) => void;
  /** It has been shutting down and could not go on with it for as long as it may. */
  readonly onStuck: () => void;
};

export class MachineProgress {
  readonly #options: MachineProgressOptions;
  #state: MachineState = { name: 'preparing' };
  #outcome: MachineState | undefined;
  #stuckTimer: NodeJS.Timeout | undefined;

  /** `preparing`. */
  constructor(options: MachineProgressOptions) {
    this.#options = options;
  }

  get state(): MachineState {
    return this.#state;
  }

  /** What it has ended as, while it is cleaned up. */
  get outcome(): MachineState | undefined {
    return this.#outcome;
  }

  /** The outcome, or else the state. */
  get reached(): MachineState {
    return this.#outcome ?? this.#state;
  }

  next(event: MachineEvent): void {
    if (this.#outcome !== undefined) return;
    const state = nextState(this.#state, event);
    if (state === this.#state) return;
    if (isAtRest(state)) {
      clearTimeout(this.#stuckTimer);
      this.#outcome = state;
      return;
    }
    const isStuck = state.name === 'stopping' && state.why !== undefined;
    if (!isStuck) {
      clearTimeout(this.#stuckTimer);
      this.#stuckTimer = undefined;
    } else this.#stuckTimer ??= setTimeout(this.#options.onStuck, STUCK_STOP_MS);
    this.become(state);
  }

  /** Whatever it was: it was found so, say. */
  become(state: MachineState): void {
    this.#state = state;
    this.#options.onChange(state);
  }

  /** Everything is cleaned up: the outcome is the state. */
  settle(): void {
    const outcome = this.#outcome ?? { name: 'failed', why: 'the machine ended' };
    this.#outcome = undefined;
    this.become(outcome);
  }
}
