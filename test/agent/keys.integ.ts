/** A person's keys against a real repository server: password, recovery code, devices, epochs, reset; and what travels. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import {
  derivePasswordKeys,
  derivePersonKeys,
  parseRecoveryCode,
  recoveryKey,
  sealProfile,
  openProfile,
  type PasswordParameters,
} from '@collective/shared';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PASSWORD, Person, repositoryCommand } from '../support/collective.js';
import { RecordingProxy } from '../support/recording-proxy.js';
import { LyingServer } from './lying-server.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

let fixture: RepositoryFixture;
/** A join link without an invitation. */
let link: string;
const NEW = 'a second password';
const script = ['--password-stdin', '--no-recovery-code-check', '--json'];

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  link = fixture.adminLink.replace(/\.invite\..*$/, '');
});
afterAll(async () => fixture[Symbol.asyncDispose]());

type Session = {
  readonly personSecret: string;
  readonly ring: readonly { readonly epoch: number; readonly secret: string }[];
};
const sessionOf = async ({ home }: Person): Promise<Session> =>
  JSON.parse(await readFile(path.join(home, 'run', 'session.json'), 'utf8')) as Session;
const deviceOf = async ({
  home,
}: Person): Promise<{ readonly device: string; readonly passwordParameters: PasswordParameters }> =>
  JSON.parse(await readFile(path.join(home, 'device.json'), 'utf8')) as never;
const epochOf = async (person: Person): Promise<number> =>
  ((await person.json(['status']))['session'] as { readonly keyEpoch: number }).keyEpoch;

/** Makes the account with its first device; gives the recovery code. */
const join = async (person: Person, account: string, through = (text: string): string => text): Promise<string> => {
  const invitation = through(await fixture.server.invite(account, 'user'));
  const words = ['login', invitation, '--account', account, '--password-stdin', '--no-recovery-code-check'];
  return String((await person.json([...words, '--device-name', 'first'], { input: `${PASSWORD}\n` }))['recoveryCode']);
};
const loginOn = async (person: Person, account: string, name: string, password = PASSWORD): Promise<void> => {
  const words = ['login', link, '--account', account, '--password-stdin', '--device-name', name];
  await person.json(words, { input: `${password}\n` });
};

it('of login, password change and recovery neither password, wrapping key, code, secret nor ring travels', async () => {
  await using proxy = await RecordingProxy.before(fixture.server.port);
  await using person = await Person.temporary();
  const code = await join(person, 'anna', (text) => proxy.through(text));
  const first = await deviceOf(person);
  await person.json(['password', '--password-stdin', '--compromised'], { input: `${PASSWORD}\n${NEW}\n` });
  const second = await deviceOf(person);
  const third = 'a third password';
  await person.json(['logout']);
  await person.json(['login', '--recover', '--password-stdin'], { input: `${third}\n${code}\n` });
  const last = await deviceOf(person);
  expect(new Set([first, second, last].map(({ passwordParameters }) => passwordParameters.salt)).size).toBe(3);
  const renewed = String((await person.json(['recovery-code', 'new', '--no-recovery-code-check']))['recoveryCode']);
  const { personSecret, ring } = await sessionOf(person);
  expect(ring.map(({ epoch }) => epoch)).toEqual([2]);
  const secret = Buffer.from(personSecret, 'base64url');
  const secrets: [string, Buffer][] = [
    ['secret', secret],
    ['profile key', derivePersonKeys(secret).profileKey],
    ['epoch 2', Buffer.from(ring[0]?.secret ?? '', 'base64url')],
  ];
  for (const text of [code, renewed]) {
    const bytes = parseRecoveryCode(text);
    secrets.push(['code as text', Buffer.from(text)], ['code without hyphens', Buffer.from(text.replaceAll('-', ''))]);
    secrets.push(['code', bytes], ['key of the code', recoveryKey(bytes)]);
  }
  for (const [password, { passwordParameters }] of [
    [PASSWORD, first],
    [NEW, second],
    [third, last],
  ] as const) {
    const keys = await derivePasswordKeys(password, passwordParameters);
    secrets.push(['password', Buffer.from(password)], ['wrapping key', keys.wrappingKey]);
    // The recording is one: what must travel is found in it.
    expect(proxy.holds(keys.loginSecret)).toBe(true);
  }
  expect(proxy.bytes).toBeGreaterThan(10_000);
  expect(secrets.filter(([, bytes]) => proxy.holds(bytes)).map(([name]) => name)).toEqual([]);
});

it('a changed password counts here at once, and on another device from its next contact on, which says so', async () => {
  await using desk = await Person.temporary();
  await using laptop = await Person.temporary();
  await join(desk, 'berta');
  await loginOn(laptop, 'berta', 'laptop');
  const before = await deviceOf(laptop);
  await laptop.json(['logout']);
  const wrong = await desk.run(['password', '--password-stdin', '--json'], { input: `not the password\n${NEW}\n` });
  expect(errorOf(wrong)).toMatchObject({ code: 'wrong-password', exitCode: 3 });
  await desk.json(['password', '--password-stdin'], { input: `${PASSWORD}\n${NEW}\n` });
  expect(await epochOf(desk)).toBe(1);
  await desk.json(['logout']);
  expect(errorOf(await desk.run(['login', ...script], { input: `${PASSWORD}\n` })).code).toBe('wrong-password');
  await desk.json(['login', '--password-stdin'], { input: `${NEW}\n` });

  await fixture.server.process.stop('SIGKILL');
  try {
    expect(await laptop.json(['login', '--password-stdin'], { input: `${PASSWORD}\n` })).toMatchObject({
      connected: false,
    });
    await laptop.json(['logout']);
  } finally {
    await fixture.server.restart();
  }
  const told = errorOf(await laptop.run(['login', ...script], { input: `${PASSWORD}\n` }));
  expect(told).toMatchObject({ code: 'wrong-password', exitCode: 3 });
  expect(told.message).toMatch(/^The password of berta was changed on .* from another device: use the new one\.$/);
  expect(await deviceOf(laptop)).toEqual(before);
  expect(errorOf(await laptop.run(['login', ...script], { input: 'neither of them\n' })).code).toBe('wrong-password');
  expect(await laptop.json(['login', '--password-stdin'], { input: `${NEW}\n` })).toMatchObject({ connected: true });
  expect((await deviceOf(laptop)).device).toBe(before.device);
  // And now without the server, too.
  await laptop.json(['logout']);
  await fixture.server.process.stop('SIGKILL');
  try {
    expect(await laptop.json(['login', '--password-stdin'], { input: `${NEW}\n` })).toMatchObject({ connected: false });
  } finally {
    await fixture.server.restart();
  }
});

it('a recovery code is shown, confirmed by its last group, and opens the account on a new machine and on a known one', async () => {
  await using desk = await Person.temporary();
  await using other = await Person.temporary();
  const invitation = await fixture.server.invite('carla', 'user');
  const words = ['login', invitation, '--account', 'carla', '--password-stdin', '--json'];
  const input = `${PASSWORD}\n`;
  const shown = JSON.parse((await desk.run(words, { input })).stdout) as { error: { data: { recoveryCode: string } } };
  const old = shown.error.data.recoveryCode;
  expect(errorOf(await desk.run([...words, '--last-group', 'AAAA'], { input })).code).toBe('usage');
  const reply = await desk.json([...words, '--last-group', old.slice(-4).toLowerCase()], { input });
  expect(reply['recoveryCode']).toBe(old);

  const offered = await desk.json(['recovery-code', 'new']);
  const code = String(offered['recoveryCode']);
  expect(offered['confirmed']).toBe(false);
  expect(errorOf(await desk.run(['recovery-code', 'new', '--last-group', 'ZZZZ', '--json'])).code).toBe('usage');
  expect(await desk.json(['recovery-code', 'new', '--last-group', code.slice(-4)])).toEqual({
    recoveryCode: code,
    confirmed: true,
  });

  const recover = ['login', link, '--account', 'carla', '--recover', ...script];
  const refused = await other.run(recover, { input: `${NEW}\n${old}\n` });
  expect(errorOf(refused)).toMatchObject({ code: 'wrong-password', exitCode: 3 });
  const nobody = await other.run(['login', link, '--account', 'nobody', '--recover', ...script], {
    input: `${NEW}\n${code}\n`,
  });
  expect(errorOf(nobody).message).toBe(errorOf(refused).message.replace('carla', 'nobody'));
  expect(errorOf(await other.run(recover, { input: `${NEW}\n${code.slice(0, -1)}\n` })).code).toBe('malformed');
  expect(await other.json(recover, { input: `${NEW}\n${code}\n` })).toMatchObject({
    account: 'carla',
    connected: true,
  });
  expect((await sessionOf(other)).personSecret).toBe((await sessionOf(desk)).personSecret);

  const before = (await deviceOf(desk)).device;
  await desk.json(['logout']);
  const third = 'a third password';
  await desk.json(['login', '--recover', '--password-stdin'], { input: `${third}\n${code}\n` });
  expect((await deviceOf(desk)).device).toBe(before);
  await desk.json(['logout']);
  await desk.json(['login', '--password-stdin'], { input: `${third}\n` });
});

it('a revoked device is told, gets nothing, and its keys are no longer those of new data; the others have the new epoch', async () => {
  await using desk = await Person.temporary();
  await using laptop = await Person.temporary();
  await using tablet = await Person.temporary();
  await join(desk, 'dora');
  await loginOn(laptop, 'dora', 'laptop');
  await loginOn(tablet, 'dora', 'tablet');
  const listed = (await desk.json(['devices']))['devices'] as { name: string; isThis: boolean; device: string }[];
  expect(listed.map(({ name, isThis }) => [name, isThis])).toEqual([
    ['first', true],
    ['laptop', false],
    ['tablet', false],
  ]);
  expect(errorOf(await desk.run(['devices', 'revoke', 'first', '--json'])).code).toBe('usage');
  expect(errorOf(await desk.run(['devices', 'revoke', 'phone', '--json'])).code).toBe('not-found');
  const id = (await deviceOf(laptop)).device;
  expect(await desk.json(['devices', 'revoke', id.slice(0, 8)])).toMatchObject({
    name: 'laptop',
    device: id,
    epoch: 2,
  });
  // Again: nothing more begins.
  expect(await desk.json(['devices', 'revoke', 'laptop'])).toMatchObject({ epoch: 2 });

  expect(errorOf(await laptop.run(['appliances', '--json']))).toMatchObject({ code: 'device-revoked', exitCode: 3 });
  const status = await laptop.json(['status']);
  expect(status['session']).toMatchObject({ deviceRevoked: true, keyEpoch: 1 });
  expect(String(status['notes'])).toContain('revoked');
  expect((await laptop.run(['status'])).stdout).toContain('REVOKED');
  expect(
    errorOf(await laptop.run(['password', ...['--password-stdin', '--json']], { input: `${PASSWORD}\n${NEW}\n` })).code,
  ).toBe('device-revoked');
  expect((await sessionOf(laptop)).ring).toEqual([]);
  expect(errorOf(await laptop.run(['login', ...script], { input: `${PASSWORD}\n` })).code).toBe('device-revoked');

  expect(await epochOf(tablet)).toBe(1);
  await tablet.json(['appliances']);
  expect(await epochOf(tablet)).toBe(2);
  expect((await sessionOf(tablet)).ring).toEqual((await sessionOf(desk)).ring);
});

it('a restarted agent has the ring without the network, and so has a login without it', async () => {
  await using desk = await Person.temporary();
  await join(desk, 'emma');
  await desk.json(['password', '--password-stdin', '--compromised'], { input: `${PASSWORD}\n${NEW}\n` });
  expect(await epochOf(desk)).toBe(2);
  await fixture.server.process.stop('SIGKILL');
  try {
    const { pid } = (await desk.json(['status']))['agent'] as { pid: number };
    process.kill(pid, 'SIGKILL');
    await desk.run(['appliances']);
    expect(await epochOf(desk)).toBe(2);
    await desk.json(['logout']);
    await expect(stat(path.join(desk.home, 'run', 'session.json'))).rejects.toThrow();
    await desk.json(['login', '--password-stdin'], { input: `${NEW}\n` });
    expect(await epochOf(desk)).toBe(2);
    expect((await desk.json(['devices']))['devices']).toMatchObject([{ name: 'first', isThis: true }]);
  } finally {
    await fixture.server.restart();
  }
});

it('a profile that is older than seen, gone, or another one of the same number is refused; a new device takes it', async () => {
  await using liar = await LyingServer.before(fixture.server.port);
  await using desk = await Person.temporary();
  await join(desk, 'frida', (text) => liar.through(text));
  let old: Buffer = Buffer.alloc(0);
  liar.lie('/v1/me/profile', (real) => ({ body: (old = real) }));
  await desk.json(['appliances']);
  liar.lie('/v1/me/profile', undefined);
  await desk.json(['password', '--password-stdin', '--compromised'], { input: `${PASSWORD}\n${NEW}\n` });
  const keys = derivePersonKeys(Buffer.from((await sessionOf(desk)).personSecret, 'base64url'));
  const profile = openProfile(old, keys);
  expect(profile).toMatchObject({ number: 1, account: 'frida', devices: [{ name: 'first' }], epochs: [] });
  const refused = async (): Promise<string> => errorOf(await desk.run(['appliances', '--json'])).code;
  liar.lie('/v1/me/profile', () => ({ body: old }));
  expect(await refused()).toBe('rollback');
  liar.lie('/v1/me/profile', () => ({ body: sealProfile({ ...profile, number: 2 }, keys) }));
  expect(await refused()).toBe('rollback');
  liar.lie('/v1/me/profile', () => ({ status: 404, body: { code: 'not-found', message: '' } }));
  expect(await refused()).toBe('rollback');
  liar.lie('/v1/me/profile', () => ({ body: sealProfile({ ...profile, number: 9, account: 'gerda' }, keys) }));
  await desk.json(['appliances']);
  expect(String((await desk.json(['status']))['notes'])).toContain('another identity');
  liar.lie('/v1/me/profile', undefined);
  await desk.json(['appliances']);
  expect(await epochOf(desk)).toBe(2);
});

it('a reset says what it does; with the code nothing is locked, without it the account works and unlock brings it back', async () => {
  await using desk = await Person.temporary();
  await using laptop = await Person.temporary();
  const code = await join(desk, 'hanna');
  await desk.json(['password', '--password-stdin', '--compromised'], { input: `${PASSWORD}\n${NEW}\n` });
  const old = await sessionOf(desk);
  await expect(repositoryCommand(['reset', fixture.folder, 'hanna'])).rejects.toThrow(/LOCKED/);
  await expect(repositoryCommand(['reset', fixture.folder, 'nobody', '--yes'])).rejects.toThrow(/no account/);
  const resetLink = async (): Promise<string> =>
    String((await repositoryCommand(['reset', fixture.folder, 'hanna', '--yes']))['joinLink']).replace(
      /^http:\/\/[^/]+/,
      `http://127.0.0.1:${fixture.server.port}`,
    );
  // With the code: recovered, nothing is locked, and the invitation is void.
  const first = await resetLink();
  await using phone = await Person.temporary();
  const third = 'a third password';
  await phone.json(['login', first, '--recover', ...script], { input: `${third}\n${code}\n` });
  expect((await sessionOf(phone)).personSecret).toBe(old.personSecret);
  expect(errorOf(await laptop.run(['login', first, ...script], { input: `${NEW}\n` })).code).toBe('exists');
  expect(errorOf(await phone.run(['unlock', '--code-stdin', '--json'], { input: `${code}\n` })).code).toBe('not-found');

  // Without it.
  const fourth = 'a fourth password';
  const reply = await laptop.json(['login', await resetLink(), '--device-name', 'laptop', ...script], {
    input: `${fourth}\n`,
  });
  expect(reply).toMatchObject({ account: 'hanna', connected: true });
  expect(String(reply['note'])).toContain('locked');
  expect(String(reply['recoveryCode'])).not.toBe(code);
  const fresh = await sessionOf(laptop);
  expect(fresh.personSecret).not.toBe(old.personSecret);
  expect(await epochOf(laptop)).toBe(1_001);
  const wrong = await laptop.run(['unlock', '--code-stdin', '--json'], { input: `${String(reply['recoveryCode'])}\n` });
  expect(errorOf(wrong)).toMatchObject({ code: 'wrong-password' });
  expect(await laptop.json(['unlock', '--code-stdin'], { input: `${code}\n` })).toEqual({ unlocked: 1, locked: 0 });
  const { ring } = await sessionOf(laptop);
  const derived = derivePersonKeys(Buffer.from(old.personSecret, 'base64url')).firstEpochSecret.toString('base64url');
  expect(ring).toEqual([{ epoch: 1, secret: derived }, ...old.ring, ...fresh.ring]);
  expect(await epochOf(laptop)).toBe(1_001);
  expect(errorOf(await laptop.run(['unlock', '--code-stdin', '--json'], { input: `${code}\n` })).code).toBe(
    'not-found',
  );
});

it('after a reset a device of before says so, logs in anew with the new password, and unlocks with the old one', async () => {
  await using desk = await Person.temporary();
  await using laptop = await Person.temporary();
  await join(desk, 'ida');
  const before = await deviceOf(desk);
  const made = await repositoryCommand(['reset', fixture.folder, 'ida', '--yes']);
  const resetLink = String(made['joinLink']).replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${fixture.server.port}`);
  await laptop.json(['login', resetLink, '--device-name', 'laptop', ...script], { input: `${NEW}\n` });
  await desk.json(['appliances']);
  expect(String((await desk.json(['status']))['notes'])).toContain('was reset');
  await desk.json(['logout']);
  expect(errorOf(await desk.run(['login', ...script], { input: `${PASSWORD}\n` })).message).toContain('was changed on');
  const reply = await desk.json(['login', '--password-stdin'], { input: `${NEW}\n` });
  expect(String(reply['note'])).toContain('locked');
  expect((await deviceOf(desk)).device).not.toBe(before.device);
  const wrong = await desk.run(['unlock', '--old-password', '--code-stdin', '--json'], { input: `${NEW}\n` });
  expect(errorOf(wrong).code).toBe('wrong-password');
  await desk.json(['unlock', '--old-password', '--code-stdin'], { input: `${PASSWORD}\n` });
  await laptop.json(['appliances']);
  expect((await sessionOf(laptop)).ring).toEqual((await sessionOf(desk)).ring);
  expect((await sessionOf(laptop)).ring.map(({ epoch }) => epoch)).toEqual([1, 1_001]);
});
