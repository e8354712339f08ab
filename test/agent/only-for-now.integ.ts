/**
 * A person who is on a machine only for now, against a real repository: no key of theirs comes to lie on its disk, their logout removes
 * everything, and so does the next start after the machine was switched off in the middle. What a guest writes: only-for-now-disks.integ.ts.
 */
import { mkdtemp, readdir, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PASSWORD, Person } from '../support/collective.js';
import { filesWith } from '../support/files-with.js';
import { expectNobody, killAllOf, secretsOf, sessionFolderOf } from './end-of-a-machine.js';
import { LyingServer } from './lying-server.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

let fixture: RepositoryFixture;
/** A join link without an invitation. */
let link: string;
let owner: Person;
const input = `${PASSWORD}\n`;
const now = ['--only-for-now', '--password-stdin', '--no-recovery-code-check'];
const TMPFS = 0x01021994;

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  link = fixture.adminLink.replace(/\.invite\..*$/, '');
  owner = await Person.temporary();
  await owner.login(await fixture.server.invite('anna', 'publisher'), 'anna');
});
afterAll(async () => {
  await owner[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

const loginNow = async (person: Person, account = 'anna') =>
  person.json(['login', link, '--account', account, ...now], { input });

const devicesOf = async (): Promise<readonly { name: string; revoked: boolean }[]> =>
  (await owner.json(['devices']))['devices'] as never;

it('no key, no device and nothing of the account lies on the disk while they are here; the session outlives the agent', async () => {
  await using person = await Person.temporary();
  expect(await loginNow(person)).toMatchObject({ account: 'anna', connected: true, stay: 'now' });
  expect((await person.json(['status']))['session']).toMatchObject({ account: 'anna', stay: 'now' });
  expect((await person.run(['status'])).stdout).toContain('anna, only for now');
  await expect(stat(path.join(person.home, 'device.json'))).rejects.toThrow();
  const folder = await sessionFolderOf(person.home);
  expect((await readdir(folder)).sort()).toEqual(expect.arrayContaining(['device.json', 'seen.json', 'session.json']));
  expect((await statfs(folder)).type).toBe(TMPFS);
  for (const secret of await secretsOf(person.home)) expect(await filesWith(person.home, secret)).toEqual([]);
  // The search works: the session's file has them.
  const [, written = ''] = await secretsOf(person.home);
  expect((await filesWith(folder, written)).map((file) => path.basename(file))).toEqual(['session.json']);

  process.kill(((await person.json(['status']))['agent'] as { pid: number }).pid, 'SIGKILL');
  expect(await person.json(['appliances'])).toMatchObject({ connected: true });
  expect((await person.json(['status']))['session']).toMatchObject({ account: 'anna', stay: 'now' });
  // Its own password opens it again, as it is.
  expect(await person.json(['login', '--password-stdin'], { input })).toMatchObject({ stay: 'now' });
  const wrong = await person.run(['login', '--mine', '--password-stdin', '--json'], { input });
  expect(errorOf(wrong)).toMatchObject({ code: 'exists', exitCode: 6 });
  const { devices } = (await person.json(['devices'])) as unknown as { devices: { name: string; isThis: boolean }[] };
  expect(devices.find(({ isThis }) => isThis)?.name).toBe(`${os.hostname()} (only for now)`);

  expect(await person.json(['logout'])).toEqual({ loggedOut: true, removed: true, notes: [] });
  await expectNobody(person.home);
  expect(await readdir(folder)).toEqual([]);
  expect((await devicesOf()).filter(({ name, revoked }) => name.includes('only for now') && !revoked)).toEqual([]);
  // The next one finds nothing of them.
  expect(errorOf(await person.run(['login', '--password-stdin', '--json'], { input })).code).toBe('usage');
  expect(await loginNow(person)).toMatchObject({ stay: 'now' });
  await person.json(['logout']);
  await expectNobody(person.home);
});

it('a machine that is switched off in the middle leaves no key, and the next start removes what is left', async () => {
  await using person = await Person.temporary();
  await loginNow(person);
  await person.json(['appliances']);
  const secrets = await secretsOf(person.home);
  const folder = await sessionFolderOf(person.home);
  await killAllOf(person.home);
  for (const secret of secrets) expect(await filesWith(person.home, secret)).toEqual([]);
  // What a restart of the computer does to a tmpfs.
  await rm(folder, { recursive: true, force: true });
  expect((await readdir(person.home)).includes('only-for-now.json')).toBe(true);
  expect(errorOf(await person.run(['appliances', '--json'])).code).toBe('not-logged-in');
  await writeFile(path.join(person.home, 'log', 'agent.log'), ''); // it says that somebody was removed
  await expectNobody(person.home);
});

it('without the repository the logout removes everything all the same, and says which device is still listed', async () => {
  await using person = await Person.temporary();
  await loginNow(person);
  await fixture.server.process.stop('SIGKILL');
  try {
    const { notes } = (await person.json(['logout'])) as unknown as { notes: string[] };
    expect(notes).toEqual([expect.stringMatching(/could not be told.*stays in your list of devices/)]);
    await expectNobody(person.home);
  } finally {
    await fixture.server.restart();
  }
  const name = `${os.hostname()} (only for now)`;
  expect((await devicesOf()).filter((device) => device.name === name && !device.revoked)).not.toEqual([]);
});

it('where a key would come to lie on a disk it is refused, and nothing is written', async () => {
  const runtime = await mkdtemp(path.join(os.tmpdir(), 'runtime-'));
  expect((await statfs(runtime)).type).not.toBe(TMPFS);
  await using person = await Person.temporary();
  const env = { ...process.env, XDG_RUNTIME_DIR: runtime };
  const refused = await person.run(['login', link, '--account', 'anna', ...now, '--json'], { input, env });
  expect(errorOf(refused)).toMatchObject({ code: 'no-tmpfs', exitCode: 10 });
  await expectNobody(person.home);
  await person.run(['shutdown'], { env });
  await rm(runtime, { recursive: true, force: true });
});

it('a wrong password leaves nothing, and no home of another person is taken', async () => {
  await using person = await Person.temporary();
  const wrong = await person.run(['login', link, '--account', 'anna', ...now, '--json'], {
    input: 'not the password\n',
  });
  expect(errorOf(wrong).code).toBe('wrong-password');
  await expectNobody(person.home);
  const before = await readFile(path.join(owner.home, 'device.json'), 'utf8');
  for (const words of [['login'], ['login', link, '--account', 'anna']]) {
    const taken = await owner.run([...words, ...now, '--json'], { input });
    expect(errorOf(taken)).toMatchObject({ code: 'exists', exitCode: 6 });
  }
  expect(await readFile(path.join(owner.home, 'device.json'), 'utf8')).toBe(before);
  expect(await owner.json(['appliances'])).toMatchObject({ connected: true });
});

it('a login that fails after the device was made leaves nothing, and the device is revoked', async () => {
  await using liar = await LyingServer.before(fixture.server.port);
  await using person = await Person.temporary();
  const live = async (): Promise<number> => (await devicesOf()).filter(({ revoked }) => !revoked).length;
  const before = await live();
  liar.lie('/v1/me/profile', (real) => ({ body: Buffer.concat([real, Buffer.from('x')]) }));
  const words = ['login', liar.through(link), '--account', 'anna', ...now, '--json'];
  expect(errorOf(await person.run(words, { input })).exitCode).toBe(8);
  await expectNobody(person.home);
  expect(await live()).toBe(before);
});

it('a machine that is theirs keeps everything at logout, and nothing with --remove; so does a revoked device', async () => {
  await using laptop = await Person.temporary();
  await using tablet = await Person.temporary();
  for (const [person, name] of [
    [laptop, 'laptop'],
    [tablet, 'tablet'],
  ] as const) {
    const words = ['login', link, '--account', 'anna', '--mine', '--password-stdin', '--device-name', name];
    expect(await person.json(words, { input })).toMatchObject({ stay: 'mine' });
  }
  const { device } = JSON.parse(await readFile(path.join(laptop.home, 'device.json'), 'utf8')) as { device: string };
  expect(await laptop.json(['logout'])).toMatchObject({ removed: false });
  await laptop.json(['login', '--password-stdin'], { input });
  expect(JSON.parse(await readFile(path.join(laptop.home, 'device.json'), 'utf8'))).toMatchObject({ device });
  expect(await laptop.json(['logout', '--remove'])).toMatchObject({ removed: true, notes: [] });
  await expectNobody(laptop.home);
  const listed = await devicesOf();
  expect(listed.filter(({ name }) => name === 'laptop')).toMatchObject([{ revoked: true }]);
  expect((await owner.json(['status']))['session']).toMatchObject({ keyEpoch: 1 });

  await owner.json(['devices', 'revoke', 'tablet']);
  expect(errorOf(await tablet.run(['appliances', '--json'])).code).toBe('device-revoked');
  expect(String((await tablet.json(['status']))['notes'])).toContain('logout --remove');
  expect(await tablet.json(['logout'])).toMatchObject({ removed: false });
  // Without a session, too: what is here opens only with the password.
  expect(await tablet.json(['logout', '--remove'])).toMatchObject({ removed: true, notes: [] });
  await expectNobody(tablet.home);
});
