/**
 * The repository's disk gets full while a person's machine runs: the status says so in words, the guest notices nothing, what it writes
 * stays here; when there is room again it is saved without anybody's doing, and the server's check finds nothing wrong.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { Child, run, runOrThrow } from '../support/child.js';
import { Person, repositoryCommand } from '../support/collective.js';
import { ConsoleShell } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, COLLECTIVE_REPOSITORY, ROOT } from '../support/paths.js';

/** A user and mount namespace of one's own: needs no root where the kernel lets people make one. */
const NAMESPACE = ['-rm', '--propagation', 'private'];
const canMount = (await run('unshare', [...NAMESPACE, 'mount', '-t', 'tmpfs', 'none', '/mnt'])).code === 0;

const DISK_BYTES = 512 << 20;
const STEP_MS = 300_000;

type Data = {
  readonly savedAt: number | null;
  readonly unsavedBytes: number;
  readonly activity: string;
  readonly why?: string;
};

it.runIf(canMount)(
  'the server’s disk is full: status says so, nothing is lost, and it goes on by itself when there is room',
  async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'full-server-'));
    const tiny = path.join(BUILD, 'images', 'tiny');
    await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), tiny], { timeoutMs: STEP_MS });
    // Made outside, where commands reach it, and served from a small file system that only the server and its children see.
    const [made, small] = [path.join(folder, 'made'), path.join(folder, 'small')];
    await repositoryCommand(['init', made]);
    const { joinLink } = await repositoryCommand(['invite', made, 'pat', '--role', 'publisher']);
    const script = `mkdir "$2" && mount -t tmpfs -o size=${DISK_BYTES},mode=700 none "$2" && cp -a "$1" "$2/r" && exec "$3" "$4" serve "$2/r" --listen 127.0.0.1:0 --log-level warn --json`;
    await using server = new Child('repository on a small disk', 'unshare', [
      ...[...NAMESPACE, 'sh', '-c', script, 'sh', made, small, process.execPath, COLLECTIVE_REPOSITORY],
    ]);
    const [line = ''] = await server.waitFor(/^\{.*"origin".*\}$/m);
    const { origin } = JSON.parse(line) as { readonly origin: string };
    const pid = server.process.pid ?? 0;
    /** Runs a program where the small file system is seen. */
    const inside = async (...words: readonly string[]): Promise<string> => {
      const enter = ['-t', String(pid), '-U', '-m', '--preserve-credentials'];
      return (await runOrThrow('nsenter', [...enter, ...words], { timeoutMs: STEP_MS })).stdout;
    };
    const insideRepository = async (...words: readonly string[]): Promise<unknown> =>
      JSON.parse(await inside(process.execPath, COLLECTIVE_REPOSITORY, ...words, '--json'));
    const filling = path.join(small, 'filling');
    await using person = await Person.temporary();
    await person.login(String(joinLink).replace(/^http:\/\/[^/]+/, origin), 'pat');
    const guest = new ConsoleShell(person, 'tiny');
    const dataOf = async (): Promise<Data> => {
      const { machines } = (await person.json(['status'])) as unknown as {
        readonly machines: readonly { readonly name: string; readonly data?: Data }[];
      };
      const data = machines.find(({ name }) => name === 'tiny')?.data;
      if (data === undefined) throw new Error(`no data in the status: ${JSON.stringify(machines)}`);
      return data;
    };
    try {
      await insideRepository('trust', 'allow', path.join(small, 'r'), 'pat', 'tiny');
      await person.json(['publish', 'tiny', '--machine', path.join(tiny, 'appliance.json'), '--no-boot-test'], {
        timeoutMs: STEP_MS,
      });
      await person.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240'], {
        timeoutMs: STEP_MS,
      });
      await guest.ask('echo before >/home/file; sync');
      const first = (await person.json(['snapshots', 'take', 'tiny'], { timeoutMs: STEP_MS }))['number'];

      // Somebody else's files, to the last byte: neither chunks nor the catalogue can be written.
      await inside('sh', '-c', 'cat /dev/zero >"$1" 2>/dev/null || true', 'sh', filling);
      await guest.ask('dd if=/dev/urandom of=/home/big bs=65536 count=32 2>/dev/null; echo during >/home/file; sync');
      const sum = await guest.ask('md5sum /home/big');
      const taken = await person.run(['snapshots', 'take', 'tiny', '--json'], { timeoutMs: STEP_MS });
      expect(JSON.parse(taken.stdout)).toMatchObject({
        error: { code: 'unsaved', message: expect.stringMatching(/repository-full/) },
      });
      // Once a minute it is just trying again.
      const full = await eventually('status says so', STEP_MS, async () => {
        const now = await dataOf();
        return now.activity === 'waiting' ? now : undefined;
      });
      expect(full.why).toBe('The disk of the repository is full.');
      expect(full.unsavedBytes).toBeGreaterThan(2 << 20);
      await eventually('status says so to people', STEP_MS, async () =>
        /still here \(waits: The disk of the repository is full/.test((await person.run(['status'])).stdout)
          ? true
          : undefined,
      );

      // Nobody asks for it: the backup tries again by itself within a minute.
      await inside('rm', filling);
      await eventually('it goes on by itself', STEP_MS, async () => {
        const { unsavedBytes, activity } = await dataOf();
        return activity === 'idle' && unsavedBytes < 1 << 20 ? true : undefined;
      });
      expect(await guest.ask('echo 3 >/proc/sys/vm/drop_caches; md5sum /home/big')).toBe(sum);
      await person.json(['stop', 'tiny'], { timeoutMs: STEP_MS });
      await eventually('everything is saved', STEP_MS, async () =>
        (await dataOf()).unsavedBytes === 0 ? true : undefined,
      );
      expect(await insideRepository('check', path.join(small, 'r'))).toMatchObject({ ok: true, problems: [] });
      const { snapshots } = (await person.json(['snapshots', 'tiny'])) as unknown as {
        readonly snapshots: readonly { readonly number: number }[];
      };
      expect(snapshots.length).toBeGreaterThanOrEqual(2);
      expect(snapshots.at(-1)?.number).toBeLessThanOrEqual(Number(first));

      // From the server alone.
      await using second = await Person.temporary();
      await second.login(
        String(joinLink)
          .replace(/^http:\/\/[^/]+/, origin)
          .replace(/\.invite\..*$/, ''),
        'pat',
      );
      await second.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240'], {
        timeoutMs: STEP_MS,
      });
      const there = new ConsoleShell(second, 'tiny');
      expect(await there.ask('cat /home/file')).toBe('during');
      expect(await there.ask('md5sum /home/big')).toBe(sum);
    } finally {
      await person.end();
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    }
  },
  1_800_000,
);
