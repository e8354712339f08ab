import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isAtRest, isOver, MEMORY_IS_LOST, type MachineEvent, type MachineState, nextState } from './machine-state.js';

const run = (...events: MachineEvent[]): MachineState =>
  events.reduce<MachineState>((state, event) => nextState(state, event), { name: 'preparing' });

const up: MachineEvent[] = [{ type: 'attached' }, { type: 'started' }];
const diskPause: MachineEvent = { type: 'paused', cause: 'disk', why: 'waits for block 7', nowMs: 100 };
const stop: MachineEvent = { type: 'stop', deadlineAtMs: 1_000 };
const ended = (reason: string | undefined, detail = ''): MachineEvent => ({ type: 'ended', reason, detail });

describe('the state of a machine', () => {
  test('goes from preparing to running', () => {
    expect(run({ type: 'attached' })).toEqual({ name: 'starting' });
    expect(run(...up)).toEqual({ name: 'running' });
  });

  test('a pause keeps its beginning when its reason becomes clearer, and ends with a resume', () => {
    const clearer: MachineEvent = { ...diskPause, why: 'waits for block 7: no route', nowMs: 300 };
    expect(run(...up, diskPause, clearer)).toEqual({
      name: 'paused',
      cause: 'disk',
      why: 'waits for block 7: no route',
      sinceMs: 100,
    });
    expect(run(...up, diskPause, clearer, { type: 'resumed' })).toEqual({ name: 'running' });
  });

  test('a reset of the guest prepares the next start, a shutdown of it stops the machine', () => {
    expect(run(...up, ended('guest-reset'))).toEqual({ name: 'preparing' });
    expect(run(...up, ended('guest-shutdown'))).toEqual({ name: 'stopped', how: 'by-guest' });
  });

  test('a QEMU that ends without a reason has failed, with what it said last', () => {
    expect(run(...up, ended(undefined, 'out of memory'))).toEqual({ name: 'failed', why: 'QEMU ended: out of memory' });
    expect(run(...up, ended('guest-panic'))).toMatchObject({ name: 'failed' });
  });

  test('one that found no room on the local disk says so', () => {
    const failed = { type: 'failed', why: 'no space', isFull: true } as const;
    expect(run(failed)).toEqual({ name: 'failed', why: 'no space', isFull: true });
    expect(run({ type: 'failed', why: 'other' })).toEqual({ name: 'failed', why: 'other' });
    expect(run(...up, stop, failed)).toEqual({ name: 'stopped', how: 'asked' });
  });

  test('a machine that is stopping is stopped by whatever ends it: a reset, a crash, an error', () => {
    for (const event of [ended('guest-reset'), ended(undefined, 'crash'), { type: 'failed', why: 'x' } as const]) {
      expect(run(...up, stop, event)).toEqual({ name: 'stopped', how: 'asked' });
    }
  });

  test('a guest that was asked and has shut down by itself is stopped cleanly, one that had to be ended is not', () => {
    expect(run(...up, stop, ended('guest-shutdown'))).toEqual({ name: 'stopped', how: 'asked', isClean: true });
    expect(run(...up, stop, ended('host-qmp-quit'))).toEqual({ name: 'stopped', how: 'asked' });
  });

  test('a pause while stopping is shown as its reason and keeps the deadline', () => {
    expect(run(...up, stop, diskPause)).toEqual({ name: 'stopping', deadlineAtMs: 1_000, why: 'waits for block 7' });
    expect(run(...up, stop, diskPause, { type: 'resumed' })).toEqual({ name: 'stopping', deadlineAtMs: 1_000 });
  });

  test('a second stop can only bring the deadline nearer', () => {
    expect(run(...up, stop, { type: 'stop', deadlineAtMs: 5_000 })).toMatchObject({ deadlineAtMs: 1_000 });
    expect(run(...up, stop, { type: 'stop', deadlineAtMs: 10 })).toMatchObject({ deadlineAtMs: 10 });
  });

  const suspend: MachineEvent = { type: 'suspend', nowMs: 200 };
  const suspended: MachineEvent = { type: 'suspended', sinceMs: 300 };

  test('a running or paused machine is suspended and stays so; one that cannot be saved goes on', () => {
    expect(run(...up, suspend)).toEqual({ name: 'suspending', sinceMs: 200 });
    expect(run(...up, diskPause, suspend, suspended)).toEqual({ name: 'suspended', sinceMs: 300 });
    expect(run(...up, suspend, { type: 'not-suspended' })).toEqual({ name: 'running' });
    expect(run(...up, suspend, suspended, stop)).toEqual({ name: 'suspended', sinceMs: 300 });
    expect(run({ type: 'attached' }, suspend)).toEqual({ name: 'starting' });
  });

  test('while it is being saved, pauses and resumes of its disks mean nothing, and a stop ends it', () => {
    expect(run(...up, suspend, diskPause, { type: 'resumed' })).toEqual({ name: 'suspending', sinceMs: 200 });
    expect(run(...up, suspend, { type: 'waits', why: 'disk' })).toMatchObject({ name: 'suspending', why: 'disk' });
    expect(run(...up, suspend, stop, ended('host-qmp-quit'))).toEqual({ name: 'stopped', how: 'asked' });
    expect(run(...up, suspend, stop, { type: 'not-suspended' })).toMatchObject({ name: 'stopping' });
    expect(run(...up, suspend, ended(undefined))).toEqual({ name: 'failed', why: MEMORY_IS_LOST });
    expect(run(...up, suspend, ended(undefined, 'out of memory'))).toEqual({
      name: 'failed',
      why: `${MEMORY_IS_LOST} (out of memory)`,
    });
  });

  test('a resume that fails, or is stopped, is suspended again', () => {
    expect(run({ ...suspended, why: 'damaged' })).toEqual({ name: 'suspended', sinceMs: 300, why: 'damaged' });
    const full = { why: 'ENOSPC', isFull: true } as const;
    expect(run({ ...suspended, ...full })).toEqual({ name: 'suspended', sinceMs: 300, ...full });
    expect(run(stop, suspended)).toEqual({ name: 'suspended', sinceMs: 300 });
  });

  test('whatever happens in whatever order: what is over stays over, and nothing restarts after a stop', () => {
    const event = fc.oneof(
      fc.constantFrom<MachineEvent>(
        ...up,
        diskPause,
        suspend,
        { type: 'not-suspended' },
        suspended,
        stop,
        { type: 'resumed' },
        { type: 'waits', why: 'x' },
        { type: 'failed', why: 'y' },
      ),
      fc.constantFrom('guest-reset', 'guest-shutdown', 'host-qmp-quit', undefined).map((reason) => ended(reason)),
    );
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), (events) => {
        let state: MachineState = { name: 'preparing' };
        let wasStopped = false;
        for (const each of events) {
          const next = nextState(state, each);
          if (isOver(state)) expect(next).toBe(state);
          if (wasStopped) expect(['stopping', 'stopped', 'failed', 'suspended']).toContain(next.name);
          if (isAtRest(state)) expect(next).toBe(state);
          wasStopped ||= each.type === 'stop';
          state = next;
        }
      }),
    );
  });
});
