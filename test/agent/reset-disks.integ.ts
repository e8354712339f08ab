/**
 * Disks of before a reset, by the command line and with a real (tiny) guest: locked, which changes nothing of them, until the old password
 * opens them, and then they go on with everything that was written.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { PASSWORD, Person, repositoryCommand } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { BUILD, ROOT } from '../support/paths.js';
import { homeHash } from './home-hash.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const NEW = 'a second password';
const start = ['start', 'tiny', '--accel', 'tcg'];
let fixture: RepositoryFixture;
let desk: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  desk = await Person.temporary();
  await desk.login(await fixture.server.invite('ida', 'publisher'), 'ida');
  await fixture.server.allow('ida', 'tiny');
  await desk.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
});
afterAll(async () => {
  await desk[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

const onConsole = async (command: string, expected: RegExp): Promise<void> =>
  askConsole(desk, 'tiny', { command, expected });

it('after a reset a disk of before is locked and not changed; unlocked it goes on under its key, and so does the memory of its machine', async () => {
  await desk.json([...start, '--wait-for', 'TINY READY', '--wait-seconds', '240']);
  await onConsole('echo kept >/home/kept; sync; echo writ""ten', /written/);
  await desk.json(['stop', 'tiny', '--force']);
  const keyOfDisk = async (): Promise<unknown> =>
    (
      JSON.parse(await readFile(path.join(desk.home, 'machines/tiny/overlays/user/overlay.json'), 'utf8')) as {
        readonly encryption: unknown;
      }
    ).encryption;
  const key = await keyOfDisk();

  const made = await repositoryCommand(['reset', fixture.folder, 'ida', '--yes']);
  const resetLink = String(made['joinLink']).replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${fixture.server.port}`);
  await using laptop = await Person.temporary();
  const words = ['login', resetLink, '--password-stdin', '--no-recovery-code-check'];
  await laptop.json(words, { input: `${NEW}\n` });
  await desk.json(['logout']);
  await desk.json(['login', '--password-stdin'], { input: `${NEW}\n` });
  const before = await homeHash(desk.home);
  const locked = errorOf(await desk.run([...start, '--json']));
  expect(locked).toMatchObject({ code: 'wrong-key', exitCode: 3 });
  expect(locked.hint).toContain('collective unlock');
  expect(await homeHash(desk.home)).toBe(before);

  await desk.json(['unlock', '--old-password', '--code-stdin'], { input: `${PASSWORD}\n` });
  await desk.json([...start, '--wait-for', 'TINY READY', '--wait-seconds', '240']);
  await onConsole('echo later >/home/later; held=in-memory; cat /home/kept; sync; echo writ""ten', /kept\s+written/);
  await desk.json(['suspend', 'tiny']);
  // The ring comes with the profile, so also after another login.
  await desk.json(['logout']);
  await desk.json(['login', '--password-stdin'], { input: `${NEW}\n` });
  expect(await desk.json(start)).toMatchObject([{ name: 'tiny', resumed: true }]);
  await onConsole('echo "$held $(cat /home/later)"', /in-memory later/);
  await desk.json(['stop', 'tiny', '--force']);
  expect(await keyOfDisk()).toEqual(key);
});
