/**
 * A new version is started, and a suspended machine resumed, on a local disk that is full, to the last byte or but for a little: the start is
 * refused with what is missing, or goes through, and whatever it had begun by then, the machine is what it was. With room again the new version
 * starts with what the person wrote, and what the older one left is pinned. A file system of its own, really full; a real guest.
 */
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, open, rm, statfs, truncate } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run, runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { ConsoleShell } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { homeEndsWithUs, homeHasEnded } from '../support/leftovers.js';
import { BUILD, ROOT } from '../support/paths.js';
import { errorOf, RepositoryFixture } from './repository-fixture.js';

const DISK_BYTES = 768 << 20;
const STEP_MS = 300_000;
/** What is left free, a new version each. */
const FREE_BYTES = [0, 4_096, 16_384, 262_144, 1 << 20];

const probe = await mkdtemp(path.join(os.tmpdir(), 'full-disk-'));
const mount = async (): Promise<boolean> =>
  (await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES},mode=700`, 'none', probe])).code === 0;
const unmount = (): unknown => spawnSync('umount', ['-l', probe]);
const canMount = await mount();
if (canMount) unmount();

/** Undefined until `beforeAll` has made them. */
let fixture: RepositoryFixture;
let publisher: Person;
let person: Person;
let guest: ConsoleShell;
const home = path.join(probe, 'home');
const filling = path.join(probe, 'filling');

/** Everything but so many bytes, by somebody else's file. */
const fillBut = async (freeBytes: number): Promise<void> => {
  const file = await open(filling, 'w');
  try {
    const piece = Buffer.alloc(1 << 20, 1);
    let written = 0;
    for (let byteLength = piece.length; byteLength >= 4_096;) {
      try {
        written += (await file.write(piece, 0, byteLength, written)).bytesWritten;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        byteLength >>= 1;
      }
    }
    await file.truncate(written - freeBytes);
  } finally {
    await file.close();
  }
};

const start = async (): Promise<ReturnType<typeof errorOf> | undefined> => {
  const words = ['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240', '--json'];
  const result = await person.run(words, { timeoutMs: STEP_MS });
  return result.code === 0 ? undefined : errorOf(result);
};
const stop = async (): Promise<void> => {
  await person.json(['stop', 'tiny'], { timeoutMs: STEP_MS });
};
const publish = async (): Promise<void> => {
  const recipe = path.join(BUILD, 'images/tiny/appliance.json');
  await publisher.json(['publish', 'tiny', '--machine', recipe, '--no-boot-test'], { timeoutMs: STEP_MS });
};
const isSaved = async (): Promise<void> => {
  await eventually('everything is saved', STEP_MS, async () => {
    const { machines } = (await person.json(['status'])) as unknown as {
      readonly machines: readonly { readonly data?: { readonly unsavedBytes: number; readonly activity: string } }[];
    };
    const data = machines[0]?.data;
    return data?.unsavedBytes === 0 && data.activity === 'idle' ? true : undefined;
  });
};
const pinned = async (): Promise<number> => {
  const { snapshots } = (await person.json(['snapshots', 'tiny'])) as unknown as {
    readonly snapshots: readonly { readonly pinned: boolean }[];
  };
  return snapshots.filter((snapshot) => snapshot.pinned).length;
};

beforeAll(async () => {
  if (!canMount) return;
  process.once('exit', unmount);
  expect(await mount()).toBe(true);
  const tiny = path.join(BUILD, 'images/tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), tiny], { timeoutMs: STEP_MS });
  await mkdir(home, { mode: 0o700 });
  homeEndsWithUs(home);
  fixture = await RepositoryFixture.open();
  publisher = await Person.temporary();
  person = Person.at(home);
  guest = new ConsoleShell(person, 'tiny');
  await publisher.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await publish();
  await person.login(await fixture.server.invite('ursula', 'user', { appliances: ['tiny'] }), 'ursula');
});
afterAll(async () => {
  try {
    const made: readonly (AsyncDisposable | undefined)[] = [person, publisher, fixture];
    for (const each of made) await each?.[Symbol.asyncDispose]();
    homeHasEnded(home);
  } finally {
    if (canMount) unmount();
    await rm(probe, { recursive: true, force: true });
  }
});

it.runIf(canMount)(
  'a new version is refused for want of room, with what is missing, or starts; nothing is lost, and each state before one is pinned',
  async () => {
    expect(await start()).toBeUndefined();
    await guest.ask('dd if=/dev/urandom of=/home/big bs=65536 count=8 2>/dev/null; sync');
    const sum = await guest.ask('md5sum /home/big');
    await stop();
    await isSaved();
    let refused = 0;
    for (const [round, freeBytes] of FREE_BYTES.entries()) {
      const step = `round ${String(round)}, ${String(freeBytes)} bytes free`;
      await publish();
      await fillBut(freeBytes);
      const { bavail, bsize } = await statfs(probe);
      expect(bavail * bsize, step).toBeLessThanOrEqual(freeBytes);
      const error = await start();
      if (error !== undefined) {
        refused += 1;
        expect(error, step).toMatchObject({ code: 'disk-full', message: expect.stringMatching(/Nothing is lost/) });
        expect((await person.json(['status']))['machines'], step).toMatchObject([
          { name: 'tiny', state: expect.stringMatching(/^(stopped|failed)$/) },
        ]);
      }
      await truncate(filling, 0);
      if (error !== undefined) expect(await start(), step).toBeUndefined();
      expect(await guest.ask('md5sum /home/big'), step).toBe(sum);
      if (round > 0) expect(await guest.ask('cat /home/round'), step).toBe(String(round - 1));
      await guest.ask(`echo ${String(round)} >/home/round; sync`);
      await stop();
      await isSaved();
      expect(await pinned(), step).toBe(round + 1);
    }
    // Of a disk without a byte nobody starts anything.
    expect(refused).toBeGreaterThan(0);
  },
  1_800_000,
);

it.runIf(canMount)(
  'a suspended machine that cannot be resumed for want of room says so, stays suspended, and goes on where it stood when there is some',
  async () => {
    expect(await start()).toBeUndefined();
    await guest.ask('echo in memory >/run/alive');
    await person.json(['suspend', 'tiny'], { timeoutMs: STEP_MS });
    await fillBut(0);
    const error = await start();
    expect(error).toMatchObject({ code: 'disk-full', message: expect.stringMatching(/Nothing is lost/) });
    expect((await person.json(['status']))['machines']).toMatchObject([{ name: 'tiny', state: 'suspended' }]);
    await truncate(filling, 0);
    // It does not boot: nothing is waited for.
    await person.json(['start', 'tiny', '--accel', 'tcg'], { timeoutMs: STEP_MS });
    expect(await guest.ask('cat /run/alive')).toBe('in memory');
    await stop();
  },
  900_000,
);
