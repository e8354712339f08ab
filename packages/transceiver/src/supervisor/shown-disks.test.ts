import { EventEmitter } from 'node:events';
import { CollectiveError } from '@collective/shared';
import { expect, test } from 'vitest';
import type { QemuProcess } from '../machine/qemu-process.js';
import type { DiskAttachment, DiskService, DiskServiceEvents } from './disk-service.js';
import type { MachineSpec, ShownDisk } from './machine-spec.js';
import { ShownDisks } from './shown-disks.js';

const system: MachineSpec['disks'][number] = {
  name: 'system',
  bus: 'virtio',
  source: { kind: 'zero', diskBytes: 1 << 20 },
};
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
  disks: [system],
  uuid: '5e0d1d5e-6a67-4c39-9a5c-1b1f0d6a7b10',
  macAddress: '52:54:00:12:34:56',
};
const disk = (name: string): ShownDisk => ({ name, source: { kind: 'zero', diskBytes: 1 << 20 } });

class FakeDisks extends EventEmitter<DiskServiceEvents> implements DiskService {
  readonly attached = new Set<string>();
  attach = (attachment: DiskAttachment): Promise<void> => {
    this.attached.add(attachment.disk);
    return Promise.resolve();
  };
  adopt = (attachment: DiskAttachment): Promise<void> => this.attach(attachment);
  detach = (_machine: string, name: string): Promise<void> => {
    this.attached.delete(name);
    return Promise.resolve();
  };
  setWait = (): Promise<void> => Promise.resolve();
  setBlockKeys = (): Promise<void> => Promise.resolve();
  warm = (): Promise<void> => Promise.resolve();
  traceStart = (): Promise<void> => Promise.resolve();
  traceIdle = (): Promise<void> => Promise.resolve();
  missing = (): Promise<[]> => Promise.resolve([]);
}

/** A QEMU of which only the devices count; `refuses` a command, and may keep a device that is to go. */
class FakeQemu extends EventEmitter {
  readonly devices = new Set<string>();
  readonly nodes = new Set<string>();
  readonly drivers: unknown[] = [];
  refuses = '';
  qmp = {
    execute: (command: string, words: Readonly<Record<string, unknown>>): Promise<unknown> => {
      if (command === this.refuses) return Promise.reject(new CollectiveError('local-io', 'QEMU refused'));
      if (command === 'blockdev-add') this.nodes.add(String(words['node-name']));
      if (command === 'blockdev-del') this.nodes.delete(String(words['node-name']));
      if (command === 'device_add') {
        this.devices.add(String(words['id']));
        this.drivers.push([words['driver'], words['bus']]);
      }
      if (command === 'device_del') {
        if (!this.devices.delete(String(words['id'])))
          return Promise.reject(new CollectiveError('local-io', 'not found', { data: { qmpClass: 'DeviceNotFound' } }));
        setImmediate(() => this.emit('qmp', { name: 'DEVICE_DELETED', data: { device: words['id'] }, timeMs: 0 }));
      }
      return Promise.resolve({});
    },
  };
}

const setUp = (found: readonly ShownDisk[] = [], machine = spec) => {
  const disks = new FakeDisks();
  const records: string[][] = [];
  const shown: ShownDisks = new ShownDisks(
    {
      ...{ spec: machine, disks, folder: '/run/m', user: undefined, machineKeys: () => ({}), log: () => undefined },
      record: () => {
        records.push(shown.list.map(({ name }) => name));
        return Promise.resolve();
      },
    },
    found,
  );
  const qemu = new FakeQemu();
  return { disks, records, shown, qemu, process: qemu as unknown as QemuProcess };
};

test('a disk that is shown is in the record before QEMU has it, and nothing of it is left when it is hidden', async () => {
  const { disks, records, shown, qemu, process } = setUp();
  await shown.show(process, disk('snapshot-3'));
  expect([[...disks.attached], [...qemu.devices], records]).toEqual([
    ['snapshot-3'],
    ['drive-snapshot-3'],
    [['snapshot-3']],
  ]);
  expect(qemu.drivers).toEqual([['virtio-blk-pci', 'hot0']]);
  await expect(shown.show(process, disk('snapshot-3'))).rejects.toMatchObject({ code: 'exists' });
  await expect(shown.show(process, disk('system'))).rejects.toMatchObject({ code: 'exists' });
  await shown.hide(process, 'snapshot-3');
  expect([disks.attached.size, qemu.devices.size, qemu.nodes.size, records.at(-1)]).toEqual([0, 0, 0, []]);
  await expect(shown.hide(process, 'snapshot-3')).rejects.toMatchObject({ code: 'not-found' });
});

test('nothing is left of a disk that QEMU refuses', async () => {
  for (const refused of ['blockdev-add', 'device_add']) {
    const { disks, records, shown, qemu, process } = setUp();
    qemu.refuses = refused;
    await expect(shown.show(process, disk('snapshot-3'))).rejects.toMatchObject({ code: 'local-io' });
    expect([disks.attached.size, qemu.nodes.size, shown.list, records.at(-1)]).toEqual([0, 0, [], []]);
  }
});

test('a machine without virtio disks is shown a stick, where it has USB', async () => {
  for (const display of ['none', 'vga'] as const) {
    const { shown, qemu, process } = setUp([], {
      ...spec,
      description: { ...spec.description, display },
      disks: [{ ...system, bus: 'sata' }],
    });
    const showing = shown.show(process, disk('snapshot-3'));
    if (display === 'none') await expect(showing).rejects.toMatchObject({ code: 'bad-machine' });
    else await showing;
    expect(qemu.drivers).toEqual(display === 'none' ? [] : [['usb-storage', 'usb0.0']]);
  }
});

test('at most four are shown; those of an earlier supervisor are adopted and let go of', async () => {
  const { disks, shown, process } = setUp([disk('snapshot-1')]);
  await shown.adopt();
  expect([...disks.attached]).toEqual(['snapshot-1']);
  for (const name of ['snapshot-2', 'snapshot-3', 'snapshot-4']) await shown.show(process, disk(name));
  await expect(shown.show(process, disk('snapshot-5'))).rejects.toMatchObject({ code: 'bad-request' });
  await shown.letGo();
  expect([disks.attached.size, shown.list]).toEqual([0, []]);
});

test('one that is gone from QEMU already is hidden all the same', async () => {
  const { disks, shown, qemu, process } = setUp();
  await shown.show(process, disk('snapshot-3'));
  qemu.devices.clear();
  await shown.hide(process, 'snapshot-3');
  expect([disks.attached.size, shown.list]).toEqual([0, []]);
});
