/** What goes on by itself with nobody at the keyboard: a guest that reboots or shuts down while no supervisor is there. */
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { QmpClient, sessionPaths } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { ROOT } from '../support/paths.js';
import { eventually, type MachineLab, withLab } from './machine-lab.js';

const READY = /TINY READY/;

/** The spare control socket of a machine: what nobody else uses while no supervisor is there. */
const spareQmp = async (lab: MachineLab, machine: string): Promise<QmpClient> => {
  const hash = (text: string, digits: number): string =>
    createHash('sha256').update(text).digest('hex').slice(0, digits);
  const folder =
    process.getuid?.() === 0 ? path.join('/run/collective', hash(lab.home.directory, 12)) : lab.home.runDirectory;
  return await QmpClient.open(sessionPaths(path.join(folder, `m-${hash(machine, 10)}`)).qmpSpare, { waitMs: 60_000 });
};

/** The guest does it after a moment, and meanwhile its supervisor is killed. */
const whileNobodyIsThere = async (lab: MachineLab, command: string): Promise<void> => {
  const { pid } = await lab.client.request('status', {});
  const console = await lab.console('one');
  await console.sees(READY);
  // On a busy machine the moment is longer than it takes to see that it has begun.
  console.type(`(sleep 5; ${command}) & echo beg""un`);
  await console.sees(/begun/);
  await lab.kill(pid);
  using qmp = await spareQmp(lab, 'one');
  await eventually('the guest stands still', async () => (await qmp.queryStatus()).status === 'shutdown');
};

test('a guest that reboots while no supervisor is there is started again by the next one, in a QEMU of its own', () =>
  withLab(async (lab) => {
    await lab.start('one');
    const { qemuPid } = await lab.status('one');
    await whileNobodyIsThere(lab, 'reboot -f');
    await lab.reconnect();
    await (await lab.console('one')).sees(READY);
    const after = await lab.status('one');
    expect(after).toMatchObject({ state: { name: 'running' }, restarts: 1 });
    expect(after.qemuPid).not.toBe(qemuPid);
  }));

test('a guest that shuts down while no supervisor is there is stopped, and not started again', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await whileNobodyIsThere(lab, 'poweroff -f');
    await lab.reconnect();
    await eventually('it is over', async () => (await lab.state('one')).name === 'stopped');
    expect(await lab.state('one')).toEqual({ name: 'stopped', how: 'by-guest' });
    expect((await lab.processes()).filter((line) => line.includes('qemu'))).toEqual([]);
  }));

/** The agent of the lab's home; nobody is logged in. */
const collective = async (lab: MachineLab, ...words: string[]): Promise<unknown> => {
  const program = path.join(ROOT, 'packages/transceiver/bin/collective.js');
  const { stdout } = await runOrThrow(process.execPath, [program, ...words, '--home', lab.home.directory, '--json']);
  return JSON.parse(stdout);
};
const agentPid = async (lab: MachineLab): Promise<number | undefined> =>
  ((await collective(lab, 'status')) as { agent: { pid: number } | null }).agent?.pid;

test('agent and block daemon die, then supervisor and block daemon, each time with the cache gone: all are there again by themselves, and the guest reads on', () =>
  withLab(async (lab) => {
    await lab.start('one');
    const console = await lab.console('one');
    await console.sees(READY);
    await collective(lab, 'upgrade'); // starts an agent
    const first = await agentPid(lab);
    if (first === undefined) throw new Error('there is no agent');
    /** Both die, and the cache is gone, before `other`, who would start them again, can do a step. */
    const dieTogether = async (other: number, pids: readonly (number | null)[]): Promise<void> => {
      process.kill(other, 'SIGSTOP');
      try {
        for (const pid of pids) await lab.kill(pid);
        await rm(lab.home.cacheDirectory, { recursive: true, force: true });
      } finally {
        process.kill(other, 'SIGCONT');
      }
    };
    const before = await lab.client.request('status', {});

    await dieTogether(before.pid, [first, before.blockd.pid]);
    await eventually('another agent is there', async () => ![undefined, first].includes(await agentPid(lab)));
    const readAll = 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1048576 && echo re""ad';
    console.type(readAll);
    await console.sees(/read\r/);

    const between = await lab.client.request('status', {});
    expect(between.pid).toBe(before.pid);
    const second = await agentPid(lab);
    if (second === undefined) throw new Error('there is no second agent');
    await dieTogether(second, [between.pid, between.blockd.pid]);
    // Nobody asks for it: the agent starts it.
    await eventually('another supervisor is there', async () => {
      const { supervisor } = (await collective(lab, 'status')) as { supervisor: { pid?: number } };
      return supervisor.pid !== undefined && supervisor.pid !== between.pid;
    });
    await lab.reconnect();
    const again = await lab.console('one');
    again.type(readAll);
    await again.sees(/read\r/);
    expect(await lab.status('one')).toMatchObject({ restarts: 0, qemuPid: before.machines[0]?.qemuPid });
    await lab.client.request('kill', { machine: 'one' });
    await eventually('it is over', async () => ['stopped', 'failed'].includes((await lab.state('one')).name));
    await collective(lab, 'shutdown');
    await lab.reconnect();
  }));

test('agent, supervisor and block daemon die at once, and the cache is gone: any command brings all back, without a login', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await (await lab.console('one')).sees(READY);
    await collective(lab, 'upgrade');
    const agent = await agentPid(lab);
    const before = await lab.client.request('status', {});
    await Promise.all([lab.kill(agent ?? null), lab.kill(before.pid), lab.kill(before.blockd.pid)]);
    await rm(lab.home.cacheDirectory, { recursive: true, force: true });
    await collective(lab, 'upgrade');
    await lab.reconnect();
    const console = await lab.console('one');
    console.type('echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1048576 && echo re""ad');
    await console.sees(/read\r/);
    expect(await lab.status('one')).toMatchObject({ restarts: 0, qemuPid: before.machines[0]?.qemuPid });
    await lab.client.request('kill', { machine: 'one' });
    await eventually('it is over', async () => ['stopped', 'failed'].includes((await lab.state('one')).name));
    await collective(lab, 'shutdown');
    await lab.reconnect();
  }));
