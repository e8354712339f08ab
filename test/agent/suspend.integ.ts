/**
 * Suspend by the command line, as a person does it, against a real repository and a real (tiny) guest: what was counted in memory goes on,
 * also after what a restart of the computer leaves, or is thrown away when that is asked for.
 */
import { open, readdir } from 'node:fs/promises';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow, type Child } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { killAllOf } from './end-of-a-machine.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const READY = 'TINY READY';
const start = ['start', 'tiny', '--accel', 'tcg'];
const booted = [...start, '--wait-for', READY, '--wait-seconds', '240'];
/** On the system disk, past what the image uses. */
const AT_SECTOR = 90_000;
let fixture: RepositoryFixture;
let person: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  person = await Person.temporary();
  await person.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await person.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
});
afterAll(async () => {
  await person[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

const withConsole = async <T>(work: (console: Child) => Promise<T>): Promise<T> => {
  await using console = person.spawn(['console', 'tiny']);
  return await work(console);
};

/** Types a command and waits for what it prints; the pattern must not be in the command. */
const onConsole = async (command: string, expected: RegExp): Promise<void> =>
  askConsole(person, 'tiny', { command, expected });

const counted = (text: string): number[] => [...text.matchAll(/n=(\d+)\r/g)].map((match) => Number(match[1]));

/** A shell that counts in memory and says so; a new one would begin at 1. */
const count = async (): Promise<void> =>
  onConsole('i=0; while true; do i=$((i+1)); echo n""=$i; sleep 0.2; done', /n=20\r/);

/** It counts on: from 20 at least, and without a step that is missing or made twice. */
const countsOn = async (): Promise<void> =>
  withConsole(async (console) => {
    const numbers = await eventually('the counter goes on', 240_000, async () => {
      const found = counted(console.stdout);
      return found.length > 8 ? found : undefined;
    });
    expect(numbers[0]).toBeGreaterThanOrEqual(20);
    expect(numbers).toEqual(numbers.map((_, index) => (numbers[0] ?? 0) + index));
    // A ^C between two programs of the loop reaches neither.
    const again = setInterval(() => console.process.stdin?.write('\x03'), 2_000);
    console.process.stdin?.write('\x03');
    await console.waitFor(/\^C\s+tiny# /).finally(() => clearInterval(again));
  });

/** What a restart of the computer makes of an overlay: the live maps are of another boot, and not believed. Gives how many there were. */
const asAfterReboot = async (): Promise<number> => {
  const folder = path.join(person.home, 'machines', 'tiny');
  const maps = (await readdir(folder, { recursive: true })).filter((name) => path.basename(name) === 'live');
  for (const name of maps) {
    const file = await open(path.join(folder, name), 'r+');
    const header = Buffer.alloc(4_096); // docs/formats/overlay.md
    await file.read(header, 0, header.length, 0);
    header.fill(0, 40, 80).write('another-boot', 40, 'latin1');
    header.writeUInt32LE(crc32(header.subarray(0, 4_092)), 4_092);
    await file.write(header, 0, header.length, 0);
    await file.close();
  }
  return maps.length;
};

it('suspend leaves a machine that status shows, that stop does not throw away, and that start goes on with', async () => {
  await person.json(booted);
  await onConsole(
    `echo kept >/home/kept; echo on-system | dd of=/dev/vda bs=512 seek=${AT_SECTOR} conv=notrunc 2>/dev/null; sync; echo syn""ced`,
    /synced/,
  );
  await count();
  expect(await person.json(['suspend', 'tiny'])).toEqual(['tiny']);
  const { machines } = await person.json(['status']);
  expect(machines).toMatchObject([{ name: 'tiny', version: 1, state: 'suspended' }]);
  expect((await person.run(['status'])).stdout).toMatch(/tiny.*suspended/);
  expect(errorOf(await person.run(['stop', 'tiny', '--json']))).toMatchObject({ code: 'suspended' });
  expect(await person.json(start)).toMatchObject([{ name: 'tiny', version: 1, resumed: true }]);
  await countsOn();
});

it('a suspended machine goes on after a restart of the computer: no process is left, live maps are not believed, its disks are right', async () => {
  await count();
  await person.json(['suspend', 'tiny']);
  expect(await killAllOf(person.home)).toEqual(expect.arrayContaining(['blockd', 'supervisor']));
  // Of each disk one; of the person's one more when what was written has been sealed.
  expect(await asAfterReboot()).toBeGreaterThanOrEqual(2);
  const { machines } = await person.json(['appliances']).then(async () => person.json(['status']));
  expect(machines).toMatchObject([{ name: 'tiny', state: 'suspended' }]);
  expect(await person.json(start)).toMatchObject([{ name: 'tiny', resumed: true }]);
  await countsOn();
  await onConsole(
    `echo 3 >/proc/sys/vm/drop_caches; cat /home/kept; dd if=/dev/vda bs=512 skip=${AT_SECTOR} count=1 2>/dev/null | tr -d '\\000'; echo do""ne`,
    /kept\s+on-system\s+done/,
  );
});

it('start --fresh throws the memory away and says so, and keeps the disk of the person', async () => {
  await count();
  await person.json(['suspend', 'tiny']);
  const result = await person.run([...booted, '--fresh']);
  expect([result.code, result.stderr]).toEqual([0, expect.stringMatching(/memory of tiny.*thrown away/)]);
  await onConsole(`echo i""s=\${i:-new}; cat /home/kept`, /is=new\s+kept/);
  expect((await person.json(['status']))['machines']).toMatchObject([{ name: 'tiny', state: 'running' }]);
});

it('stop --discard throws the memory away, and the next start begins anew', async () => {
  await person.json(['suspend', 'tiny']);
  expect(await person.json(['stop', 'tiny', '--discard'])).toEqual(['tiny']);
  expect((await person.json(['status']))['machines']).not.toMatchObject([{ state: 'suspended' }]);
  await expect(readdir(path.join(person.home, 'machines', 'tiny', 'memory'))).rejects.toMatchObject({ code: 'ENOENT' });
  const [started] = (await person.json(start)) as unknown as { readonly name: string; readonly resumed?: boolean }[];
  expect([started?.name, started?.resumed]).toEqual(['tiny', undefined]);
});
