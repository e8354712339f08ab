/**
 * What a guest writes for a person who is here only for now: 1,000 markers on the user disk, on the system disk and in memory are found in
 * no file of the home, after the logout and after the machine was switched off in the middle.
 */
import { randomBytes } from 'node:crypto';
import { readdir, rm, truncate } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { PASSWORD, Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { filesWith } from '../support/files-with.js';
import { BUILD, ROOT } from '../support/paths.js';
import { expectNobody, killAllOf, secretsOf, sessionFolderOf } from './end-of-a-machine.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const MARKERS = 1_000;
let fixture: RepositoryFixture;
let visitor: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  await using owner = await Person.temporary();
  await owner.login(await fixture.server.invite('anna', 'publisher'), 'anna');
  await fixture.server.allow('anna', 'tiny');
  await owner.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  visitor = await Person.temporary();
});
afterAll(async () => {
  await visitor[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

/** Logs in only for now, starts the appliance, and has it write the markers everywhere; gives what they begin with. */
const writeMarkers = async (): Promise<string> => {
  const run = `marker-${randomBytes(4).toString('hex')}-`;
  const link = fixture.adminLink.replace(/\.invite\..*$/, '');
  const words = ['login', link, '--account', 'anna', '--only-for-now', '--password-stdin'];
  await visitor.json(words, { input: `${PASSWORD}\n` });
  await visitor.json([
    'start',
    'tiny',
    '--accel',
    'tcg',
    '--wait-for',
    'TINY READY',
    '--wait-seconds',
    '240',
    '--take-over',
  ]);
  await using console = visitor.spawn(['console', 'tiny']);
  console.process.stdin?.write('\n');
  await console.waitFor(/tiny# /);
  const each = `i=0; while [ $i -lt ${MARKERS} ]; do echo ${run}$i; i=$((i+1)); done`;
  console.process.stdin?.write(
    `(${each}) >/home/markers; cp /home/markers /markers; sync; held=$(cat /home/markers); wc -l </home/markers; echo writ""ten\n`,
  );
  await console.waitFor(new RegExp(`\\b${MARKERS}\\s+written`));
  return run;
};

const guests = async (): Promise<readonly number[]> =>
  ((await visitor.json(['status']))['machines'] as { readonly details: { readonly qemuPid: number } }[]).map(
    ({ details }) => details.qemuPid,
  );

const expectNotFound = async (marker: string, secrets: readonly (string | Buffer)[]): Promise<void> => {
  for (const wanted of [marker, ...secrets]) expect(await filesWith(visitor.home, wanted)).toEqual([]);
};

it('after a logout nothing is found; before it the person is told what would be lost', async () => {
  const marker = await writeMarkers();
  const secrets = await secretsOf(visitor.home);
  expect(errorOf(await visitor.run(['logout', '--json']))).toMatchObject({ code: 'in-use', exitCode: 6 });
  await visitor.json(['suspend', 'tiny']);
  await expectNotFound(marker, secrets);
  const refused = errorOf(await visitor.run(['logout', '--json']));
  expect(refused).toMatchObject({ code: 'unsaved', exitCode: 6 });
  expect(refused.message).toMatch(
    /lost with it: (\d+\.\d MB of tiny; )?what tiny, which is suspended, has in memory\.$/,
  );
  expect(await readdir(path.join(visitor.home, 'machines'))).toEqual(['tiny']);
  expect(await visitor.json(['logout', '--discard'])).toMatchObject({ removed: true, notes: [] });
  await expectNotFound(marker, secrets);
  expect(await filesWith(visitor.home, 'tiny')).toEqual([]);
  await expectNobody(visitor.home);
});

it('switched off in the middle the disk has no marker and no key, and the next start removes what is left', async () => {
  const marker = await writeMarkers();
  const secrets = await secretsOf(visitor.home);
  const folder = await sessionFolderOf(visitor.home);
  const killed = await killAllOf(visitor.home, await guests());
  expect(killed).toEqual(expect.arrayContaining(['blockd', 'collective', 'supervisor']));
  await expectNotFound(marker, secrets);
  expect(await readdir(path.join(visitor.home, 'machines', 'tiny', 'overlays'))).not.toEqual([]);
  // What a restart of the computer does to a tmpfs.
  await rm(folder, { recursive: true, force: true });
  expect((await visitor.json(['status']))['agent']).toBe(null);
  expect(errorOf(await visitor.run(['start', 'tiny', '--json'])).code).toBe('not-logged-in');
  await truncate(path.join(visitor.home, 'log', 'agent.log')); // it says that somebody was removed
  await expectNobody(visitor.home);
  await expectNotFound(marker, secrets);
});

it('when the session’s memory goes while a machine runs, as at the end of a desktop session, the machine is ended and everything removed', async () => {
  const marker = await writeMarkers();
  const secrets = await secretsOf(visitor.home);
  const [guest = 0] = await guests();
  const { agent } = (await visitor.json(['status'])) as unknown as { agent: { pid: number } };
  await rm(await sessionFolderOf(visitor.home), { recursive: true, force: true });
  process.kill(agent.pid, 'SIGKILL');
  await eventually('the guest is gone', 240_000, async () => {
    try {
      process.kill(guest, 0);
      return undefined;
    } catch {
      return true;
    }
  });
  expect(errorOf(await visitor.run(['appliances', '--json'])).code).toBe('not-logged-in');
  await expectNotFound(marker, secrets);
  await truncate(path.join(visitor.home, 'log', 'agent.log'));
  await expectNobody(visitor.home);
});
