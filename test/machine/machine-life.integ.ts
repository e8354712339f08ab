/** A tiny guest through its life under the supervisor: boot, reboot, power-off, on every bus and firmware. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { withLab } from './machine-lab.js';

const READY = /TINY READY/;

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
    expect(await lab.reaches('one', 'stopped')).toEqual({
      name: 'stopped',
      how: 'asked',
      isClean: true,
    });
    expect(existsSync(lab.overlayPath('one', 'system'))).toBe(false);
    expect(existsSync(lab.overlayPath('one', 'user'))).toBe(true);
  }));

const MACHINES = [
  { title: 'SATA disks and e1000 on q35 by BIOS', wish: { bus: 'sata', network: 'e1000' } },
  { title: 'IDE disks on pc by BIOS', wish: { bus: 'ide', chipset: 'pc', network: 'e1000' } },
  { title: 'SATA disks on pc', wish: { bus: 'sata', chipset: 'pc', network: 'none', display: 'none' } },
  { title: 'virtio disks on q35 by UEFI', wish: { firmware: 'uefi', display: 'virtio' } },
] as const;

test.each(MACHINES)('a guest boots from $title', ({ wish }) =>
  withLab(async (lab) => {
    await lab.start('one', wish);
    await lab.reaches('one', 'running');
    const console = await lab.console('one');
    await console.sees(/TINY READY .* home=\S+/, 1, 200_000);
    // Linux names SATA and IDE disks in the order in which they answer.
    const [disks, home] = 'bus' in wish ? ['sda sdb', /home=\/dev\/sd[ab]/] : ['vda vdb', /home=\/dev\/vdb/];
    expect(console.text).toContain(`disks=[${disks}]`);
    expect(console.text).toMatch(home);
    await lab.client.request('stop', { machine: 'one', deadlineMs: 0 });
    await lab.reaches('one', 'stopped');
  }),
);

/** A place on the system disk that nothing uses: between boot loader and partition. */
const WRITE_MARK = `echo -n SYSTEM | dd of=/dev/vda bs=512 seek=1500 conv=notrunc,sync 2>/dev/null; echo USER >/home/mark; sync; echo writ''ten`;

test.each([
  { keepSystemOverlay: false, shown: /read <>/, title: 'a fresh system overlay' },
  { keepSystemOverlay: true, shown: /read <SYSTEM>/, title: 'the same one when told to keep it' },
])('a guest that reboots is started again with $title, and with its user disk', ({ keepSystemOverlay, shown }) =>
  withLab(async (lab) => {
    await lab.start('one', { keepSystemOverlay });
    await lab.reaches('one', 'running');
    const console = await lab.console('one');
    await console.sees(READY);
    const { qemuPid } = await lab.status('one');
    console.type(WRITE_MARK);
    await console.sees(/written/);
    console.type('reboot');
    await console.sees(READY, 2);
    const after = await lab.status('one');
    expect(after.restarts).toBe(1);
    expect(after.qemuPid).not.toBe(qemuPid);
    console.type(
      `echo "rea""d <$(dd if=/dev/vda bs=512 skip=1500 count=1 2>/dev/null | tr -d '\\0')>" "use""r $(cat /home/mark)"`,
    );
    await console.sees(/read <\w*> user USER/);
    expect(console.text).toMatch(shown);
    await lab.client.request('kill', { machine: 'one' });
    await lab.reaches('one', 'stopped');
  }),
);

test('a guest that powers itself off leaves a stopped machine, which can be started again', () =>
  withLab(async (lab) => {
    await lab.start('one');
    const console = await lab.console('one');
    await console.sees(READY);
    console.type('poweroff');
    expect(await lab.reaches('one', 'stopped')).toEqual({ name: 'stopped', how: 'by-guest' });
    await lab.start('one');
    await lab.reaches('one', 'running');
  }));
