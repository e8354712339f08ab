import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { MachinePresence } from './machine-presence.js';

it('a machine is over when neither it nor its memory image is there: also when the image is thrown away', async () => {
  const machinesDirectory = await mkdtemp(join(tmpdir(), 'collective-presence-'));
  const over: string[] = [];
  vi.useFakeTimers();
  const presence = new MachinePresence({ machinesDirectory }, (name) => over.push(name));
  onTestFinished(async () => {
    presence.close();
    vi.useRealTimers();
    await rm(machinesDirectory, { recursive: true, force: true });
  });
  await mkdir(join(machinesDirectory, 'tiny', 'memory'), { recursive: true });
  const record = join(machinesDirectory, 'tiny', 'machine.json');
  const image = join(machinesDirectory, 'tiny', 'memory', 'image.json');
  await writeFile(record, '');
  presence.watch('tiny');
  await writeFile(image, '');
  await rm(record);
  vi.advanceTimersByTime(1_000);
  expect([presence.isUp('tiny'), presence.isSuspended('tiny'), over]).toEqual([false, true, []]);
  await rm(image);
  vi.advanceTimersByTime(1_000);
  expect(over).toEqual(['tiny']);
});
