/**
 * The main job with the real appliance, by the command lines alone: Debian published, booted cold through the emulated link
 * with the link going down in mid-boot, booted again while agent and block daemon are killed, stopped in an outage; and
 * `npm start` itself. Debian's journal and fsck are the judges of what the guest saw.
 */
import { readdir, readFile } from 'node:fs/promises';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow, type Child } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { freePort, Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { withinTime } from '../support/promise-time.js';

const NAME = 'debian-server';
const OUTAGE_MS = 60_000;
const BOOT_MS = 400_000;

type MachineRow = { readonly name: string; readonly state: string; readonly pausedWhy?: string };

let folder: string;
let repository: Repository;

const machineOf = async (person: Person): Promise<MachineRow | undefined> =>
  ((await person.json(['status']))['machines'] as readonly MachineRow[]).find(({ name }) => name === NAME);

const bytesFetched = async (person: Person): Promise<number> =>
  ((await person.json(['status']))['blockd'] as { readonly fetchedBytes?: number }).fetchedBytes ?? 0;

const startAndWait = (person: Person): Child => person.spawn(['start', NAME, '--wait-for', 'login', '--json']);

/** Logs in on the serial console and runs a command; resolves with what it printed. */
const inGuest = async (person: Person, command: string): Promise<string> => {
  await using console = person.spawn(['console', NAME]);
  console.process.stdin?.write('\n');
  await console.waitFor(/login: /);
  console.process.stdin?.write('root\n');
  await console.waitFor(/Password: /);
  console.process.stdin?.write('collective\n');
  await console.waitFor(/# /);
  console.process.stdin?.write(`${command}; echo "end-of-$((6 * 7))"\n`);
  await console.waitFor(/end-of-42/);
  const text = console.stdout;
  console.process.stdin?.write('exit\n');
  return text;
};

const noDiskErrors = (journal: string): void => {
  expect(journal).not.toMatch(
    /I\/O error|blk_update_request|Buffer I\/O|EXT4-fs error|task .* blocked for more than|virtio.*timeout/i,
  );
};

/** Command lines of processes that belong to a home. */
const processesOf = async (home: string): Promise<string[]> => {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return lines.filter((line) => line.includes(home)).map((line) => line.replaceAll('\0', ' '));
};

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'debian-'));
  const out = path.join(BUILD, 'images', NAME);
  await runOrThrow('bash', [path.join(ROOT, 'images', NAME, 'build.sh'), out], { timeoutMs: 900_000 });
  await repositoryCommand(['init', path.join(folder, 'repository')]);
  repository = await Repository.serve(path.join(folder, 'repository'));
  await using publisher = await Person.temporary();
  await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher');
  await repository.allow('publisher', NAME);
  await publisher.json(['publish', NAME, '--machine', path.join(out, 'appliance.json'), '--no-boot-test'], {
    timeoutMs: 600_000,
  });
}, 1_800_000);

afterAll(async () => {
  await repository[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

it('the link goes down for a minute in mid-boot: status says why, the boot finishes by itself, and no disk error is in the journal; then agent and block daemon are killed in mid-boot', async () => {
  const link = await Link.open({ toPort: repository.port, profile: 'lan' });
  await using person = await Person.temporary();
  try {
    await person.login(
      await repository.invite('paula', 'user', { appliances: [NAME], throughPort: link.port }),
      'paula',
    );
    await using starting = startAndWait(person);
    // Kernel and initrd are 15 MB of it: at 6 MB the guest is in its boot loader.
    await eventually('6 MB fetched', BOOT_MS, async () => ((await bytesFetched(person)) > 6e6 ? true : undefined));
    link.down();
    const downAt = performance.now();
    const paused = await eventually('paused', 120_000, async () => {
      const machine = await machineOf(person);
      return machine?.state === 'paused' ? machine : undefined;
    });
    expect(paused.pausedWhy).toMatch(/block \d+|repository/i);
    await eventually('a minute of outage', OUTAGE_MS + 60_000, async () =>
      performance.now() - downAt >= OUTAGE_MS ? true : undefined,
    );
    expect((await machineOf(person))?.state).toBe('paused');
    link.up();
    await eventually('running again', 120_000, async () =>
      (await machineOf(person))?.state === 'running' ? true : undefined,
    );
    expect((await starting.exit()).code).toBe(0);
    noDiskErrors(await inGuest(person, 'journalctl -b -k --no-pager | cat; echo kept > /home/kept; sync'));
    await person.json(['stop', NAME]);

    // Again, from the cache, with everything of ours but the supervisor killed in mid-boot.
    await person.json(['start', NAME]);
    const { agent } = (await person.json(['status'])) as unknown as { agent: { pid: number } };
    const blockd = await eventually('blockd', 120_000, async () => {
      for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
        const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
        if (line.includes('blockd/main.js') && line.includes(person.home)) return Number(pid);
      }
      return undefined;
    });
    process.kill(agent.pid, 'SIGKILL');
    process.kill(blockd, 'SIGKILL');
    const text = await eventually(
      'login prompt after the kills',
      BOOT_MS,
      async () =>
        await inGuest(person, 'journalctl -b -k --no-pager | cat; cat /home/kept; systemctl is-system-running').catch(
          () => undefined,
        ),
    );
    noDiskErrors(text);
    expect(text).toMatch(/^kept/m);
    await person.json(['stop', NAME]);
    expect(
      await processesOf(person.home).then((lines) => lines.filter((line) => line.includes('qemu-system'))),
    ).toEqual([]);
  } finally {
    await link[Symbol.asyncDispose]();
  }
}, 1_500_000);

it('stop in an outage answers within 1 s and leaves no machine', async () => {
  const link = await Link.open({ toPort: repository.port, profile: 'lan' });
  await using person = await Person.temporary();
  try {
    await person.login(
      await repository.invite('peter', 'user', { appliances: [NAME], throughPort: link.port }),
      'peter',
    );
    await person.json(['start', NAME]);
    await eventually('3 MB fetched', BOOT_MS, async () => ((await bytesFetched(person)) > 3e6 ? true : undefined));
    link.silence();
    await eventually('paused', 120_000, async () => ((await machineOf(person))?.state === 'paused' ? true : undefined));
    // The command's own start (loading Node) is in it, too.
    await withinTime('stop', 1_000, () => person.json(['stop', NAME]));
    expect((await machineOf(person))?.state ?? 'stopped').toBe('stopped');
  } finally {
    await link[Symbol.asyncDispose]();
  }
}, 900_000);

it('npm start does the main job on an empty folder, a second time from the cache, and leaves no process behind', async () => {
  const demo = path.join(folder, 'demo');
  const env = { ...process.env, COLLECTIVE_DEMO: demo, COLLECTIVE_DEMO_PORT: String(await freePort()) };
  const first = await runOrThrow(process.execPath, [path.join(ROOT, 'test/dist/demo/main.js'), '--once'], {
    env,
    timeoutMs: 900_000,
  });
  expect(first.stdout).toMatch(/is at its login prompt after/);
  expect(first.stdout).toMatch(
    /fetched +\d+\.\d MB from http.* by this start[^]*\d\d\.\d MB before it, by the boot test/,
  );
  expect(await processesOf(demo)).toEqual([]);
  const second = await runOrThrow(process.execPath, [path.join(ROOT, 'test/dist/demo/main.js'), '--once'], {
    env,
    timeoutMs: 900_000,
  });
  expect(second.stdout).not.toMatch(/Publishing/);
  expect(second.stdout).toMatch(/everything was in the cache|fetched +[0-3]\.\d MB/);
  expect(await processesOf(demo)).toEqual([]);
}, 1_900_000);
