/**
 * What else is a pause and neither an error nor a hang: a server that answers, but not with blocks (503, 401), and a local disk that is
 * full when a guest writes. The machine says why, goes on by itself, and its guest has noticed nothing.
 */
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { withinTime } from '../support/promise-time.js';
import { eventually, type MachineLab, withLab } from '../machine/machine-lab.js';
import { expectNoDiskErrors } from './disk-errors.js';
import { tinyPlaces } from './tiny-places.js';

const READY = /TINY READY .* home=\S+/;
const GOES_ON_MS_MAX = 3_000;
const ANSWER_MS_MAX = 1_000;
/** Longer than a read waits, and than three attempts. */
const TROUBLE_MS = 9_000;

const showsNoDiskError = async (lab: MachineLab): Promise<void> => {
  const console = await lab.console('one');
  console.type('dmesg; echo end-of-l""og');
  await console.sees(/end-of-log/);
  expectNoDiskErrors(console.text);
};

const isAnsweredSoon = async (what: string, ask: () => Promise<unknown>): Promise<void> =>
  void (await withinTime(what, ANSWER_MS_MAX, ask));

const TROUBLES = [
  { title: '503 and a wish for a long time', answer: { status: 503, retryAfter: 30 } },
  { title: '503', answer: { status: 503 } },
  { title: '401', answer: { status: 401 } },
] as const;

test.each(TROUBLES)('a server that answers $title in the middle of a boot', ({ answer }) =>
  withLab(async (lab) => {
    const { kernel } = await tinyPlaces();
    const { repository } = lab;
    let isInTrouble = false;
    repository.behave = (digest) => {
      if (kernel.cloud.has(digest) && repository.attemptsOf(digest) === 1) isInTrouble = true;
      return isInTrouble ? answer : 'serve';
    };
    await lab.start('one', { network: 'none' });
    await lab.reaches('one', 'running');
    await lab.reaches('one', 'paused');
    const pausedAtMs = performance.now();
    await eventually('the trouble lasts', async () => {
      const state = await lab.state('one');
      expect(state).toMatchObject({ name: 'paused', cause: 'disk' });
      return performance.now() - pausedAtMs > TROUBLE_MS;
    });
    await eventually('the reason is told', async () => {
      const state = await lab.state('one');
      return 'why' in state && new RegExp(`waits for block \\d+.*status ${answer.status}`).test(state.why ?? '');
    });
    const running = lab.reaches('one', 'running');
    // A server in trouble is not stormed: one read asks for all that wait.
    const asked = repository.requests.length;
    await eventually('an attempt', () => repository.requests.length > asked);
    await withinTime('going on', GOES_ON_MS_MAX, async () => {
      isInTrouble = false;
      repository.behave = () => 'serve';
      await running;
    });
    await (await lab.console('one')).sees(READY);
    await showsNoDiskError(lab);
  }),
);

/** The cache leaves 1 GiB to others, so there has to be more for it to hold anything. */
const HOME_BYTES = 1_200 << 20;
const FILLER_BYTES = 16 << 20;
const LEFT_BYTES = 4 << 20;

test('a full local disk: the cache gives way, then the machine is paused with the reason, and goes on by itself when there is room', async () => {
  const mount = await mkdtemp(path.join(os.tmpdir(), 'collective-small-'));
  await runOrThrow('mount', ['-t', 'tmpfs', '-o', `size=${HOME_BYTES}`, 'tmpfs', mount]);
  try {
    await withLab(
      async (lab) => {
        await lab.start('one', { network: 'none' });
        await lab.reaches('one', 'running');
        const console = await lab.console('one');
        await console.sees(READY);
        const cacheFolder = path.join(lab.home.directory, 'cache');
        const cacheBytes = async (): Promise<number> =>
          Number((await runOrThrow('du', ['-s', '--block-size=1', cacheFolder])).stdout.split('\t')[0]);
        // Somebody fills the disk with files of their own.
        const fillers: string[] = [];
        const freeBytes = async (): Promise<number> => {
          const { bavail, bsize } = await statfs(mount);
          return bavail * bsize;
        };
        const fillTo = async (leftBytes: number): Promise<void> => {
          for (let left = await freeBytes(); left > leftBytes; left = await freeBytes()) {
            const file = path.join(mount, `filler-${fillers.length}`);
            fillers.push(file);
            await writeFile(file, Buffer.alloc(Math.min(FILLER_BYTES, left - leftBytes)));
          }
        };
        expect(await cacheBytes()).toBeGreaterThan(10e6);
        await fillTo(LEFT_BYTES);
        await eventually('the cache has given way', async () => (await cacheBytes()) < 4e6);
        await fillTo(LEFT_BYTES);
        // The guest writes more than is left.
        console.type('dd if=/dev/urandom of=/home/big bs=1M count=40 && sync && echo "writ""ten" $(md5sum </home/big)');
        const state = await lab.reaches('one', 'paused');
        expect(state).toMatchObject({ cause: 'disk', why: 'the local disk is full' });
        const pausedAtMs = performance.now();
        await isAnsweredSoon('status', () => lab.client.request('status', {}));
        await isAnsweredSoon('the display', () => lab.client.request('screendump', { machine: 'one' }));
        // There is no room for its memory: that is said, and nothing else happens.
        await isAnsweredSoon('suspend', async () =>
          expect(lab.client.request('suspend', { machine: 'one' })).rejects.toMatchObject({ code: 'disk-full' }),
        );
        await eventually('it stays so', async () => {
          const now = await lab.state('one');
          // Once in a while it is tried whether the disk is as full as it says.
          if (now.name !== 'running') expect(now).toMatchObject({ name: 'paused', cause: 'disk' });
          return performance.now() - pausedAtMs > TROUBLE_MS;
        });
        await eventually('it is paused', async () => (await lab.state('one')).name === 'paused');
        const running = lab.reaches('one', 'running');
        await Promise.all(fillers.map((file) => rm(file, { force: true })));
        await withinTime('going on', GOES_ON_MS_MAX, () => running);
        await console.sees(/written \w+/);
        const [, written] = /written (\w+)/.exec(console.text) ?? [];
        console.type('echo 3 >/proc/sys/vm/drop_caches; echo "ag""ain" $(md5sum </home/big)');
        await console.sees(new RegExp(`again ${written ?? 'nothing'}`));
        await showsNoDiskError(lab);
        // And once more, to be stopped in it.
        await eventually('the cache has given way again', async () => {
          await fillTo(LEFT_BYTES);
          return (await cacheBytes()) < 4e6;
        });
        await fillTo(LEFT_BYTES);
        console.type('dd if=/dev/urandom of=/home/more bs=1M count=40 && sync');
        await lab.reaches('one', 'paused');
        const stopped = lab.reaches('one', 'stopped');
        await isAnsweredSoon('stop', async () => {
          await lab.client.request('stop', { machine: 'one' });
          await stopped;
        });
      },
      { parent: mount },
    );
  } finally {
    await runOrThrow('umount', ['-l', mount]);
    await rm(mount, { recursive: true, force: true });
  }
});
