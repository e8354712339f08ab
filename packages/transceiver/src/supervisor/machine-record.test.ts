import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { MachineRecords } from './machine-record.js';

test('records that are damaged, too long or of another program are told about and left where they are', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-records-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const contents: Record<string, string> = {
    cut: '{"format":1,"spec":{"mach',
    other: '{"format":2}',
    long: `{"format":1,"x":"${'y'.repeat(300 << 10)}"}`,
    more: '{"format":1,"spec":{},"folder":"/","user":null,"accelerator":"tcg","startedAtMs":0,"restarts":0,"qemu":null,"rm":"/"}',
    root: '{"format":1,"user":{"uid":0,"gid":0}}',
  };
  for (const [machine, text] of Object.entries(contents)) {
    await mkdir(path.join(folder, machine));
    await writeFile(path.join(folder, machine, 'machine.json'), text);
  }
  await mkdir(path.join(folder, 'empty'));
  const bad: string[] = [];
  expect(await new MachineRecords(folder).list((machine) => void bad.push(machine))).toEqual([]);
  expect(bad.sort()).toEqual(Object.keys(contents).sort());
  expect(await readFile(path.join(folder, 'cut/machine.json'), 'utf8')).toBe(contents['cut']);
});
