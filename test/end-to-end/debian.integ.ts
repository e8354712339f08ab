/**
 * The main job with the real appliance, by the command lines alone: Debian published, booted cold through the emulated link
 * with the link going down in mid-boot, booted again while agent and block daemon are killed, stopped in an outage; and
 * `npm start` itself. Debian's journal and fsck are the judges of what the guest saw.
 */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { expectNoDiskErrors } from '../outages/disk-errors.js';
import { liveThrough } from '../outages/live-through.js';
import { runOrThrow } from '../support/child.js';
import type { Person } from '../support/collective.js';
import { bytesFetched, DEBIAN, DEBIAN_OPEN_MS, DebianRepository, debianOf } from '../support/debian.js';
import { eventually } from '../support/eventually.js';
import { freePort, Link } from '../support/link.js';
import { ROOT } from '../support/paths.js';
import { withinTime } from '../support/promise-time.js';

const OUTAGE_MS = 60_000;
const BOOT_MS = 400_000;
const GOES_ON_MS_MAX = 30_000;

let debian: DebianRepository;

/** Logs in on the serial console and runs a command; resolves with what it printed. */
const inGuest = async (person: Person, command: string): Promise<string> => {
  await using console = person.spawn(['console', DEBIAN]);
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

/** Command lines of processes that belong to a home. */
const processesOf = async (home: string): Promise<string[]> => {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return lines.filter((line) => line.includes(home)).map((line) => line.replaceAll('\0', ' '));
};

beforeAll(async () => {
  debian = await DebianRepository.open();
}, DEBIAN_OPEN_MS);

afterAll(async () => {
  await debian[Symbol.asyncDispose]();
});

it('the link goes down for a minute in mid-boot: status says why, the boot finishes by itself, and no disk error is in the journal; then agent and block daemon are killed in mid-boot', async () => {
  await using link = await Link.open({ toPort: debian.repository.port, profile: 'lan' });
  await using person = await debian.person('paula', link);
  await using starting = person.spawn(['start', DEBIAN, '--wait-for', 'login', '--json']);
  // Kernel and initrd are 15 MB of it: at 6 MB the guest is in its boot loader.
  await eventually('6 MB fetched', BOOT_MS, async () => ((await bytesFetched(person)) > 6e6 ? true : undefined));
  const lived = await liveThrough(person, link, { kind: 'reset', outageMs: OUTAGE_MS });
  expect(lived.pausedWhy).toMatch(/block \d+|repository/i);
  expect(lived.goesOnAfterMs).toBeLessThan(GOES_ON_MS_MAX);
  using watch = person.watchGuests();
  const { code, stderr } = await starting.exit();
  expect(code, `${stderr}\n${watch.text}`).toBe(0);
  expectNoDiskErrors(await inGuest(person, 'journalctl -b -k --no-pager | cat; echo kept > /home/kept; sync'));
  await person.json(['stop', DEBIAN]);

  // Again, from the cache, with everything of ours but the supervisor killed in mid-boot.
  await person.json(['start', DEBIAN]);
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
  expectNoDiskErrors(text);
  expect(text).toMatch(/^kept/m);
  await person.json(['stop', DEBIAN]);
  expect(await processesOf(person.home).then((lines) => lines.filter((line) => line.includes('qemu-system')))).toEqual(
    [],
  );
}, 1_500_000);

it('stop in an outage answers within 1 s and leaves no machine', async () => {
  await using link = await Link.open({ toPort: debian.repository.port, profile: 'lan' });
  await using person = await debian.person('peter', link);
  await person.json(['start', DEBIAN]);
  await eventually('3 MB fetched', BOOT_MS, async () => ((await bytesFetched(person)) > 3e6 ? true : undefined));
  link.silence();
  await eventually('paused', 120_000, async () => ((await debianOf(person))?.state === 'paused' ? true : undefined));
  // The command's own start (loading Node) is in it, too.
  await withinTime('stop', 1_000, () => person.json(['stop', DEBIAN]));
  expect((await debianOf(person))?.state ?? 'stopped').toBe('stopped');
}, 900_000);

it('npm start does the main job on an empty folder, a second time from the cache, and leaves no process behind', async () => {
  const demo = path.join(debian.folder, 'demo');
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
