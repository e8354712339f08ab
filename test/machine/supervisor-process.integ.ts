/** The supervisor as a process: one a home, refusals, its end. Hardly a guest runs here. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { type MachineSpec, SupervisorClient, syscalls } from '@collective/transceiver';
import { ROOT } from '../support/paths.js';
import { eventually, withLab } from './machine-lab.js';

const MAIN = path.join(ROOT, 'packages/transceiver/dist/supervisor/main.js');

test('a second supervisor of one home ends with exit code 3 and leaves the first alone', () =>
  withLab(async (lab) => {
    const second = spawn(process.execPath, [MAIN, '--home', lab.home.directory], { stdio: 'ignore' });
    expect(await once(second, 'exit')).toEqual([3, null]);
    expect((await lab.client.request('status', {})).machines).toEqual([]);
  }));

test('two agents that open the home at once get the same supervisor', () =>
  withLab(async (lab) => {
    const { pid } = await lab.client.request('status', {});
    await lab.kill(pid);
    const clients = await Promise.all([SupervisorClient.open(lab.home), SupervisorClient.open(lab.home)]);
    const pids = await Promise.all(clients.map(async (client) => (await client.request('status', {})).pid));
    expect(pids[0]).toBe(pids[1]);
    for (const client of clients) client.close();
    await lab.reconnect();
  }));

test('sockets are for the owner alone', () =>
  withLab(async (lab) => {
    for (const socket of [lab.home.supervisorSocket, lab.home.blockdSocket]) {
      expect((await stat(socket)).mode & 0o777).toBe(0o600);
    }
  }));

test('SIGTERM is refused while a machine is there, and ends supervisor and block daemon when none is', () =>
  withLab(async (lab) => {
    await lab.repository.goAway(); // so that the machine stays in preparing
    await lab.start('one');
    const { pid } = await lab.client.request('status', {});
    process.kill(pid, 'SIGTERM');
    await eventually('the refusal is logged', async () =>
      /SIGTERM: .*1 machines are running: one/.test(await lab.log()),
    );
    await expect(lab.client.request('shutdown', {})).rejects.toMatchObject({ code: 'in-use' });
    await lab.client.request('stop', { machine: 'one' });
    await lab.reaches('one', 'stopped');
    process.kill(pid, 'SIGTERM');
    await eventually('nothing is left', async () => (await lab.processes()).length === 0);
  }));

test('a machine that waits for its first block when the supervisor is killed is started by the next one', () =>
  withLab(async (lab) => {
    await lab.repository.goAway();
    await lab.start('one');
    await lab.reaches('one', 'preparing');
    await lab.kill((await lab.client.request('status', {})).pid);
    await lab.reconnect();
    expect(await lab.state('one')).toMatchObject({ name: 'preparing' });
    await lab.repository.comeBack();
    await lab.reaches('one', 'running');
    await (await lab.console('one')).sees(/TINY READY/);
  }));

test("what a guest waits for takes short turns of the processor, and V8's helpers stand behind it", () =>
  withLab(async (lab) => {
    await lab.start('one');
    await lab.reaches('one', 'running');
    const running = await lab.processes();
    /** One that has ended meanwhile is left out. */
    const threadsOf = async (program: RegExp): Promise<{ niceness: number; slice: string | undefined }[]> => {
      const pid = running.find((line) => program.test(line))?.split(' ')[0];
      if (pid === undefined) throw new Error(`no ${String(program)} in ${running.join('; ')}`);
      const threads = (await readdir(`/proc/${pid}/task`)).map(async (id) => {
        const file = (name: string): Promise<string> =>
          readFile(`/proc/${pid}/task/${id}/${name}`, 'utf8').catch(() => '');
        const fields = (await file('stat')).replace(/^.*\) /, '').split(' ');
        return { niceness: Number(fields[16]), slice: /se\.slice\s*:\s*(\d+)/.exec(await file('sched'))?.[1] };
      });
      return (await Promise.all(threads)).filter(({ niceness }) => !Number.isNaN(niceness));
    };
    const qemu = await threadsOf(/qemu-system/);
    const blockd = await threadsOf(/--heap-growing-percent/);
    // Debian 13's kernel and later show it, and only a kernel that does lets it be asked for.
    if (syscalls !== undefined) for (const { slice } of [...qemu, ...blockd]) expect(slice ?? '100000').toBe('100000');
    const ours = os.getPriority();
    expect(qemu.map(({ niceness }) => niceness)).toEqual(qemu.map(() => ours));
    // The serving and the fetching thread and the four of libuv's pool; V8 has one helper at least.
    expect(blockd[0]?.niceness).toBe(ours);
    expect(blockd.filter(({ niceness }) => niceness === ours).length).toBeGreaterThanOrEqual(6);
    if (ours < os.constants.priority.PRIORITY_BELOW_NORMAL)
      expect(blockd.filter(({ niceness }) => niceness > ours).length).toBeGreaterThanOrEqual(1);
  }));

test('a memory image that cannot be read is kept, nothing is started over it, and it can be thrown away', () =>
  withLab(async (lab) => {
    const folder = path.join(lab.home.machinesDirectory, 'one', 'memory');
    const image = path.join(folder, 'image.json');
    await mkdir(folder, { recursive: true });
    await writeFile(image, '{"format":99}');
    await lab.kill((await lab.client.request('status', {})).pid);
    await lab.reconnect();
    await lab.repository.goAway(); // what is started here needs not come far
    await expect(lab.start('one')).rejects.toMatchObject({ code: 'cannot-resume' });
    expect(await readFile(image, 'utf8')).toBe('{"format":99}');
    await lab.client.request('discard', { machine: 'one' });
    await expect(readFile(image)).rejects.toMatchObject({ code: 'ENOENT' });
    await lab.start('one');
    await lab.reaches('one', 'preparing');
  }));

test('requests that are wrong get an error of the table and change nothing', () =>
  withLab(async (lab) => {
    const spec: MachineSpec = {
      machine: 'one',
      description: {
        memoryBytes: 1 << 28,
        cpus: 1,
        chipset: 'q35',
        firmware: 'bios',
        network: 'none',
        display: 'none',
        guestAgent: false,
        clock: 'utc',
      },
      disks: [],
      uuid: '5e0d1d5e-6a67-4c39-9a5c-1b1f0d6a7b10',
      macAddress: '52:54:00:12:34:56',
    };
    const zero: MachineSpec['disks'][number] = {
      name: 'system',
      bus: 'virtio',
      source: { kind: 'zero', diskBytes: 1 << 20 },
    };
    const wrong = [
      { ...spec, machine: '../one' },
      { ...spec, description: { ...spec.description, cpus: 1_000 } },
      { ...spec, description: { ...spec.description, kernel: '/etc/passwd' } },
      { ...spec, macAddress: '52:54:00:12:34:56,script=/bin/sh' },
      { ...spec, disks: [{ ...zero, name: 'a,b' }] },
      { ...spec, disks: [{ ...zero, overlay: { path: '/etc', mode: 'temporary' } as const }] },
      { ...spec, disks: [{ ...zero, trace: { path: '/etc/passwd', blockBytes: 16_384, replay: true } }] },
      {
        ...spec,
        disks: [{ ...zero, overlay: { path: `${lab.home.directory}/../x`, mode: 'temporary' } as const }],
      },
    ];
    for (const each of wrong)
      await expect(lab.client.request('start', each)).rejects.toMatchObject({ code: 'bad-request' });
    for (const method of ['stop', 'kill', 'screendump', 'console'] as const) {
      await expect(lab.client.request(method, { machine: 'none' })).rejects.toMatchObject({ code: 'not-found' });
    }
    expect((await lab.client.request('status', {})).machines).toEqual([]);
  }));
