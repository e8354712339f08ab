/**
 * The server's command line as an administrator uses it: exit codes, what is refused, TLS with a pinned certificate,
 * trust given and taken beside a running server, damage found by `check`.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseJoinLink, sha256 } from '@collective/shared';
import { Agent, request } from 'undici';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Child, run, runOrThrow, type RunResult } from '../support/child.js';
import { Repository, repositoryCommand } from '../support/collective.js';
import { COLLECTIVE_REPOSITORY } from '../support/paths.js';
import { blockOf, ServerClient } from './server-client.js';

let folder: string;
let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'server-commands-'));
  folder = join(home, 'repository');
});
afterEach(() => rm(home, { recursive: true, force: true }));

const command = (...words: string[]): Promise<RunResult> => run(process.execPath, [COLLECTIVE_REPOSITORY, ...words]);
const LISTENING = /^\{.*"origin".*\}$/m;

describe('collective-repository', () => {
  test('init makes closed folders and a join link whose identity is trust/1, and never touches a used folder', async () => {
    const made = await repositoryCommand([
      'init',
      folder,
      '--admin',
      'boss',
      '--public-url',
      'https://repository.example.org',
    ]);
    const link = parseJoinLink(String(made['joinLink']));
    expect(link).toMatchObject({ origin: 'https://repository.example.org', identity: made['identity'] });
    expect(sha256(await readFile(join(folder, 'trust', '1')))).toBe(link.identity);
    for (const name of ['root-keys', 'server', 'users', 'tmp'])
      expect((await stat(join(folder, name))).mode & 0o777).toBe(0o700);
    for (const name of await readdir(join(folder, 'root-keys'))) {
      expect((await stat(join(folder, 'root-keys', name))).mode & 0o777).toBe(0o600);
    }
    expect((await stat(join(folder, 'catalogue.sqlite'))).mode & 0o777).toBe(0o600);
    const again = await command('init', folder, '--json');
    expect([again.code, JSON.parse(again.stderr)]).toMatchObject([3, { error: { code: 'exists' } }]);
    // A join link that was given an origin keeps it, wherever the server listens.
    await using repository = await Repository.serve(folder);
    expect(
      await repositoryCommand([
        'invite',
        repository.folder,
        'bob',
        '--role',
        'user',
        '--appliance',
        'debian:publish',
        'tiny',
      ]),
    ).toMatchObject({
      joinLink: expect.stringMatching(/^https:\/\/repository\.example\.org\/#v1\./),
      appliances: [
        { name: 'debian', access: 'publish' },
        { name: 'tiny', access: 'use' },
      ],
    });
  });

  test('a server runs the collector by itself, and its end ends a collection under way', async () => {
    await repositoryCommand(['init', folder]);
    await using repository = await Repository.serve(folder, 0, ['--collect-every', '1s', '--log-level', 'info']);
    await repository.process.waitFor(/"chunksDeleted\\?":0.*"msg":"collecting garbage"/);
    expect((await repository.process.stop()).code).toBe(0);
  });

  test('retention: is shown and set beside a running server; what would lose snapshots is refused and changes nothing', async () => {
    await repositoryCommand(['init', folder]);
    const DEFAULT = { keep: '1h:all,1d:5m,1w:1h,30d:1d,rest:1w', newest: 10, deleted: '30d' };
    expect(await repositoryCommand(['retention', folder])).toMatchObject({ ...DEFAULT, keptInAYear: 660 });
    await using repository = await Repository.serve(folder);
    const words = ['--keep', '7d:all,rest:none', '--deleted', '90d'];
    const set = { keep: '1w:all,rest:none', newest: 10, deleted: '90d' };
    expect(await repositoryCommand(['retention', folder, ...words])).toMatchObject(set);
    for (const [wrong, what] of [
      [['--newest', '9'], /at least the last 10/],
      [['--keep', '1h:all'], /does not end with rest:TIME/],
      [['--deleted', '1h'], /from 1d/],
      [['--default', '--newest', '20'], /give it alone/],
    ] as const) {
      const { code, stderr } = await command('retention', folder, ...wrong);
      expect([code, stderr]).toEqual([2, expect.stringMatching(what)]);
    }
    expect(await repositoryCommand(['retention', folder])).toMatchObject(set);
    const file = join(folder, 'server', 'retention.json');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    await writeFile(file, '{"format":1,"keep":"rest:1d","newest":0,"deleted":"30d"}');
    for (const words of [
      ['retention', folder],
      ['gc', folder],
      ['serve', join(home, 'repository')],
    ]) {
      if (words[0] === 'serve') await repository.process.stop();
      const { code, stderr } = await command(...words);
      expect([words[0], code, stderr]).toEqual([words[0], 1, expect.stringMatching(/retention\.json.*set it anew/)]);
    }
    expect(await repositoryCommand(['retention', folder, '--default'])).toMatchObject(DEFAULT);
    await repository.restart();
  });

  test('wrong use ends with 2, a folder that is no repository with 1', async () => {
    for (const words of [
      [],
      ['serve'],
      ['nonsense'],
      ['init', folder, '--admin', 'Not A Name'],
      ['init', folder, '--public-url', 'ftp://x'],
      ['serve', folder, '--listen', '127.0.0.1'],
      ['serve', folder, '--listen', '127.0.0.1:99999'],
      ['serve', folder, '--collect-every', 'often'],
      ['serve', folder, '--collect-every', '999d'],
      ['serve', folder, '--grace', '1 week'],
      ['serve', folder, '--tls-cert', 'x'],
      ['serve', folder, '--listen', '0.0.0.0:0'],
      ['invite', folder, 'bob'],
      ['invite', folder, 'bob', '--role', 'king'],
      ['gc', folder, '--grace', 'soon'],
    ]) {
      const { code, stderr } = await command(...words);
      expect([words, code]).toEqual([words, 2]);
      expect(words.length === 0 || stderr.startsWith('collective-repository: ')).toBe(true);
    }
    for (const words of [
      ['serve', folder],
      ['check', folder],
      ['gc', folder],
      ['invite', folder, 'bob', '--role', 'user'],
    ]) {
      expect((await command(...words)).code).toBe(1);
    }
    expect((await command('--help')).code).toBe(0);
  });

  test('a second server on the folder is refused, and the next one starts when the first was killed', async () => {
    await repositoryCommand(['init', folder]);
    await using repository = await Repository.serve(folder);
    const second = await command('serve', folder, '--listen', '127.0.0.1:0', '--json');
    expect([second.code, JSON.parse(second.stderr)]).toMatchObject([3, { error: { code: 'in-use' } }]);
    await repository.restart();
    const port = await command('serve', folder, '--listen', `127.0.0.1:${repository.port}`, '--json');
    expect(port.code).toBe(3);
  });

  test('SIGTERM ends the server with 0 while a connection is open', async () => {
    await repositoryCommand(['init', folder]);
    const server = new Child('serve', process.execPath, [
      COLLECTIVE_REPOSITORY,
      'serve',
      folder,
      '--listen',
      '127.0.0.1:0',
      '--json',
    ]);
    const [line] = await server.waitFor(LISTENING);
    const agent = new Agent();
    await (await request(`${String(JSON.parse(line)['origin'])}/v1/health`, { dispatcher: agent })).body.dump();
    expect((await server.stop('SIGTERM')).code).toBe(0);
    await agent.destroy();
  });

  test('TLS: the join link pins a self-signed certificate, plain HTTP is not answered', async () => {
    const [certificate, key] = [join(home, 'cert.pem'), join(home, 'key.pem')];
    await runOrThrow('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
      ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate],
    ]);
    const spki = new X509Certificate(await readFile(certificate)).publicKey.export({ type: 'spki', format: 'der' });
    const pin = createHash('sha256').update(spki).digest('base64url');
    const made = await repositoryCommand([
      'init',
      folder,
      '--tls-cert',
      certificate,
      '--public-url',
      'https://127.0.0.1:1',
    ]);
    expect(parseJoinLink(String(made['joinLink'])).pin).toBe(pin);
    const words = [
      'serve',
      folder,
      '--listen',
      '127.0.0.1:0',
      '--tls-cert',
      certificate,
      '--tls-key',
      key,
      '--public-url',
      'https://127.0.0.1:1',
    ];
    await using server = new Child('serve', process.execPath, [COLLECTIVE_REPOSITORY, ...words, '--json']);
    const [line] = await server.waitFor(LISTENING);
    expect(parseJoinLink(String(JSON.parse(line)['joinLink']))).toMatchObject({ origin: 'https://127.0.0.1:1', pin });
    const [, port] = await server.waitFor(/listening at https:\/\/127\.0\.0\.1:(\d+)/);
    const agent = new Agent({ connect: { ca: await readFile(certificate) } });
    const health = await request(`https://127.0.0.1:${port}/v1/health`, { dispatcher: agent });
    expect([health.statusCode, await health.body.json()]).toEqual([200, { ok: true }]);
    await expect(request(`http://127.0.0.1:${port}/v1/health`, { dispatcher: agent })).rejects.toThrow();
    await agent.destroy();
  });

  test('trust is given and taken beside a running server, which obeys at once; without root keys it is refused', async () => {
    await repositoryCommand(['init', folder]);
    await using repository = await Repository.serve(folder);
    const early = await command('trust', 'allow', folder, 'alice', 'debian');
    expect(early.code).toBe(1);
    const alice = await ServerClient.join(await repository.invite('alice', 'publisher'), 'alice');
    const manifest = alice.manifest('debian', 1, null, [1, 2]);
    const upload = await alice.upload('debian', null, [1, 2]);
    expect((await alice.commit(upload, manifest)).json).toMatchObject({ code: 'untrusted' });
    const allowed = await repositoryCommand(['trust', 'allow', folder, 'alice', 'debian']);
    expect(allowed).toMatchObject({ number: 2, publishers: [{ name: 'alice', appliances: ['debian'] }] });
    expect((await alice.commit(upload, manifest)).status).toBe(201);

    const [publisher] = allowed['publishers'] as { keyid: string }[];
    await rm(join(folder, 'root-keys', 'root-1.key'));
    await repositoryCommand(['trust', 'revoke', folder, publisher?.keyid ?? '']);
    const head = { version: 1, manifest: sha256(manifest) };
    const second = await alice.upload('debian', head, [1, 3]);
    expect((await alice.commit(second, alice.manifest('debian', 2, head, [1, 3]))).json).toMatchObject({
      code: 'untrusted',
    });
    await rm(join(folder, 'root-keys', 'root-2.key'));
    const refused = await command('trust', 'allow', folder, 'alice', 'debian');
    expect(refused.code).toBe(3);
    expect(await repositoryCommand(['trust', 'show', folder])).toMatchObject({ number: 3, publishers: [] });
    expect(await repositoryCommand(['check', folder])).toMatchObject({ ok: true });
    await alice.close();
  });

  test('check ends with 4 and names the chunk that was damaged, beside a running server', async () => {
    await repositoryCommand(['init', folder]);
    await using repository = await Repository.serve(folder);
    const alice = await ServerClient.join(await repository.invite('alice', 'publisher'), 'alice');
    await repository.allow('alice', 'debian');
    const upload = await alice.upload('debian', null, [1, 2]);
    expect((await alice.commit(upload, alice.manifest('debian', 1, null, [1, 2]))).status).toBe(201);
    const digest = sha256(blockOf(2));
    await writeFile(join(folder, 'chunks', digest.slice(0, 2), digest), 'damaged');
    const check = await command('check', folder, '--json');
    expect([check.code, JSON.parse(check.stdout)]).toMatchObject([
      4,
      { ok: false, problems: [{ kind: 'chunk', name: digest }] },
    ]);
    // Sent again by a publisher it would count as known; put back from a backup it is whole again.
    const text = await command('check', folder);
    expect(text.stdout).toContain(`chunk: ${digest}: `);
    await alice.close();
  });
});
