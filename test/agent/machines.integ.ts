/**
 * Machines by the command line, against a real repository, a real supervisor and a real (tiny) guest: publish with its
 * boot test, start, console, an agent that is killed in mid-boot, what stays and what does not, and working disconnected.
 */
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { PASSWORD, Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { writeImage } from './disk-images.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const READY = 'TINY READY';
let fixture: RepositoryFixture;
let person: Person;
let folder: string;
let image: string;
const start = ['start', 'tiny', '--accel', 'tcg', '--wait-for', READY, '--wait-seconds', '240'];

beforeAll(async () => {
  image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'machines-'));
  person = await Person.temporary();
  await person.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny', 'dead', 'export-tiny', 'boot-test-tiny');
});
afterAll(async () => {
  await person[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** Types a command on the serial console and waits for what it prints. */
const onConsole = async (command: string, expected: RegExp): Promise<void> =>
  askConsole(person, 'tiny', { command, expected });

it('a recipe is published: its images are found beside it, and it is booted once before it becomes a version', async () => {
  const reply = await person.json([
    'publish',
    'tiny',
    '--machine',
    path.join(image, 'appliance.json'),
    '--boot-text',
    READY,
    '--boot-seconds',
    '240',
  ]);
  expect(reply).toMatchObject({ name: 'tiny', version: 1 });
  // Nothing of the boot test is left.
  expect((await person.json(['status']))['machines']).toEqual([]);
});

it('an image that does not boot is refused, says what its console showed, and is not published', async () => {
  await writeImage(path.join(folder, 'dead.raw'), 16, (index) => index);
  const machine = path.join(folder, 'machine.json');
  const recipe = JSON.parse(await readFile(path.join(image, 'appliance.json'), 'utf8')) as { machine: object };
  await writeFile(machine, JSON.stringify(recipe.machine));
  const result = await person.run([
    'publish',
    'dead',
    '--disk',
    path.join(folder, 'dead.raw'),
    '--machine',
    machine,
    '--boot-seconds',
    '8',
    '--json',
  ]);
  expect(errorOf(result)).toMatchObject({ code: 'no-boot', exitCode: 9 });
  expect(result.stderr + result.stdout).toMatch(/It is running\./);
  const { appliances } = await person.json(['appliances']);
  expect((appliances as { name: string }[]).map(({ name }) => name)).toEqual(['tiny']);
  expect((await person.json(['status']))['machines']).toEqual([]);
});

it('it boots although the agent is killed in mid-boot, and status shows it', async () => {
  await person.json(['start', 'tiny', '--accel', 'tcg']);
  process.kill(((await person.json(['status']))['agent'] as { pid: number }).pid, 'SIGKILL');
  await onConsole('echo kept > /home/kept; echo lost > /lost; sync; echo written-$((40 + 2))', /written-42/);
  const status = await person.json(['status']);
  expect(status['machines']).toMatchObject([{ name: 'tiny', version: 1, state: 'running' }]);
  expect(status['notes']).toContainEqual(expect.stringMatching(/^Not confined/));
  expect(Number((status['blockd'] as { cacheHits: number }).cacheHits)).toBeGreaterThan(0);
});

it('a supervisor that dies is started again by the agent, with nobody at the keyboard, and adopts the machine', async () => {
  const supervisorOf = async (): Promise<number | undefined> =>
    ((await person.json(['status']))['supervisor'] as { pid?: number }).pid;
  const first = await supervisorOf();
  if (first === undefined) throw new Error('no supervisor runs');
  process.kill(first, 'SIGKILL');
  await eventually('another supervisor', 240_000, async () => {
    const next = await supervisorOf();
    return next === first ? undefined : next;
  });
  await onConsole('echo adopted-$((40 + 2))', /adopted-42/);
  expect((await person.json(['status']))['machines']).toMatchObject([{ name: 'tiny', state: 'running' }]);
});

it('what runs is not started twice, and agent and supervisor stay while it runs', async () => {
  expect(errorOf(await person.run(['start', 'tiny', '--json']))).toMatchObject({ code: 'in-use', exitCode: 6 });
  expect(errorOf(await person.run(['shutdown', '--json']))).toMatchObject({ code: 'in-use', exitCode: 6 });
});

it('stop ends it; the next start has a fresh system disk and the same user disk, without the repository', async () => {
  expect(await person.json(['stop', 'tiny'])).toEqual(['tiny']);
  await fixture.server.process.stop('SIGKILL');
  try {
    await person.json(['logout']);
    expect(errorOf(await person.run(['start', 'tiny', '--json']))).toMatchObject({
      code: 'not-logged-in',
      exitCode: 3,
    });
    expect(await person.json(['login', '--password-stdin'], { input: `${PASSWORD}\n` })).toMatchObject({
      connected: false,
    });
    const started = (await person.json(start)) as unknown as { name: string; version: number; readyMs: number }[];
    expect(started).toMatchObject([{ name: 'tiny', version: 1 }]);
    await onConsole('cat /home/kept; ls /lost; echo looked-$((40 + 2))', /kept[\s\S]*No such file[\s\S]*looked-42/);
  } finally {
    await fixture.server.restart();
  }
  expect(await person.json(['stop', 'tiny', '--force'])).toEqual(['tiny']);
});

it('a disk is exported without a machine, and holds what was published', async () => {
  const socket = path.join(folder, 'export.sock');
  const child = person.spawn(['export', 'tiny', '--disk', 'system', '--socket', socket]);
  await child.waitFor(/Serving disk system of tiny@1/);
  await runOrThrow('qemu-img', [
    'compare',
    '-f',
    'raw',
    '-F',
    'raw',
    path.join(image, 'system.raw'),
    `nbd+unix:///?socket=${socket}`,
  ]);
  expect(errorOf(await person.run(['export', 'tiny', '--socket', socket, '--json']))).toMatchObject({
    code: 'exists',
    exitCode: 6,
  });
  const { code } = await child.stop('SIGINT');
  expect(code).toBe(0);
  expect(errorOf(await person.run(['export', 'tiny', '--disk', 'memory', '--socket', socket, '--json']))).toMatchObject(
    { code: 'not-found', exitCode: 5 },
  );
});

it('a writable export takes writes and throws them away', async () => {
  const socket = path.join(folder, 'writable.sock');
  const uri = `nbd+unix:///?socket=${socket}`;
  for (const round of [1, 2, 3]) {
    const child = person.spawn(['export', 'tiny', '--socket', socket, '--writable']);
    await child.waitFor(/Serving/);
    const before = await runOrThrow('qemu-img', [
      'compare',
      '-f',
      'raw',
      '-F',
      'raw',
      path.join(image, 'system.raw'),
      uri,
    ]);
    expect(before.code, `round ${String(round)}`).toBe(0);
    // Seen: the export before was still deleting its overlay, then deleted the socket, which was the next one's by then. So
    // there is something to delete, and a client that connects after it.
    await runOrThrow('qemu-io', ['-f', 'raw', '-c', 'write -P 77 1M 40M', '-c', 'read -P 77 1M 40M', uri]);
    await runOrThrow('nbdinfo', ['--size', uri]);
    await child.stop('SIGINT');
  }
});

it('machines with the names that exports and boot tests have go on when the next agent clears away what is left of those', async () => {
  const names = ['export-tiny', 'boot-test-tiny'];
  const recipe = ['--machine', path.join(image, 'appliance.json'), '--no-boot-test'];
  for (const name of names) await person.json(['publish', name, ...recipe]);
  await person.json(['start', ...names, '--accel', 'tcg']);
  // What a killed agent leaves: the export's folder and its session.
  const socket = path.join(folder, 'left.sock');
  await using exported = person.spawn(['export', 'tiny', '--socket', socket, '--json']);
  await exported.waitFor(/"serving":true/);
  process.kill(((await person.json(['status']))['agent'] as { pid: number }).pid, 'SIGKILL');
  await person.json(['appliances']);
  const machines = (await person.json(['status']))['machines'] as {
    readonly name: string;
    readonly state: string;
    readonly details: { readonly disks: readonly unknown[] };
  }[];
  for (const name of names) {
    const machine = machines.find((each) => each.name === name);
    expect([name, machine?.state, (machine?.details.disks.length ?? 0) > 0]).toEqual([name, 'running', true]);
  }
  await expect(readdir(path.join(person.home, 'exports'))).rejects.toMatchObject({ code: 'ENOENT' });
  await person.json(['stop', '--all', '--force']);
});

it('shutdown leaves no process behind', async () => {
  const { agent, supervisor } = (await person.json(['status'])) as unknown as {
    agent: { pid: number };
    supervisor: { pid: number };
  };
  await person.json(['shutdown']);
  for (const pid of [agent.pid, supervisor.pid]) {
    await eventually(`process ${String(pid)} is gone`, 120_000, async () => {
      try {
        process.kill(pid, 0);
        return undefined;
      } catch {
        return true;
      }
    });
  }
});
