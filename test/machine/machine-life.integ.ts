/** A tiny guest through its life under the supervisor: boot, reboot, power-off, on every bus and firmware. */
import { existsSync } from 'node:fs';
import { expect, onTestFailed, test } from 'vitest';
import { MachineLab } from './machine-lab.js';

const READY = /TINY READY/;

const withLab = async (work: (lab: MachineLab) => Promise<void>): Promise<void> => {
  await using lab = await MachineLab.open();
  onTestFailed(async () => console.error(await lab.log().catch(String)));
  await work(lab);
};

test('a guest boots from virtio disks over the block path, types, and powers off when it is stopped', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await lab.reaches('one', 'running');
    const console = await lab.console('one');
    await console.sees(READY);
    console.type('echo sum $((20+22))');
    await console.sees(/sum 42/);
    const { state } = await lab.client.request('stop', { machine: 'one' });
    expect(state.name).toBe('stopping');
    expect(await lab.reaches('one', 'stopped', 40_000)).toEqual({ name: 'stopped', how: 'asked' });
    expect(existsSync(lab.overlayPath('one', 'system'))).toBe(false);
    expect(existsSync(lab.overlayPath('one', 'user'))).toBe(true);
  }));
