/**
 * A version from its maintenance to its withdrawal, with a real guest: a change of the system disk survives a reboot and a
 * stop in `maintain`, is published as a candidate of which only the changed blocks are sent, is there for those who are
 * named and for nobody else, then for all, and is gone again when it is withdrawn. What an account gets is read from an
 * export: no guest is needed for that.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run, runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const READY = 'TINY READY';
const BLOCK_BYTES = 65_536;
/** Two blocks at the end of the disk, which the FAT file system has not used: one is overwritten, of the other one sector. */
const WHOLE_BLOCK = 766;
const TOUCHED_BLOCK = 760;
/** What is written there: the letter Z. */
const PATTERN = '0x5a';

let fixture: RepositoryFixture;
let folder: string;
let image: string;
let pat: Person;
let ursula: Person;
let otto: Person;
let admin: Person;

beforeAll(async () => {
  image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'maintain-'));
  [pat, ursula, otto, admin] = (await Promise.all([1, 2, 3, 4].map(async () => Person.temporary()))) as [
    Person,
    Person,
    Person,
    Person,
  ];
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  const recipe = path.join(image, 'appliance.json');
  await pat.json(['publish', 'tiny', '--machine', recipe, '--no-boot-test']);
  for (const [person, account] of [
    [ursula, 'ursula'],
    [otto, 'otto'],
  ] as const)
    await person.login(await fixture.server.invite(account, 'user', { appliances: ['tiny'] }), account);
  await admin.login(fixture.adminLink, 'admin');
});
afterAll(async () => {
  for (const person of [pat, ursula, otto, admin]) await person[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const onConsole = async (command: string, expected: RegExp, timeoutMs?: number): Promise<void> =>
  askConsole(pat, 'tiny-maintain', { command, expected, ...(timeoutMs === undefined ? {} : { timeoutMs }) });
const maintain = (...more: readonly string[]): Promise<Readonly<Record<string, unknown>>> =>
  pat.json(['maintain', 'tiny', '--accel', 'tcg', '--wait-for', READY, '--wait-seconds', '240', ...more]);
const publish = (...more: readonly string[]): readonly string[] => [
  'publish',
  'tiny',
  '--from-maintain',
  '--no-clean-up',
  '--yes',
  ...more,
];

/** Which version the account gets, and whether the change is in it. */
const gets = async (person: Person): Promise<{ readonly version: number; readonly isChanged: boolean }> => {
  const socket = path.join(folder, 'export.sock');
  const child = person.spawn(['export', 'tiny', '--socket', socket]);
  const [, version] = await child.waitFor(/Serving disk system of tiny@(\d+)/);
  const uri = `nbd+unix:///?socket=${socket}`;
  const reads = [
    `read -P ${PATTERN} ${String(WHOLE_BLOCK * BLOCK_BYTES)} ${String(BLOCK_BYTES)}`,
    `read -P ${PATTERN} ${String(TOUCHED_BLOCK * BLOCK_BYTES + 3 * 512)} 512`,
  ];
  const found: boolean[] = [];
  for (const read of reads) {
    const result = await run('qemu-io', ['-r', '-f', 'raw', '-c', read, uri]);
    found.push(result.code === 0 && !/verification failed/i.test(result.stdout));
  }
  await child.stop('SIGINT');
  expect(found[0]).toBe(found[1]);
  return { version: Number(version), isChanged: found[0] === true };
};

it('a change of the system survives a reboot, a stop, and an agent that dies', async () => {
  expect(await maintain()).toMatchObject({ machine: 'tiny-maintain', version: 1, goesOn: false });
  await onConsole(
    `tr '\\0' Z </dev/zero | head -c ${String(BLOCK_BYTES)} >/tmp/z && dd if=/tmp/z of=/dev/vda bs=${String(BLOCK_BYTES)} seek=${String(WHOLE_BLOCK)} 2>/dev/null && sync && echo wrote-$((40 + 2))`,
    /wrote-42/,
  );
  await onConsole('echo goes-$((40 + 2)); reboot', /goes-42/);
  await eventually('the guest has rebooted', 300_000, async () => {
    const { machines } = (await pat.json(['status'])) as {
      machines: readonly { name: string; state: string; details: { restarts: number } }[];
    };
    const machine = machines.find(({ name }) => name === 'tiny-maintain');
    return machine?.state === 'running' && machine.details.restarts === 1 ? true : undefined;
  });
  // The console has what the first guest said, too: only what the new one is asked counts.
  await eventually('the guest answers again', 300_000, async () => {
    try {
      return await onConsole('cut -d. -f1 /proc/uptime | sed s/^/up-/', /up-\d/, 15_000).then(() => true);
    } catch {
      return undefined;
    }
  });
  await onConsole(
    `dd if=/dev/vda bs=512 count=1 skip=${String(WHOLE_BLOCK * 128)} 2>/dev/null | tr -d Z | wc -c | sed 's/^/other-/'`,
    /other-0/,
  );
  await onConsole(
    `head -c 512 /dev/zero | tr '\\0' Z | dd of=/dev/vda bs=512 seek=${String(TOUCHED_BLOCK * 128 + 3)} 2>/dev/null && sync && echo wrote-$((41 + 2))`,
    /wrote-43/,
  );
  expect(errorOf(await pat.run(['maintain', 'tiny', '--json']))).toMatchObject({ code: 'in-use' });
  expect(errorOf(await pat.run(['start', 'tiny-maintain', '--json']))).toMatchObject({ code: 'usage' });
  await pat.json(['stop', 'tiny-maintain']);
  process.kill(((await pat.json(['status']))['agent'] as { pid: number }).pid, 'SIGKILL');
  // Stopped by hand: it has not been cleaned.
  expect(errorOf(await pat.run([...publish(), '--json']))).toMatchObject({ code: 'not-found' });
  expect(await maintain()).toMatchObject({ version: 1, goesOn: true });
});

it('it is published as a candidate: two changed blocks are sent, after it has booted once', async () => {
  const reply = await pat.json(publish('--for', 'ursula', '--boot-text', READY, '--boot-seconds', '240'), {
    timeoutMs: 400_000,
  });
  expect(reply).toMatchObject({ version: 2, candidate: true, changedBlocks: 2, usedBytes: 2 * BLOCK_BYTES });
  // A block of one letter, and one that had other content: with all that is said beside it, less than two blocks.
  expect(Number(reply['sentBytes'])).toBeLessThan(2 * BLOCK_BYTES);
  expect((await pat.json(['status']))['machines']).not.toContainEqual(
    expect.objectContaining({ name: 'tiny-maintain', state: 'running' }),
  );
  expect(await readdir(path.join(pat.home, 'machines'))).not.toContain('tiny-maintain');
  expect(await pat.json(['candidates', 'tiny'])).toEqual([{ name: 'tiny', version: 2, accounts: ['pat', 'ursula'] }]);
});

it('those who are named get it, nobody else does', async () => {
  expect(await gets(ursula)).toEqual({ version: 2, isChanged: true });
  expect(await gets(otto)).toEqual({ version: 1, isChanged: false });
  expect(errorOf(await otto.run(['start', 'tiny@2', '--json']))).toMatchObject({ code: 'not-found' });
  expect(await ursula.json(['update', 'tiny'])).toMatchObject({ updates: [{ newest: 2, isCandidate: true }] });
  expect(await otto.json(['update', 'tiny'])).toMatchObject({ updates: [{ newest: 1, isCandidate: false }] });
  expect(errorOf(await ursula.run(['promote', 'tiny@2', '--json']))).toMatchObject({ code: 'not-allowed' });
  await pat.json(['candidates', 'tiny', '--remove', 'ursula']);
  expect(await gets(ursula)).toEqual({ version: 1, isChanged: false });
});

it('promoted it is there for all; withdrawn it is the old state again, and nothing is sent for that', async () => {
  expect(await pat.json(['promote', 'tiny'])).toEqual({ name: 'tiny', version: 2 });
  expect(await gets(otto)).toEqual({ version: 2, isChanged: true });
  const reply = await pat.json(['withdraw', 'tiny']);
  expect(reply).toEqual({ name: 'tiny', withdrawn: 2, republished: { version: 3, from: 1 } });
  expect(await gets(otto)).toEqual({ version: 3, isChanged: false });
  expect(await gets(ursula)).toEqual({ version: 3, isChanged: false });
});

it('a mandatory version is announced, then an older one does not start', async () => {
  await admin.json(['mandatory', 'tiny@3', '--from', '2099-01-01', '--grace-days', '2']);
  expect(await otto.json(['update', 'tiny'])).toMatchObject({ updates: [{ mandatory: { version: 3, graceDays: 2 } }] });
  await admin.json(['mandatory', 'tiny@3', '--grace-days', '0']);
  expect(errorOf(await otto.run(['start', 'tiny@2', '--json']))).toMatchObject({ code: 'outdated', exitCode: 8 });
  expect(errorOf(await otto.run(['mandatory', 'tiny', '--off', '--json']))).toMatchObject({ code: 'not-allowed' });
  await fixture.server.process.stop('SIGKILL');
  expect(errorOf(await otto.run(['start', 'tiny@2', '--json']))).toMatchObject({ code: 'outdated' });
  await fixture.server.restart();
});

it('the repository finds nothing wrong afterwards', async () => {
  const { COLLECTIVE_REPOSITORY } = await import('../support/paths.js');
  const result = await run(process.execPath, [COLLECTIVE_REPOSITORY, 'check', fixture.folder]);
  expect(result.code, result.stdout + result.stderr).toBe(0);
});
