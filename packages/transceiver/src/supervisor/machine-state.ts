/**
 * The life of one machine as a table: which state follows from what happens. Pure; machine-life.ts carries it out.
 *
 *   preparing ─ attached ─> starting ─ started ─> running <─ resumed / paused ─> paused
 *       ^                                            │                             │
 *       └──────────────── guest-reset ───────────────┤ stop (any state)            │
 *                                                    v                             │
 *                                                 stopping <───────────────────────┘
 *                                                    │ ended
 *                                              stopped / failed
 *
 *   running, paused ─ suspend ─> suspending ─ suspended ─> suspended        (back to running when it could not be saved)
 *   a suspended one is resumed by way of preparing and starting, and back to suspended when that fails
 *
 * A machine that is stopping is never restarted, whatever its guest does, and what ends it then is a stop, not a failure.
 */
import type { AcceleratorFinding } from '../machine/accelerator.js';

export type MachineState =
  /** Disks are being attached, their first sectors fetched. `why`: what that waits for. */
  | { readonly name: 'preparing'; readonly why?: string }
  | { readonly name: 'starting' }
  | { readonly name: 'running' }
  | { readonly name: 'paused'; readonly cause: PauseCause; readonly why: string; readonly sinceMs: number }
  /** `why`: set while the guest cannot go on shutting down. */
  | { readonly name: 'stopping'; readonly deadlineAtMs: number; readonly why?: string }
  /** The guest stands still and is being saved. `why`: what that waits for. */
  | { readonly name: 'suspending'; readonly sinceMs: number; readonly why?: string }
  /** No process is there; a memory image is. `why`: it could not be resumed. `isFull`: for want of room on the local disk. */
  | { readonly name: 'suspended'; readonly sinceMs: number; readonly why?: string; readonly isFull?: true }
  /** `isClean`: the guest was asked and has shut down by itself; nobody had to end it. */
  | { readonly name: 'stopped'; readonly how: 'asked' | 'by-guest'; readonly isClean?: true }
  /** `isFull`: for want of room on the local disk. */
  | { readonly name: 'failed'; readonly why: string; readonly isFull?: true };

export type MachineStatus = {
  readonly machine: string;
  readonly state: MachineState;
  readonly startedAtMs: number;
  /** How often the guest has rebooted. */
  readonly restarts: number;
  readonly accelerator: AcceleratorFinding | null;
  readonly qemuPid: number | null;
  /** Where the display is served (VNC); null when the machine has none. */
  readonly vncSocket: string | null;
};

/** `disk`: a block has not come or a write found no space; it goes on by itself. `request`: someone paused it over QMP. */
export type PauseCause = 'disk' | 'request';

export type MachineEvent =
  | { readonly type: 'waits'; readonly why: string | undefined }
  | { readonly type: 'attached' }
  | { readonly type: 'started' }
  | { readonly type: 'paused'; readonly cause: PauseCause; readonly why: string; readonly nowMs: number }
  | { readonly type: 'resumed' }
  | { readonly type: 'stop'; readonly deadlineAtMs: number }
  | { readonly type: 'suspend'; readonly nowMs: number }
  /** It could not be saved and goes on. */
  | { readonly type: 'not-suspended' }
  /** A memory image is there, and no QEMU. */
  | { readonly type: 'suspended'; readonly sinceMs: number; readonly why?: string; readonly isFull?: true }
  /** QEMU's process is gone; `reason` as in QMP's SHUTDOWN event, undefined when it did not say. */
  | { readonly type: 'ended'; readonly reason: string | undefined; readonly detail: string }
  | { readonly type: 'failed'; readonly why: string; readonly isFull?: true };

/** Why a machine failed whose QEMU ended (killed, out of memory) before it was saved. Its disks are as after a power cut. */
export const MEMORY_IS_LOST = 'QEMU ended while the machine was being suspended: what it had in memory is lost';

export const isOver = (state: MachineState): boolean => state.name === 'stopped' || state.name === 'failed';

/** Nothing of it runs. */
export const isAtRest = (state: MachineState): boolean => isOver(state) || state.name === 'suspended';

/** The same object when nothing changes: an event that means nothing in that state is late, not wrong. */
export function nextState(state: MachineState, event: MachineEvent): MachineState {
  if (isAtRest(state)) return state;
  switch (event.type) {
    case 'waits':
      if (state.name === 'suspending') return withWhy({ name: 'suspending', sinceMs: state.sinceMs }, event.why);
      return state.name === 'preparing' ? withWhy({ name: 'preparing' }, event.why) : state;
    case 'attached':
      return state.name === 'preparing' ? { name: 'starting' } : state;
    case 'started':
      return state.name === 'starting' ? { name: 'running' } : state;
    case 'paused':
      if (state.name === 'stopping') return withWhy({ name: 'stopping', deadlineAtMs: state.deadlineAtMs }, event.why);
      if (state.name !== 'running' && state.name !== 'paused') return state;
      return {
        name: 'paused',
        cause: event.cause,
        why: event.why,
        sinceMs: state.name === 'paused' ? state.sinceMs : event.nowMs,
      };
    case 'resumed':
      if (state.name === 'stopping') return { name: 'stopping', deadlineAtMs: state.deadlineAtMs };
      return state.name === 'paused' ? { name: 'running' } : state;
    case 'stop':
      if (state.name === 'stopping')
        return { ...state, deadlineAtMs: Math.min(state.deadlineAtMs, event.deadlineAtMs) };
      return withWhy(
        { name: 'stopping', deadlineAtMs: event.deadlineAtMs },
        state.name === 'paused' ? state.why : undefined,
      );
    case 'suspend':
      return state.name === 'running' || state.name === 'paused' ? { name: 'suspending', sinceMs: event.nowMs } : state;
    case 'not-suspended':
      return state.name === 'suspending' ? { name: 'running' } : state;
    case 'suspended':
      return withWhy(
        { name: 'suspended', sinceMs: event.sinceMs, ...(event.isFull === true ? { isFull: true } : {}) },
        event.why,
      );
    case 'ended':
      return afterEnd(state, event);
    case 'failed':
      if (state.name === 'stopping') return { name: 'stopped', how: 'asked' };
      return { name: 'failed', why: event.why, ...(event.isFull === true ? { isFull: true } : {}) };
    default:
      return event satisfies never;
  }
}

function afterEnd(state: MachineState, { reason, detail }: Extract<MachineEvent, { type: 'ended' }>): MachineState {
  if (state.name === 'stopping')
    return { name: 'stopped', how: 'asked', ...(reason === 'guest-shutdown' ? { isClean: true as const } : {}) };
  switch (reason) {
    case 'guest-reset':
      return { name: 'preparing' };
    case 'guest-shutdown':
      return { name: 'stopped', how: 'by-guest' };
    case 'host-qmp-quit': // somebody used the spare QMP socket
      return { name: 'stopped', how: 'asked' };
    case undefined:
      if (state.name === 'suspending')
        return { name: 'failed', why: detail === '' ? MEMORY_IS_LOST : `${MEMORY_IS_LOST} (${detail})` };
      return { name: 'failed', why: detail === '' ? 'QEMU ended without a word' : `QEMU ended: ${detail}` };
    default:
      return {
        name: 'failed',
        why: detail === '' ? `the machine ended (${reason})` : `the machine ended (${reason}): ${detail}`,
      };
  }
}

const withWhy = <T extends MachineState>(state: T, why: string | undefined): T =>
  why === undefined ? state : { ...state, why };
