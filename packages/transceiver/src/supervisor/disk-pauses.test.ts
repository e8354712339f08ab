import { EventEmitter } from 'node:events';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { QmpEvent } from '../machine/qmp-client.js';
import { watchDiskPauses } from './disk-pauses.js';
import type { DiskService, DiskServiceEvents, MissingBlocks } from './disk-service.js';
import { type MachineState, nextState } from './machine-state.js';

class FakeDisks extends EventEmitter<DiskServiceEvents> implements DiskService {
  lacking: readonly MissingBlocks[] | undefined = [];
  looks = 0;
  attach = (): Promise<void> => Promise.resolve();
  adopt = (): Promise<void> => Promise.resolve();
  detach = (): Promise<void> => Promise.resolve();
  warm = (): Promise<void> => Promise.resolve();
  traceStart = (): Promise<void> => Promise.resolve();
  missing(): Promise<readonly MissingBlocks[] | undefined> {
    this.looks += 1;
    return Promise.resolve(this.lacking);
  }
}

class FakeQemu extends EventEmitter<{ qmp: [event: QmpEvent] }> {
  conts = 0;
  readonly qmp = {
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

const setUp = () => {
  const disks = new FakeDisks();
  const qemu = new FakeQemu();
  const seen: { state: MachineState } = { state: { name: 'running' } };
  const pauses = watchDiskPauses({
    machine: 'one',
    qemu,
    disks,
    next: (event) => (seen.state = nextState(seen.state, event)),
    onLongPauseOver: () => undefined,
    log: () => undefined,
  });
  onTestFinished(() => pauses.close());
  return { disks, qemu, seen, pauses };
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

test('a machine that somebody paused over QMP is left alone', async () => {
  const { qemu, seen } = setUp();
  qemu.say('STOP');
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'request' });
  expect(qemu.conts).toBe(0);
  qemu.say('RESUME');
  expect(seen.state).toEqual({ name: 'running' });
});

test('an error that QEMU told the guest, and did not pause for, is no pause', async () => {
  const { qemu, seen } = setUp();
  qemu.say('BLOCK_IO_ERROR', { action: 'report', operation: 'read' });
  qemu.say('STOP');
  await settle();
  expect(seen.state).toMatchObject({ name: 'paused', cause: 'request' });
});
