/**
 * nginx in front of a real server, by the configuration that docs/operating-repository.md shows: a machine boots through it, public chunks come from the
 * folder, and everything else, whatever it is called, is answered by the server, which asks for tokens as always.
 */
import { chmod, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ROUTES, sha256 } from '@collective/shared';
import { Agent, request } from 'undici';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run, runOrThrow } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { freePort } from '../support/link.js';
import { Nginx } from '../support/nginx.js';
import { BUILD, ROOT } from '../support/paths.js';
import { selfSigned } from '../support/self-signed.js';

/** Debian's nginx runs its workers so; only root can start them as somebody else. */
const WORKER = 'www-data';
const isRoot = process.getuid?.() === 0;

let home: string;
let folder: string;
let ownPort: number;
let repository: Repository;
let nginx: Nginx;
let ada: Person;
let ben: Person;
/** A chunk that was published. */
let digest: string;
const anyCertificate = new Agent({ connect: { rejectUnauthorized: false } });

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  await runOrThrow('bash', [path.join(ROOT, 'scripts/unpack-nginx.sh')]);
  home = await mkdtemp(path.join(os.tmpdir(), 'nginx-front-'));
  folder = path.join(home, 'r');
  const tls = await selfSigned(home, 'server');
  const port = await freePort();
  ownPort = await freePort();
  const url = ['--public-url', `https://127.0.0.1:${port}`];
  await repositoryCommand(['init', folder, ...url, '--tls-cert', tls.certificate]);
  const words = ['--tls-cert', tls.certificate, '--tls-key', tls.key, '--behind-proxy', '127.0.0.1'];
  repository = await Repository.serve(folder, ownPort, [...words, ...url]);
  // As the document says.
  await mkdir(path.join(folder, 'appliances'), { recursive: true });
  for (const [file, mode] of [
    [home, 0o711],
    [folder, 0o711],
    [path.join(folder, 'appliances'), 0o700],
  ] as const)
    await chmod(file, mode);
  nginx = await Nginx.open({ folder, serverPort: ownPort, port, tls, user: WORKER });
  ada = await Person.temporary();
  ben = await Person.temporary();
  await ada.login(await repository.invite('ada', 'publisher'), 'ada');
  await repository.allow('ada', 'tiny');
  await ada.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  const chunks = path.join(folder, 'chunks');
  const [first = ''] = (
    await Promise.all((await readdir(chunks)).map((name) => readdir(path.join(chunks, name))))
  ).flat();
  digest = first;
});
afterAll(async () => {
  await ben[Symbol.asyncDispose]();
  await ada[Symbol.asyncDispose]();
  await nginx[Symbol.asyncDispose]();
  await repository[Symbol.asyncDispose]();
  await anyCertificate.destroy();
  await rm(home, { recursive: true, force: true });
});

type Answer = { readonly status: number; readonly headers: Readonly<Record<string, unknown>>; readonly body: Buffer };

const ask = async (
  port: number,
  target: string,
  method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE' = 'GET',
): Promise<Answer> => {
  const { statusCode, headers, body } = await request(`https://127.0.0.1:${port}`, {
    ...{ path: target, method, dispatcher: anyCertificate },
  });
  return { status: statusCode, headers, body: Buffer.from(await body.arrayBuffer()) };
};
const chunkFile = (): string => path.join(folder, 'chunks', digest.slice(0, 2), digest);

it('a machine of somebody with a join link boots through it, and nginx passes no chunk on', async () => {
  await ben.login(await repository.invite('ben', 'user', { appliances: ['tiny'] }), 'ben');
  await ben.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240']);
  const logged = await nginx.logged();
  expect(logged).toContain('/v1/heads');
  expect(logged.filter((target) => target.startsWith('/v1/chunks/'))).toEqual([]);
  expect(nginx.complaints).toBe('');
  await ben.json(['stop', 'tiny', '--force']);
});

it('a chunk needs no token, and comes as the server sends it', async () => {
  const names = ['etag', 'cache-control', 'content-type', 'content-length'];
  for (const method of ['GET', 'HEAD'] as const) {
    const target = `/v1/chunks/${digest}`;
    const [front, own] = [await ask(nginx.port, target, method), await ask(ownPort, target, method)];
    expect([front.status, front.headers['server']]).toEqual([200, expect.stringMatching(/^nginx/)]);
    expect(names.map((name) => front.headers[name])).toEqual(names.map((name) => own.headers[name]));
    expect(sha256(front.body)).toBe(sha256(own.body));
  }
});

it('a chunk that is not there, or that nginx may not read, is asked of the server', async () => {
  const missing = await ask(nginx.port, `/v1/chunks/${'0'.repeat(64)}`);
  expect([missing.status, JSON.parse(missing.body.toString())]).toMatchObject([404, { code: 'not-found' }]);
  if (!isRoot) return;
  const bytes = await readFile(chunkFile());
  await chmod(chunkFile(), 0o600);
  const closed = await ask(nginx.port, `/v1/chunks/${digest}`);
  await chmod(chunkFile(), 0o644);
  expect([closed.status, closed.body.equals(bytes)]).toEqual([200, true]);
});

it('no other name leads to a file: the server answers as if nobody stood before it', async () => {
  const names = [
    ...[
      '/',
      '/heads',
      '/trust/1',
      '/catalogue.sqlite',
      '/server/heads.key',
      '/server/',
      '/users/',
      '/root-keys/',
      '/tmp/',
    ],
    ...['/appliances/tiny/1/manifest', '/appliances/tiny/latest', '/chunks/', '/v1/chunks/', '/v1/chunks'],
    ...[`/chunks/${digest.slice(0, 2)}/${digest}`, `/v1/chunks/${digest}/`, `/v1/chunks/${digest}x`],
    ...[`/v1/chunks/${digest.slice(0, 63)}`, `/v1/chunks/${digest.slice(0, 2)}/${digest}`, `/V1/chunks/${digest}`],
    ...[`/v1/chunks/${digest.toUpperCase()}`, '/v1/chunks/%2e%2e%2f%2e%2e%2fcatalogue.sqlite'],
  ];
  for (const name of names) {
    const [front, own] = [await ask(nginx.port, name), await ask(ownPort, name)];
    expect([name, front.status, front.body.toString()]).toEqual([name, own.status, own.body.toString()]);
    expect(front.status).toBeGreaterThanOrEqual(400);
  }
  // These nginx refuses itself, or makes another name of.
  const odd = [
    `/v1/chunks/${digest}%00`,
    '/v1/chunks/../../catalogue.sqlite',
    '/v1/chunks/../chunks/../../server/heads.key',
  ];
  for (const name of odd) expect((await ask(nginx.port, name)).status).toBeGreaterThanOrEqual(400);
});

it('every route that wants a token wants it here, too', async () => {
  const closed = Object.values(ROUTES).filter(({ auth }) => auth !== 'none');
  expect(closed.length).toBeGreaterThan(30);
  for (const { method, path: template } of closed) {
    const { status, body } = await ask(nginx.port, template.replace(/:[A-Za-z]+/g, 'x'), method);
    expect([template, status, JSON.parse(body.toString())]).toMatchObject([template, 401, { code: 'not-logged-in' }]);
  }
});

it.runIf(isRoot)('whoever nginx runs as can read chunks, and nothing else of the folder', async () => {
  const asWorker = async (...words: string[]): Promise<number | null> =>
    (await run('setpriv', [`--reuid=${WORKER}`, `--regid=${WORKER}`, '--clear-groups', ...words])).code;
  expect(await asWorker('cat', chunkFile())).toBe(0);
  expect(await asWorker('cat', path.join(folder, 'catalogue.sqlite'))).not.toBe(0);
  for (const name of ['.', 'appliances', 'server', 'users', 'root-keys', 'tmp'])
    expect([name, await asWorker('ls', path.join(folder, name))]).not.toEqual([name, 0]);
});
