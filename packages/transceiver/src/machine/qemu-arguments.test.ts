import { readFile, writeFile } from 'node:fs/promises';
import { hasCode, type MachineDescription } from '@collective/shared';
import { describe, expect, test } from 'vitest';
import type { MachineSession } from './machine-session.js';
import { qemuArguments } from './qemu-arguments.js';

const description: MachineDescription = {
  memoryBytes: 1 << 30,
  cpus: 2,
  chipset: 'q35',
  firmware: 'bios',
  network: 'virtio',
  display: 'vga',
  guestAgent: true,
  clock: 'utc',
};
const session: MachineSession = {
  machine: 'debian-server',
  folder: '/run/collective/0123456789ab/m-0123456789',
  disks: [
    { name: 'system', bus: 'virtio' },
    { name: 'user', bus: 'virtio' },
  ],
  uuid: '5e0d1d5e-6a67-4c39-9a5c-1b1f0d6a7b10',
  macAddress: '52:54:00:12:34:56',
  generationId: '0b7c3f2e-21a7-4e4f-8d4b-2d5c6e7f8091',
  accelerator: 'tcg',
  restrictNetwork: false,
};

type Case = { readonly name: string; readonly description: MachineDescription; readonly session: MachineSession };
const sata: MachineSession = { ...session, disks: session.disks.map(({ name }) => ({ name, bus: 'sata' as const })) };
const cases: Case[] = [
  { name: 'q35-virtio-bios', description, session },
  {
    name: 'q35-virtio-uefi-kvm',
    description: { ...description, firmware: 'uefi', display: 'virtio' },
    session: { ...session, accelerator: 'kvm', uefiCode: '/usr/share/OVMF/OVMF_CODE_4M.fd', restrictNetwork: true },
  },
  {
    name: 'q35-sata-e1000-localtime',
    description: { ...description, network: 'e1000', guestAgent: false, clock: 'localtime' },
    session: sata,
  },
  {
    name: 'pc-sata-without-network-and-display',
    description: { ...description, chipset: 'pc', network: 'none', display: 'none' },
    session: sata,
  },
  {
    name: 'pc-ide-e1000',
    description: { ...description, chipset: 'pc', network: 'e1000', guestAgent: false },
    session: { ...session, disks: ['system', 'user', 'ephemeral'].map((name) => ({ name, bus: 'ide' as const })) },
  },
];

/** One argument a line, an option and its value together. */
const asText = (words: readonly string[]): string =>
  `${words.map((word, index) => (index === 0 ? word : word.startsWith('-') ? `\n${word}` : ` ${word}`)).join('')}\n`;

describe("QEMU's arguments", () => {
  test.each(cases)('of $name are those of the golden file', async ({ name, description, session }) => {
    const golden = new URL(`golden/${name}.txt`, import.meta.url);
    const text = asText(qemuArguments(description, session));
    if (process.env['UPDATE_GOLDEN'] === '1') await writeFile(golden, text);
    expect(text).toBe(await readFile(golden, 'utf8'));
  });

  test('every drive pauses the machine on an error, has its name as serial number, and can be trimmed', () => {
    const words = qemuArguments(description, session);
    const drives = words
      .filter((word) => word.includes('"drive-'))
      .map((word) => JSON.parse(word) as Record<string, unknown>);
    expect(drives).toHaveLength(2);
    for (const drive of drives)
      expect(drive).toMatchObject({ rerror: 'stop', werror: 'stop', serial: expect.any(String) as unknown });
    expect(words.filter((word) => word.includes('"discard":"unmap"'))).toHaveLength(2);
  });

  test('a comma in the path of the home starts no option of its own', () => {
    const words = qemuArguments(description, { ...session, folder: '/home/a,server=off/m' });
    expect(words).toContain('socket,id=qmp,path=/home/a,,server=off/m/q/qmp.sock,server=on,wait=off');
  });

  test('a machine without virtio devices gets no virtio-rng', () => {
    expect(qemuArguments({ ...description, network: 'e1000' }, sata).join(' ')).not.toContain('virtio-rng');
    expect(qemuArguments({ ...description, network: 'virtio' }, sata).join(' ')).toContain('virtio-rng');
  });

  test('IDE disks on q35 and a fifth IDE disk are refused', () => {
    const ide = (count: number): MachineSession => ({
      ...session,
      disks: Array.from({ length: count }, (_, index) => ({ name: `d${index}`, bus: 'ide' as const })),
    });
    for (const [chipset, count] of [
      ['q35', 1],
      ['pc', 5],
    ] as const) {
      let error: unknown;
      try {
        qemuArguments({ ...description, chipset }, ide(count));
      } catch (thrown) {
        error = thrown;
      }
      expect(hasCode(error, 'bad-machine')).toBe(true);
    }
  });
});
