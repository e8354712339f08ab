/**
 * A machine is suspended, another transceiver takes it over and writes, and the person says that it goes on where it was suspended: its memory
 * is still good, its guest goes on with what it had, and what the other one saved stays among the snapshots.
 */
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const start = ['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240'];
let fixture: RepositoryFixture;
let person: Person;
let second: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  person = await Person.temporary();
  second = await Person.temporary();
  await person.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await person.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  await second.login(fixture.adminLink.replace(/\.invite\..*$/, ''), 'pat');
});
afterAll(async () => {
  for (const each of [person, second, fixture]) await each[Symbol.asyncDispose]();
});

/** Types a command and waits for what it prints; the pattern must not be in the command. */
const onConsole = async (who: Person, command: string, expected: RegExp): Promise<void> =>
  askConsole(who, 'tiny', { command, expected });

type Machine = { readonly name: string; readonly state: string; readonly data?: Readonly<Record<string, unknown>> };
const machineOf = async (who: Person): Promise<Machine | undefined> => {
  const { machines } = (await who.json(['status'])) as unknown as { readonly machines: readonly Machine[] };
  return machines.find(({ name }) => name === 'tiny');
};
const isSaved = async (who: Person): Promise<void> =>
  void (await eventually('everything is saved', 240_000, async () => {
    const data = (await machineOf(who))?.data;
    return data?.['unsavedBytes'] === 0 && data['activity'] === 'idle' && data['savedAt'] !== null ? true : undefined;
  }));

let othersHead = 0;

it('is suspended, and another one takes it over and saves', async () => {
  await person.json(start);
  await onConsole(person, 'echo one >/home/file; sync; echo kept >/tmp/inmemory; echo syn""ced', /synced/);
  await person.json(['snapshots', 'take', 'tiny']);
  await onConsole(person, 'echo two >/home/file; sync; echo syn""ced2', /synced2/);
  await person.json(['suspend', 'tiny']);

  await second.json([...start, '--take-over']);
  await onConsole(second, 'echo other >/home/other; sync; echo syn""ced3', /synced3/);
  await second.json(['stop', 'tiny']);
  await isSaved(second);
  const others = (await second.json(['snapshots', 'tiny'])) as unknown as { readonly snapshots: { number: number }[] };
  othersHead = others.snapshots[0]?.number ?? 0;
  // Three guests' worth of starting and stopping on a machine that is busy with other things took 240 s.
}, 600_000);

it('is apart, and the person lets it go on here: it stays suspended', async () => {
  await eventually('the first one has learnt of it', 240_000, async () =>
    (await machineOf(person))?.data?.['activity'] === 'apart' ? true : undefined,
  );
  expect(errorOf(await person.run(['continue', 'tiny', '--both', '--json']))).toMatchObject({ code: 'suspended' });
  expect(await person.json(['continue', 'tiny', '--here'])).toEqual({ name: 'tiny' });
  expect(await machineOf(person)).toMatchObject({ state: 'suspended' });
});

it('is resumed with its memory and its disk as they were, and saved; nothing of the other one is lost', async () => {
  await person.json(['start', 'tiny']);
  await onConsole(
    person,
    'echo "is $(cat /home/file) $(cat /tmp/inmemory)"; ls /home/other',
    /is two kept[^]*No such file/,
  );
  await person.json(['stop', 'tiny']);
  await isSaved(person);
  const { snapshots } = (await person.json(['snapshots', 'tiny'])) as unknown as {
    readonly snapshots: readonly { readonly number: number; readonly pinned: boolean; readonly isHead: boolean }[];
  };
  expect(snapshots.find(({ isHead }) => isHead)?.number).toBeGreaterThan(othersHead);
  expect(snapshots.find(({ number }) => number === othersHead)).toMatchObject({ pinned: true });
  await second.json(start);
  await onConsole(second, 'echo "is $(cat /home/file)"', /is two/);
  await second.json(['stop', 'tiny']);
});
