/** What happens around a guest while it runs: processes are killed, the repository goes away, a machine is stopped in an outage. */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { withinTime } from '../support/promise-time.js';
import { eventually, type MachineLab, withLab } from './machine-lab.js';

const READY = /TINY READY/;

/** The guest has read its kernel in part: far from the beginning and the end of a boot. */
const midBoot = async (lab: MachineLab): Promise<void> =>
  await eventually('the guest is in mid-boot', () => lab.repository.requests.length > 60);

test('kill -9 of the block daemon in mid-boot: it is restarted, and the guest continues', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    const { blockd } = await lab.client.request('status', {});
    await lab.kill(blockd.pid);
    const console = await lab.console('one');
    await console.sees(READY);
    const after = await lab.client.request('status', {});
    expect(after.blockd).toMatchObject({ restarts: 1 });
    expect(after.blockd.pid).not.toBe(blockd.pid);
    expect((await lab.status('one')).restarts).toBe(0);
  }));

test('kill -9 of the supervisor in mid-boot: QEMU and block daemon live on, the next one adopts them, restarts the guest when it reboots, and stops it in order', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    const before = await lab.client.request('status', {});
    await lab.kill(before.pid);
    await lab.reconnect();
    const after = await lab.client.request('status', {});
    expect(after.pid).not.toBe(before.pid);
    expect(after.blockd.pid).toBe(before.blockd.pid);
    expect(after.machines[0]).toMatchObject({
      machine: 'one',
      state: { name: 'running' },
      qemuPid: before.machines[0]?.qemuPid,
    });
    const console = await lab.console('one');
    await console.sees(READY);
    console.type('reboot');
    await console.sees(READY, 2);
    expect((await lab.client.request('status', {})).blockd.pid).toBe(before.blockd.pid);
    await lab.client.request('stop', { machine: 'one' });
    await lab.reaches('one', 'stopped');
    expect(existsSync(lab.overlayPath('one', 'system'))).toBe(false);
  }));

test('kill -9 of supervisor and block daemon at once, and of the daemon again: the guest continues, and a reboot works', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    const before = await lab.client.request('status', {});
    await Promise.all([lab.kill(before.pid), lab.kill(before.blockd.pid)]);
    await lab.reconnect();
    const console = await lab.console('one');
    await console.sees(READY);
    await lab.kill((await lab.client.request('status', {})).blockd.pid);
    console.type('echo user >/home/file; sync; echo writ""ten');
    await console.sees(/written/);
    console.type('reboot');
    await console.sees(READY, 2);
  }));

test('kill -9 of the supervisor before it had written down its QEMU: the next one ends that QEMU and starts the machine', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    const before = await lab.client.request('status', {});
    await lab.kill(before.pid);
    const recordFile = path.join(lab.home.machinesDirectory, 'one/machine.json');
    const record = JSON.parse(await readFile(recordFile, 'utf8')) as object;
    await writeFile(recordFile, JSON.stringify({ ...record, qemu: null }));
    await lab.reconnect();
    const stray = before.machines[0]?.qemuPid ?? 0;
    expect(await lab.log()).toContain(`QEMU ${stray} was not in the record and is ended`);
    await lab.reaches('one', 'running');
    await (await lab.console('one')).sees(READY);
    const guests = (await lab.processes()).filter((words) => words.includes('qemu-system'));
    expect(guests).toHaveLength(1);
    expect(guests[0]?.split(' ')[0]).not.toBe(String(stray));
  }));

test('the repository goes away in mid-boot: the machine is paused with the reason, answers meanwhile, and goes on by itself', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    await lab.repository.goAway();
    const state = await lab.reaches('one', 'paused');
    expect(state).toMatchObject({ cause: 'disk' });
    await eventually('the reason names the block', async () => {
      const now = await lab.state('one');
      return 'why' in now && /waits for block \d+.* of disk system: .+/.test(now.why ?? '');
    });
    await withinTime('a picture', 1_000, () => lab.client.request('screendump', { machine: 'one' }));
    await lab.repository.comeBack();
    await lab.reaches('one', 'running');
    await (await lab.console('one')).sees(READY);
  }));

test('stop of a machine that is paused in an outage ends it within 1 s and leaves nothing', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    await lab.repository.goAway();
    await lab.reaches('one', 'paused');
    await withinTime('stop', 1_000, async () => {
      await withinTime('its answer', 200, () => lab.client.request('stop', { machine: 'one' }));
      await lab.reaches('one', 'stopped');
    });
    expect(existsSync(lab.overlayPath('one', 'system'))).toBe(false);
    expect((await lab.processes()).filter((line) => line.includes('qemu'))).toEqual([]);
  }));

test('stop at once of a machine whose reads are pending in QEMU ends it within 1 s', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await midBoot(lab);
    lab.repository.behave = () => 'silent';
    const asked = lab.repository.requests.length;
    await eventually('a read waits', () => lab.repository.requests.length > asked);
    await withinTime('stop', 1_000, async () => {
      await lab.client.request('stop', { machine: 'one', deadlineMs: 0 });
      await lab.reaches('one', 'stopped');
    });
  }));

test('a repository that is away at the start: the machine waits in preparing with the reason, and stop ends that', () =>
  withLab(async (lab) => {
    await lab.repository.goAway();
    await lab.start('one');
    await eventually('the reason is told', async () => {
      const state = await lab.state('one');
      return state.name === 'preparing' && state.why !== undefined;
    });
    await withinTime('stop', 1_000, async () => {
      await lab.client.request('stop', { machine: 'one' });
      await lab.reaches('one', 'stopped');
    });
  }));

test('kill -9 of one QEMU fails that machine with a reason and leaves the other alone', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await lab.start('two');
    await Promise.all([lab.reaches('one', 'running'), lab.reaches('two', 'running')]);
    await lab.kill((await lab.status('one')).qemuPid);
    const failed = await lab.reaches('one', 'failed');
    expect(failed).toMatchObject({ why: expect.stringContaining('QEMU ended') as unknown });
    await (await lab.console('two')).sees(READY);
  }));
