import { expect, test } from 'vitest';
import { isInFirmware } from './firmware-phase.js';

const cpu = (control: string): string =>
  `CPU#0\r\nEAX=00000000 EBX=0000ffff\r\nCR0=${control} CR2=00000000 CR3=00000000 CR4=00000000\r\nDR0=0000000000000000\r\n`;
const disk = (writes: unknown, name = 'disk-system'): object => ({
  'node-name': name,
  stats: { wr_operations: writes },
});

const ask = (registers: unknown, disks: unknown): Promise<boolean> =>
  isInFirmware({
    execute: (command: string) => Promise.resolve(command === 'query-blockstats' ? disks : registers),
  });

test('a guest without paging that has written nothing is in its firmware, or in a boot loader', async () => {
  expect(await ask(cpu('00000010'), [disk(0)])).toBe(true);
  expect(await ask(cpu('60000011') + cpu('60000010'), [disk(0), disk(0, 'disk-user')])).toBe(true);
});

test('a guest with paging on any processor is not', async () => {
  expect(await ask(cpu('80050033'), [disk(0)])).toBe(false);
  expect(await ask(cpu('60000010') + cpu('e0050033'), [disk(0)])).toBe(false);
  expect(await ask(cpu('0000000080050033'), [disk(0)])).toBe(false);
});

test('a guest that has written to a disk is not; what its firmware wrote to its variables does not count', async () => {
  expect(await ask(cpu('00000010'), [disk(0), disk(1, 'disk-user')])).toBe(false);
  expect(await ask(cpu('00000010'), [disk(0), disk(9, 'uefi-vars')])).toBe(true);
});

test('answers that are not understood mean no', async () => {
  expect(await ask('', [disk(0)])).toBe(false);
  expect(await ask({}, [disk(0)])).toBe(false);
  expect(await ask(cpu('00000010'), [])).toBe(false);
  expect(await ask(cpu('00000010'), {})).toBe(false);
  expect(await ask(cpu('00000010'), [disk('0')])).toBe(false);
  expect(await ask(cpu('00000010'), [disk(undefined, 'uefi-vars')])).toBe(false);
});
