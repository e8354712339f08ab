/**
 * A person's data by the command line, against a real repository and a real (tiny) guest: what is written is saved by itself, an old state
 * comes back and goes again, one file of an old state is looked at without undoing anything, and another transceiver has the newest state.
 */
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const READY = 'TINY READY';
const start = ['start', 'tiny', '--accel', 'tcg', '--wait-for', READY, '--wait-seconds', '240'];
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
});
afterAll(async () => {
  await person[Symbol.asyncDispose]();
  await second[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

/** Types a command and waits for what it prints; the pattern must not be in the command. */
const onConsole = async (who: Person, command: string, expected: RegExp, machine = 'tiny'): Promise<void> =>
  askConsole(who, machine, { command, expected });

type Data = {
  readonly savedAt: number | null;
  readonly unsavedBytes: number;
  readonly activity: string;
  readonly why?: string;
};
const dataOf = async (who: Person, wanted: string): Promise<Data> => {
  const { machines } = (await who.json(['status'])) as unknown as {
    readonly machines: readonly { readonly name: string; readonly data?: Data }[];
  };
  const data = machines.find(({ name }) => name === wanted)?.data;
  if (data === undefined) throw new Error(`status says nothing of the data: ${JSON.stringify(machines)}`);
  return data;
};
const isSaved = async (who: Person, name = 'tiny'): Promise<void> => {
  await eventually('everything is saved', 240_000, async () => {
    const { savedAt, unsavedBytes, activity } = await dataOf(who, name);
    return savedAt !== null && unsavedBytes === 0 && activity === 'idle' ? true : undefined;
  });
};

type Row = { readonly number: number; readonly reason: string; readonly isHead: boolean };
const rowsOf = async (who: Person): Promise<readonly Row[]> =>
  ((await who.json(['snapshots', 'tiny'])) as unknown as { readonly snapshots: readonly Row[] }).snapshots;

it('the first start makes a subscription; what is asked for is saved, and only what has changed is sent', async () => {
  await person.json(start);
  await onConsole(person, 'echo one >/home/file; sync; echo syn""ced', /synced/);
  const first = await person.json(['snapshots', 'take', 'tiny']);
  expect(first).toMatchObject({ name: 'tiny' });
  await onConsole(person, 'echo two >/home/file; sync; echo aga""in', /again/);
  const again = (await person.json(['snapshots', 'take', 'tiny'])) as {
    readonly number: number;
    readonly sentBytes: number;
  };
  expect(again.number).toBeGreaterThan(first['number'] as number);
  expect(again.sentBytes).toBeGreaterThan(0);
  expect(again.sentBytes).toBeLessThan(1 << 20);
  const rows = await rowsOf(person);
  expect(rows[0]).toMatchObject({ number: again.number, reason: 'request', isHead: true });
  expect(rows.at(-1)).toMatchObject({ number: 1, isHead: false });
});

it('one file of an old state is read by the running guest from a disk that is shown to it, and nothing is undone', async () => {
  const [, old] = (await rowsOf(person)).filter(({ reason }) => reason === 'request');
  const number = String(old?.number);
  await person.json(['snapshots', 'open', 'tiny', number]);
  await onConsole(
    person,
    'mkdir -p /old; for d in /dev/vd[c-z] /dev/sd*; do mount -o ro,noload $d /old 2>/dev/null && break; done; echo "was $(cat /old/file) is $(cat /home/file)"; umount /old',
    /was one is two/,
  );
  expect(errorOf(await person.run(['suspend', 'tiny', '--json']))).toMatchObject({ code: 'in-use' });
  await person.json(['snapshots', 'close', 'tiny', number]);
  await onConsole(person, 'ls /sys/block; echo list""ed', /listed/);
});

it('what is written is saved by itself at the stop, and the disk is the same at the next start', async () => {
  await onConsole(person, 'echo three >/home/file; sync; echo syn""ced3', /synced3/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
  // The time may have come for a periodic one right before.
  expect((await rowsOf(person))[0]).toMatchObject({ reason: expect.stringMatching(/^(stop|periodic)$/), isHead: true });
  await person.json(start);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is three/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
});

it('an undo brings an old state back, and can be undone', async () => {
  const rows = await rowsOf(person);
  const old = rows.filter(({ reason }) => reason === 'request').at(-1);
  const undone = (await person.json(['undo', 'tiny', String(old?.number)])) as { readonly before: number };
  expect(undone.before).toBe(rows[0]?.number);
  expect((await rowsOf(person))[0]).toMatchObject({ reason: 'undo', isHead: true });
  await person.json(start);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is one/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
  await person.json(['undo', 'tiny', String(undone.before)]);
  await person.json(start);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is three/);
});

it('another transceiver is told where it runs, and has the newest state when it is stopped there', async () => {
  await second.login(fixture.adminLink.replace(/\.invite\..*$/, ''), 'pat');
  expect(errorOf(await second.run([...start, '--json']))).toMatchObject({
    code: 'lease-held',
    message: expect.stringMatching(/tiny is in use on ".+" since/),
  });
  await onConsole(person, 'echo four >/home/file; sync; echo syn""ced4', /synced4/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
  await second.json(start);
  await onConsole(
    second,
    'echo "is $(cat /home/file)"; echo five >/home/file; sync; echo syn""ced5',
    /is four[^]*synced5/,
  );
  await second.json(['stop', 'tiny']);
  await isSaved(second);
  await person.json(start);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is five/);
  await person.json(['stop', 'tiny']);
});

it('reset keeps the disk; delete takes the name typed back, and removes it here', async () => {
  await isSaved(person);
  await person.json(['reset', 'tiny']);
  await person.json(start);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is five/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
  await person.json(['delete', 'tiny', '--yes']);
  expect(errorOf(await person.run(['snapshots', 'tiny', '--json']))).toMatchObject({ code: 'not-found' });
  await person.json(start);
  await onConsole(person, 'cat /home/file; echo lo""oked', /No such file[^]*looked/);
  await person.json(['stop', 'tiny']);
  await isSaved(person);
});

it('what was deleted is brought back beside what has its name now, and every device shows both', async () => {
  expect((await person.json(['appliances', '--deleted']))['deleted']).toMatchObject([{ name: 'tiny' }]);
  expect(await person.json(['restore', 'tiny'])).toEqual({ name: 'tiny-2' });
  const namesOn = async (who: Person): Promise<readonly string[]> => {
    const { subscriptions } = (await who.json(['appliances'])) as unknown as {
      readonly subscriptions: readonly { readonly name: string; readonly appliance: string }[];
    };
    expect(subscriptions.every(({ appliance }) => appliance === 'tiny')).toBe(true);
    return subscriptions.map(({ name }) => name).sort();
  };
  for (const who of [person, second]) expect(await namesOn(who)).toEqual(['tiny', 'tiny-2']);
  await person.json(['start', 'tiny-2', ...start.slice(2)]);
  await onConsole(person, 'echo "is $(cat /home/file)"', /is five/, 'tiny-2');
  await person.json(['stop', 'tiny-2']);
  // Until then it is in use there.
  await isSaved(person, 'tiny-2');
});

it('a device that has what is called something else now follows, and says so', async () => {
  // It had the deleted one as tiny.
  expect(errorOf(await second.run([...start, '--json']))).toMatchObject({
    code: 'conflict',
    message: expect.stringMatching(/What was tiny on this machine is tiny-2 now/),
  });
  await second.json(['start', 'tiny-2', ...start.slice(2)]);
  await onConsole(second, 'echo "is $(cat /home/file)"', /is five/, 'tiny-2');
  await second.json(['stop', 'tiny-2']);
});
