import { EventEmitter } from 'node:events';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { awakeMs } from '../blockd/testing/awake-clock.js';
import type { QmpEvent } from '../machine/qmp-client.js';
import { type DiskPausesOptions, watchDiskPauses } from './disk-pauses.js';
import type { DiskService, DiskServiceEvents, MissingBlocks } from './disk-service.js';
import { type MachineState, nextState } from './machine-state.js';

class FakeDisks extends EventEmitter<DiskServiceEvents> implements DiskService {
  lacking: readonly MissingBlocks[] | undefined = [];
  looks = 0;
  attach = (): Promise<void> => Promise.resolve();
  adopt = (): Promise<void> => Promise.resolve();
  detach = (): Promise<void> => Promise.resolve();
  setBlockKeys = (): Promise<void> => Promise.resolve();
  warm = (): Promise<void> => Promise.resolve();
  readonly waits: (number | undefined)[] = [];
  setWait = (_: string, waitMs: number | undefined): Promise<void> => {
    this.waits.push(waitMs);
    return Promise.resolve();
  };
  traceStart = (): Promise<void> => Promise.resolve();
  traceIdle = (): Promise<void> => Promise.resolve();
  missing(): Promise<readonly MissingBlocks[] | undefined> {
    this.looks += 1;
    return Promise.resolve(this.lacking);
  }
}

class FakeQemu extends EventEmitter<{ qmp: [event: QmpEvent] }> {
  conts = 0;
  readonly executed: string[] = [];
  stopped: Promise<void> = Promise.resolve();
  readonly qmp = {
    execute: async (command: string): Promise<object> => {
      this.executed.push(command);
      await Promise.resolve();
      this.say('STOP');
      await this.stopped;
      return {};
    },
    cont: (): Promise<void> => {
      this.conts += 1;
      this.say('RESUME');
      return Promise.resolve();
    },
    queryStatus: () => Promise.resolve({ status: 'io-error', running: false }),
  };

  say(name: string, data: Record<string, unknown> = {}): void {
    this.emit('qmp', { name, data, timeMs: 0 });
  }

  failWrite(): void {
    this.say('BLOCK_IO_ERROR', { action: 'stop', operation: 'write', 'node-name': 'disk-user', nospace: true });
    this.say('STOP');
  }

  failRead(): void {
    this.say('BLOCK_IO_ERROR', {
      action: 'stop',
      operation: 'read',
      'node-name': 'disk-system',
      reason: 'Input/output error',
    });
    this.say('STOP');
  }
}

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

const setUp = (options: Partial<Pick<DiskPausesOptions, 'stopsFirst' | 'startsAgain' | 'hasSpace'>> = {}) => {
  const disks = new FakeDisks();
  const qemu = new FakeQemu();
  const seen: { state: MachineState } = { state: { name: 'running' } };
  const room = { isThere: false };
  const pauses = watchDiskPauses({
    machine: 'one',
    qemu,
    disks,
    hasSpace: () => Promise.resolve(room.isThere),
    ...options,
    next: (event) => (seen.state = nextState(seen.state, event)),
    onLongPauseOver: () => undefined,
    log: () => undefined,
  });
  onTestFinished(() => pauses.close());
  return { disks, qemu, seen, pauses, room };
};

const block = (index: number): MissingBlocks => ({ disk: 'system', blocks: [index], why: 'no route to host' });

describe('a machine that was paused by a failed read', () => {
  test('shows which block of which disk it waits for and why', async () => {
    const { disks, qemu, seen } = setUp();
    disks.lacking = [block(812)];
    qemu.failRead();
    await settle();
    expect(seen.state).toMatchObject({
      name: 'paused',
      cause: 'disk',
      why: 'waits for block 812 of disk system: no route to host',
    });
    expect(qemu.conts).toBe(0);
  });

  test('goes on at once when the block path says that the block has arrived', async () => {
    const { disks, qemu, seen } = setUp();
    disks.lacking = [block(1)];
    qemu.failRead();
    await settle();
    disks.lacking = [];
    disks.emit('arrived', 'another machine');
    await settle();
    expect(qemu.conts).toBe(0);
    disks.emit('arrived', 'one');
    await settle();
    expect(qemu.conts).toBe(1);
    expect(seen.state).toEqual({ name: 'running' });
  });

  test('has its other reads given up at once, for QEMU waits for them, and waits as before when it goes on', async () => {
    const { disks, qemu } = setUp();
    disks.lacking = [block(1)];
    qemu.failRead();
    await settle();
    expect(disks.waits).toEqual([1]);
    const waitsAtCont: (readonly unknown[])[] = [];
    const cont = qemu.qmp.cont;
    qemu.qmp.cont = async () => {
      waitsAtCont.push([...disks.waits]);
      await cont();
    };
    disks.lacking = [];
    disks.emit('arrived', 'one');
    await settle();
    expect(waitsAtCont).toEqual([[1, undefined]]);
  });

  test('goes on when the block arrived before anybody looked', async () => {
    const { qemu, seen } = setUp();
    qemu.failRead();
    await settle();
    expect(qemu.conts).toBe(1);
    expect(seen.state).toEqual({ name: 'running' });
  });

  test('goes on after a restart of the block daemon, which knows of nothing missing', async () => {
    const { disks, qemu } = setUp();
    disks.lacking = undefined;
    qemu.failRead();
    await settle();
    expect(qemu.conts).toBe(0);
    disks.lacking = [];
    disks.emit('restarted');
    await settle();
    expect(qemu.conts).toBe(1);
  });

  test('does not go on while another block is missing', async () => {
    const { disks, qemu } = setUp();
    disks.lacking = [{ disk: 'user', blocks: [], why: undefined }, block(2)];
    qemu.failRead();
    await settle();
    disks.emit('arrived', 'one');
    await settle();
    expect(qemu.conts).toBe(0);
    expect(disks.looks).toBe(2);
  });

  test('is not continued again and again when its request fails at once each time, but soon after something has happened', async () => {
    const { disks, qemu } = setUp();
    const cont = qemu.qmp.cont;
    let isBroken = true;
    qemu.qmp.cont = async () => {
      await cont();
      if (isBroken) qemu.failRead(); // a disk of ours that answers EIO without waiting for anything
    };
    const beganMs = performance.now();
    qemu.failRead();
    await expect.poll(() => qemu.conts, { interval: 5 }).toBe(3); // after 0.25 s, then 0.5 s; the next would be after 1 s
    expect(performance.now() - beganMs).toBeGreaterThan(700);
    isBroken = false;
    const before = qemu.conts;
    disks.emit('restarted');
    await settle();
    expect(qemu.conts).toBe(before + 1);
  });

  test('is found when it was taken over in mid-pause', async () => {
    const { qemu, pauses } = setUp();
    await pauses.lookAgain();
    await settle();
    expect(qemu.conts).toBe(1);
  });
});

test('a machine that was paused by a full local disk says so, and goes on within two seconds of there being room again', async () => {
  const { qemu, seen, room } = setUp();
  qemu.failWrite();
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'disk', why: 'the local disk is full' });
  expect(qemu.conts).toBe(0);
  room.isThere = true;
  const roomAtMs = awakeMs();
  await expect.poll(() => qemu.conts, { interval: 5 }).toBe(1);
  expect(awakeMs() - roomAtMs).toBeLessThan(2_000);
  expect(seen.state).toEqual({ name: 'running' });
});

test('a machine whose writes are refused though there is room is not continued again and again', async () => {
  const { qemu, room } = setUp();
  const cont = qemu.qmp.cont;
  qemu.qmp.cont = async () => {
    await cont();
    qemu.failWrite(); // a quota
  };
  room.isThere = true;
  const beganMs = performance.now();
  qemu.failWrite();
  await expect.poll(() => qemu.conts, { interval: 5 }).toBe(3);
  expect(performance.now() - beganMs).toBeGreaterThan(700);
});

test('a machine on IDE is stopped before its read is answered, its other reads end at once, and it goes on when they have ended and the block is there', async () => {
  const { disks, qemu, seen } = setUp({ stopsFirst: true });
  const drained = new EventEmitter();
  qemu.stopped = new Promise((resolve) => drained.once('drained', () => resolve()));
  disks.lacking = [block(7)];
  disks.emit('unavailable', 'one', 'system', 7, 'no route to host');
  disks.emit('unavailable', 'one', 'user', 1, 'no route to host');
  await settle();
  expect(qemu.executed).toEqual(['stop']);
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'disk' });
  expect(disks.waits).toEqual([1]);
  disks.lacking = [];
  disks.emit('arrived', 'one');
  await settle();
  expect(qemu.conts).toBe(0); // its reads have not ended
  drained.emit('drained');
  await settle();
  expect(disks.waits).toEqual([1, undefined]);
  expect(qemu.conts).toBe(1);
  expect(seen.state).toEqual({ name: 'running' });
});

test('a machine on IDE whose guest can be started again, or not, is not continued, or is', async () => {
  for (const isStartedAgain of [true, false]) {
    let asked = 0;
    const startsAgain = (): Promise<boolean> => {
      asked += 1;
      return Promise.resolve(isStartedAgain);
    };
    const { disks, qemu } = setUp({ stopsFirst: true, startsAgain });
    disks.lacking = [block(7)];
    disks.emit('unavailable', 'one', 'system', 7, 'no route to host');
    await settle();
    expect(asked).toBe(0); // it lacks its block still
    disks.lacking = [];
    disks.emit('arrived', 'one');
    await settle();
    expect(asked).toBe(1);
    expect(qemu.conts).toBe(isStartedAgain ? 0 : 1);
  }
});

test('a suspend that begins while a machine is just about to go on holds it back, on IDE and for a full disk', async () => {
  // Seen in review: `cont` (or the end of QEMU) after the `stop` of the suspend, while its memory was copied.
  for (const fault of ['read', 'write'] as const) {
    let letGo: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (letGo = resolve));
    const isStartedAgain = vi.fn(() => Promise.resolve(false));
    const { disks, qemu, pauses } = setUp({ startsAgain: isStartedAgain, hasSpace: () => gate.then(() => true) });
    const setWait = disks.setWait;
    if (fault === 'read') disks.setWait = (...words) => setWait(...words).then(() => gate);
    if (fault === 'read') qemu.failRead();
    else qemu.failWrite();
    await settle();
    pauses.hold(true);
    letGo();
    await settle();
    expect([fault, qemu.conts, isStartedAgain.mock.calls.length]).toEqual([fault, 0, 0]);
    pauses.hold(false);
    await settle();
    expect([fault, qemu.conts]).toEqual([fault, 1]);
  }
});

test('a machine on IDE whose write failed is continued, never started again', async () => {
  // QEMU counts a write when it is done: the first one of a guest without paging (DOS), which waits for room, is in no statistic.
  const isStartedAgain = vi.fn(() => Promise.resolve(true));
  const { qemu } = setUp({ stopsFirst: true, startsAgain: isStartedAgain, hasSpace: () => Promise.resolve(true) });
  qemu.failWrite();
  await settle();
  expect([qemu.conts, isStartedAgain.mock.calls.length]).toEqual([1, 0]);
});

test('a machine on IDE is not started again on trial, when nobody can say what it lacks', async () => {
  // A new start needs the block daemon, and fails the machine when there is none; a pause needs nothing.
  vi.useFakeTimers({ toFake: ['Date'] });
  onTestFinished(() => void vi.useRealTimers());
  const startsAgain = vi.fn(() => Promise.resolve(true));
  const { disks, qemu } = setUp({ stopsFirst: true, startsAgain });
  disks.lacking = undefined;
  qemu.failRead();
  await settle();
  vi.setSystemTime(Date.now() + 11_000);
  disks.emit('restarted');
  await settle();
  disks.lacking = [];
  disks.emit('restarted');
  await settle();
  expect(startsAgain.mock.calls).toEqual([[{ isTrial: true }], [{ isTrial: false }]]);
  expect(qemu.conts).toBe(0);
});

test('a machine on IDE that a former supervisor had stopped for a block goes on; a stop that fails leaves nothing behind', async () => {
  const { disks, qemu, seen, pauses } = setUp({ stopsFirst: true });
  qemu.qmp.queryStatus = () => Promise.resolve({ status: 'paused', running: false });
  await pauses.lookAgain();
  await settle();
  expect(qemu.conts).toBe(1);
  qemu.qmp.execute = () => Promise.reject(new Error('no answer'));
  disks.emit('unavailable', 'one', 'system', 7, 'no route to host');
  await settle();
  expect(seen.state).toEqual({ name: 'running' });
  qemu.say('STOP');
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'request' });
});

test('a fault that is told before the end of the pause for another one, whose stop comes after it, is waited for too', async () => {
  const { disks, qemu, seen } = setUp();
  disks.lacking = [block(1)];
  qemu.failRead();
  await settle();
  qemu.say('BLOCK_IO_ERROR', { action: 'stop', operation: 'read', 'node-name': 'disk-system' });
  disks.lacking = [];
  disks.emit('arrived', 'one');
  await settle();
  expect(qemu.conts).toBe(1);
  qemu.say('STOP');
  await expect.poll(() => qemu.conts, { interval: 5 }).toBe(2);
  expect(seen.state).toEqual({ name: 'running' });
});

test('a machine whose going on was missed, because the control connection was lost, is found running', async () => {
  const { disks, qemu, seen, pauses } = setUp();
  disks.lacking = [block(1)];
  qemu.failRead();
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused' });
  qemu.qmp.queryStatus = () => Promise.resolve({ status: 'running', running: true });
  await pauses.lookAgain();
  expect(seen.state).toEqual({ name: 'running' });
});

test('a machine that goes on while QEMU is asked why it stopped is not said to stand still', async () => {
  const { qemu, seen } = setUp();
  qemu.qmp.queryStatus = () => Promise.resolve({ status: 'paused', running: false });
  qemu.say('STOP');
  qemu.say('RESUME'); // in one piece with the answer, which is taken after it
  await settle();
  expect(seen.state).toEqual({ name: 'running' });
});

test('a machine that somebody paused over QMP is left alone', async () => {
  const { qemu, seen } = setUp();
  qemu.qmp.queryStatus = () => Promise.resolve({ status: 'paused', running: false });
  qemu.say('STOP');
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'request' });
  expect(qemu.conts).toBe(0);
  qemu.say('RESUME');
  expect(seen.state).toEqual({ name: 'running' });
});

test('an error that QEMU told the guest, and did not pause for, is no pause', async () => {
  const { qemu, seen } = setUp();
  qemu.qmp.queryStatus = () => Promise.resolve({ status: 'paused', running: false });
  qemu.say('BLOCK_IO_ERROR', { action: 'report', operation: 'read' });
  qemu.say('STOP');
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'request' });
});
