/** `collective upgrade`: agent, supervisor and block daemon become those of another installation under a guest that writes and verifies all the time. */
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { ROOT } from '../support/paths.js';
import { eventually, withLab } from './machine-lab.js';

/** A copy of what is built here, of another version; packages of others are shared. */
const installationOf = async (version: string): Promise<{ readonly folder: string; readonly program: string }> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-installation-'));
  for (const name of ['schema', 'shared', 'transceiver']) {
    const [from, to] = [path.join(ROOT, 'packages', name), path.join(folder, 'packages', name)];
    await mkdir(to, { recursive: true });
    for (const part of ['dist', 'bin']) {
      if (existsSync(path.join(from, part))) await cp(path.join(from, part), path.join(to, part), { recursive: true });
    }
    const description = JSON.parse(await readFile(path.join(from, 'package.json'), 'utf8')) as object;
    await writeFile(path.join(to, 'package.json'), JSON.stringify({ ...description, version }));
  }
  await mkdir(path.join(folder, 'node_modules/@collective'), { recursive: true });
  for (const name of await readdir(path.join(ROOT, 'node_modules'))) {
    if (name !== '@collective')
      await symlink(path.join(ROOT, 'node_modules', name), path.join(folder, 'node_modules', name));
  }
  for (const name of ['schema', 'shared', 'transceiver'])
    await symlink(path.join(folder, 'packages', name), path.join(folder, 'node_modules/@collective', name));
  return { folder, program: path.join(folder, 'packages/transceiver/bin/collective.js') };
};

/** Each round writes a file of its own content to the user disk, drops it from memory and compares; and reads the system disk. */
const CHECK_FOR_EVER = [
  'i=0; while true; do i=$((i+1))',
  '(echo $i; dd if=/dev/urandom bs=4096 count=64 2>/dev/null) >/tmp/w && cp /tmp/w /home/w && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /tmp/w /home/w || echo BA""D $i',
  'dd if=/dev/vda of=/dev/null bs=65536 skip=$((i * 37 % 700)) count=2 2>/dev/null || echo BA""D read $i',
  'echo ro""und=$i; done',
].join('; ');

test('collective upgrade replaces agent, supervisor and block daemon under a guest that goes on without an error', () =>
  withLab(async (lab) => {
    const newer = await installationOf('9.8.7');
    try {
      const here = path.join(ROOT, 'packages/transceiver/bin/collective.js');
      const words = ['--home', lab.home.directory, '--json'];
      await lab.start('one');
      const console = await lab.console('one');
      await console.sees(/TINY READY/);
      console.type(CHECK_FOR_EVER);
      await console.sees(/round=3\r/);
      await runOrThrow('node', [here, 'upgrade', ...words]); // the same software: only an agent is added
      const before = await lab.client.request('status', {});
      const agentBefore = JSON.parse((await runOrThrow('node', [here, 'status', ...words])).stdout) as {
        agent: { pid: number };
      };
      expect(JSON.parse((await runOrThrow('node', [newer.program, 'upgrade', ...words])).stdout)).toMatchObject({
        software: 'collective 9.8.7',
        machines: 1,
      });
      await lab.reconnect();
      const after = await lab.client.request('status', {});
      expect(after).toMatchObject({ software: 'collective 9.8.7', blockd: { software: 'collective 9.8.7' } });
      expect(after.machines[0]).toMatchObject({ machine: 'one', state: { name: 'running' }, restarts: 0 });
      expect(after.machines[0]?.qemuPid).toBe(before.machines[0]?.qemuPid);
      expect(after.pid).not.toBe(before.pid);
      expect(after.blockd.pid).not.toBe(before.blockd.pid);
      const again = await lab.console('one');
      await again.sees(/round=\d+\r/, 5);
      await again.interrupt();
      again.type('dmesg | grep -ci "error" ; echo do""ne');
      await again.sees(/\n0\r\n.*done/s);
      expect(console.text + again.text).not.toContain('BAD');
      const all = JSON.parse((await runOrThrow('node', [newer.program, 'status', ...words])).stdout) as {
        agent: { pid: number; software: string };
      };
      expect(all.agent.software).toBe('collective 9.8.7');
      expect(all.agent.pid).not.toBe(agentBefore.agent.pid);
      expect((await lab.processes()).filter((line) => line.includes(`${ROOT}/packages/transceiver`))).toEqual([]);
      await eventually('the machine is stopped', async () => {
        await runOrThrow('node', [newer.program, 'stop', 'one', '--force', ...words]).catch(() => undefined);
        return (await lab.state('one')).name === 'stopped';
      });
      await runOrThrow('node', [newer.program, 'shutdown', ...words]);
      await lab.reconnect();
    } finally {
      await rm(newer.folder, { recursive: true, force: true });
    }
  }));
