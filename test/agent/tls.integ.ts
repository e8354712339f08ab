/** TLS to a repository: the key of the join link, a public certificate, or nothing. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Child } from '../support/child.js';
import { PASSWORD, Person, repositoryCommand } from '../support/collective.js';
import { COLLECTIVE_REPOSITORY } from '../support/paths.js';
import { selfSigned, type CertificateFiles } from '../support/self-signed.js';
import { homeHash } from './home-hash.js';
import { errorOf } from './repository-fixture.js';

let folder: string;
let server: Child;
let link: string;
const words = ['--account', 'admin', '--password-stdin', '--no-recovery-code-check', '--json'];
const input = `${PASSWORD}\n`;

const certificate = async (name: string): Promise<CertificateFiles> => selfSigned(folder, name);

const serve = async (files: { readonly certificate: string; readonly key: string }, port: number): Promise<Child> => {
  const child = new Child('repository', process.execPath, [
    ...[
      COLLECTIVE_REPOSITORY,
      'serve',
      path.join(folder, 'r'),
      '--listen',
      `127.0.0.1:${String(port)}`,
      '--log-level',
      'warn',
      '--json',
    ],
    ...['--tls-cert', files.certificate, '--tls-key', files.key],
  ]);
  await child.waitFor(/^\{.*"origin".*\}$/m);
  return child;
};

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'tls-'));
  const first = await certificate('first');
  const made = await repositoryCommand(['init', path.join(folder, 'r'), '--tls-cert', first.certificate]);
  server = await serve(first, 0);
  const origin = /"origin":\s*"([^"]+)"/.exec(server.stdout)?.[1] ?? '';
  link = String(made['joinLink']).replace(/^https?:\/\/[^/]+/, origin);
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

it('a self-signed certificate is accepted by its pin, and only by its pin', async () => {
  expect(link).toMatch(/^https:\/\/.*\.tls\./);
  await using other = await Person.temporary();
  await other.run(['appliances']);
  const before = await homeHash(other.home);
  const wrongPin = link.replace(/\.tls\.[^.]+/, `.tls.${Buffer.alloc(32, 1).toString('base64url')}`);
  const noPin = link.replace(/\.tls\.[^.]+/, '');
  for (const wrong of [wrongPin, noPin]) {
    expect(errorOf(await other.run(['login', wrong, ...words], { input }))).toMatchObject({
      code: 'wrong-server',
      exitCode: 8,
    });
  }
  expect(await homeHash(other.home)).toBe(before);

  await using person = await Person.temporary();
  expect(await person.json(['login', link, ...words], { input })).toMatchObject({ account: 'admin', connected: true });
  expect(await person.json(['appliances'])).toMatchObject({ connected: true });

  // The same repository behind another TLS key is not the server of the join link.
  const port = Number(new URL(link).port);
  await server.stop();
  server = await serve(await certificate('second'), port);
  const kept = await homeHash(person.home);
  expect(errorOf(await person.run(['appliances', '--json']))).toMatchObject({ code: 'wrong-server', exitCode: 8 });
  expect(await homeHash(person.home)).toBe(kept);
});
