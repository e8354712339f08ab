/**
 * The keeper against a block daemon that does what the test wants: a small script with the same control protocol, which takes its
 * lock at once and may be slow to answer or refuse to attach.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { BlockdKeeper } from './blockd-keeper.js';
import type { DiskAttachment } from './disk-service.js';
import { RepositoryFile } from './repository-file.js';

// Each starts a few processes, of which a busy host starts one in seconds.
vi.setConfig({ testTimeout: 60_000 });

const DAEMON = `
import { appendFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { createInterface } from 'node:readline';
const folder = process.argv[2];
const at = (name) => folder + '/' + name;
try { mkdirSync(at('lock')); } catch { process.exit(3); }
const end = () => { rmSync(at('lock'), { recursive: true }); process.exit(0); };
process.on('SIGTERM', end);
process.on('disconnect', () => undefined);
const disks = [];
let repository = null;
const server = net.createServer((socket) => {
  socket.on('error', () => undefined);
  createInterface({ input: socket }).on('line', async (line) => {
    const { id, method, params } = JSON.parse(line);
    appendFileSync(at('asked'), process.pid + ' ' + method + '\\n');
    const reply = (value) => socket.write(JSON.stringify({ id, ...value }) + '\\n');
    if (method === 'shutdown') return end();
    if (method === 'hello' && existsSync(at('hangs'))) return;
    if (method === 'hello') return reply({ result: { protocol: 1, pid: process.pid, startedAt: 0 } });
    if (method === 'status') {
      const status = { disks: disks.map((disk) => ({ ...disk, waiting: [] })), repository, lastError: null };
      return setTimeout(() => reply({ result: status }), existsSync(at('slow')) ? 2500 : 0);
    }
    if (method === 'keys' || method === 'attach' || method === 'repository')
      appendFileSync(at('said'), JSON.stringify({ pid: process.pid, method, ...params }) + '\\n');
    if (method === 'repository') repository = params.origin;
    if (method === 'attach' && existsSync(at('stuck'))) return writeFileSync(at('hangs'), '');
    if (method === 'attach') {
      if (existsSync(at('late'))) {
        // It was being attached for somebody else until now.
        disks.push({ session: params.session, disk: params.disk });
        return reply({ error: { code: 'exists', message: 'attached already', data: {} } });
      }
      if (existsSync(at('full'))) return reply({ error: { code: 'disk-full', message: 'no space', data: {} } });
      disks.push({ session: params.session, disk: params.disk });
    }
    reply({ result: {} });
  });
});
const listen = () => { rmSync(at('blockd.sock'), { force: true }); server.listen(at('blockd.sock')); };
setTimeout(listen, Number(process.argv[3] ?? 0));
`;

const setUp = async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-keeper-'));
  const at = (name: string): string => path.join(folder, name);
  await writeFile(at('daemon.mjs'), DAEMON);
  const log: string[] = [];
  const open = async (more: Partial<Parameters<typeof BlockdKeeper.open>[0]> = {}): Promise<BlockdKeeper> => {
    const keeper = await BlockdKeeper.open({
      program: {
        module: at('daemon.mjs'),
        words: [folder],
        controlSocket: at('blockd.sock'),
        logFile: at('blockd.log'),
      },
      repositoryFile: new RepositoryFile(at('repository.json')),
      log: (text) => void log.push(text),
      ...more,
    });
    onTestFinished(async () => {
      await keeper.close();
      await rm(folder, { recursive: true, force: true });
    });
    return keeper;
  };
  const attachment: DiskAttachment = {
    machine: 'one',
    disk: 'system',
    source: { kind: 'zero', diskBytes: 1 << 20 },
    waitMs: 5_000,
    graceMs: 0,
    socketPath: at('nbd'),
    qemuUser: undefined,
  };
  /** Waits for a socket or a folder that another process makes: a read of it fails with this code then. A busy host takes its time. */
  const present = async (name: string, code: 'ENXIO' | 'EISDIR'): Promise<void> => {
    await expect
      .poll(() => readFile(at(name)).catch((error: unknown) => String(error)), { timeout: 15_000 })
      .toContain(code);
  };
  /** A daemon that somebody else starts, and that listens after so long; a failed test leaves none behind. */
  const startOrphan = (listensAfterMs: number): ChildProcess => {
    const orphan = fork(at('daemon.mjs'), [folder, String(listensAfterMs)], { stdio: 'ignore' });
    onTestFinished(() => void orphan.kill('SIGKILL'));
    return orphan;
  };
  const asked = async (): Promise<string> => await readFile(at('asked'), 'utf8').catch(() => '');
  /** A daemon that dies as by kill -9: its lock goes with it. */
  const kill = async (pid: number | null): Promise<void> => {
    await rm(at('lock'), { recursive: true });
    process.kill(pid ?? 0, 'SIGKILL');
  };
  return { folder, at, log, open, attachment, startOrphan, asked, present, kill };
};

test('a daemon that a killed supervisor had just started is ended, and does not keep the next one from having its own', async () => {
  const { open, log, present, startOrphan } = await setUp();
  const orphan = startOrphan(2_000);
  const ended = once(orphan, 'exit');
  await present('lock', 'EISDIR');
  const keeper = await open();
  await ended;
  await keeper.traceStart('one');
  expect(keeper.pid).not.toBe(orphan.pid);
  expect(log.join('\n')).toContain(`blockd ${orphan.pid ?? 0} was started by another supervisor`);
});

test('a disk that a restarted daemon could not open is tried again until it can, and its machine hears of it', async () => {
  const { at, open, attachment, kill, log } = await setUp();
  const keeper = await open();
  await keeper.attach(attachment, { fresh: true });
  await writeFile(at('full'), '');
  const restarted = once(keeper, 'restarted');
  await kill(keeper.pid);
  await restarted;
  expect(log.join('\n')).toContain('could not be attached again');
  expect((await keeper.status())?.disks).toEqual([]);
  const attachedAgain = once(keeper, 'restarted');
  await rm(at('full'));
  await attachedAgain;
  expect((await keeper.status())?.disks).toMatchObject([{ session: 'one', disk: 'system' }]);
});

test('a disk that a busy daemon serves is adopted, however long it takes to say so', async () => {
  const { at, open, attachment, asked } = await setUp();
  const keeper = await open();
  await keeper.attach(attachment, { fresh: true });
  await writeFile(at('slow'), '');
  await keeper.adopt(attachment);
  expect((await asked()).match(/attach/g)).toHaveLength(1);
});

test('a disk that the daemon was just attaching for a killed supervisor is adopted with the socket in whose backlog QEMU waits, and attached again to the next daemon', async () => {
  const { at, open, attachment, asked, kill, present, startOrphan } = await setUp();
  const orphan = startOrphan(0);
  await present('blockd.sock', 'ENXIO');
  await writeFile(at('late'), '');
  await writeFile(attachment.socketPath, 'the socket that was handed over');
  const keeper = await open();
  await keeper.adopt(attachment);
  expect(keeper.pid).toBe(orphan.pid);
  expect(await readFile(attachment.socketPath, 'utf8')).toBe('the socket that was handed over');
  await rm(at('late'));
  const restarted = once(keeper, 'restarted');
  await kill(orphan.pid ?? null);
  await restarted;
  expect((await asked()).match(/attach/g)).toHaveLength(2);
});

test('a daemon that its killed supervisor had not told the repository yet is told by the next one; one that knows it keeps it, and its token', async () => {
  const { at, open, present, startOrphan } = await setUp();
  await new RepositoryFile(at('repository.json')).write({ origin: 'http://127.0.0.1:99' });
  const orphan = startOrphan(0);
  await present('blockd.sock', 'ENXIO');
  const told = async (): Promise<number> =>
    (await readFile(at('said'), 'utf8').catch(() => '')).split('"method":"repository"').length - 1;
  const keeper = await open();
  await expect.poll(told).toBe(1);
  expect(keeper.pid).toBe(orphan.pid);
  // As a third supervisor would find it.
  const next = await open();
  await next.status();
  await next.traceStart('one');
  expect(await told()).toBe(1);
});

test('an attach that is given up before the daemon was asked is not asked for behind the detach', async () => {
  const { at, open, attachment, asked } = await setUp();
  const keeper = await open();
  await keeper.traceStart('one');
  const aborting = new AbortController();
  const attaching = keeper.attach(attachment, { fresh: true, signal: aborting.signal });
  aborting.abort();
  await expect(attaching).rejects.toThrow();
  await keeper.detach('one', 'system');
  await keeper.traceStart('one');
  expect(await asked()).not.toContain('attach\n');
  expect(await readFile(at('nbd')).catch((error: unknown) => String(error))).toContain('ENOENT');
});

test('a daemon that does not answer any more is killed, and the next one has its disks', async () => {
  const { at, open, attachment, log } = await setUp();
  const keeper = await open({ watch: { intervalMs: 10, answerMs: 1_000 } });
  await keeper.attach(attachment, { fresh: true });
  const { pid } = keeper;
  const restarted = once(keeper, 'restarted');
  await writeFile(at('hangs'), '');
  await expect
    .poll(() => log.join('\n'), { timeout: 20_000 })
    .toContain(`blockd ${pid ?? 0} does not answer and is killed`);
  await rm(at('hangs'));
  await rm(at('lock'), { recursive: true, force: true });
  await restarted;
  expect(keeper.pid).not.toBe(pid);
  expect((await keeper.status())?.disks).toMatchObject([{ session: 'one', disk: 'system' }]);
});

// Seen in review: it was watched only when it had been told everything, and an attach may take five minutes. All guests stood still meanwhile.
test(
  'a daemon that hangs while it is told its disks again is killed, and the next one has them',
  { timeout: 40_000 },
  async () => {
    const { at, open, attachment, log, kill } = await setUp();
    const keeper = await open({ watch: { intervalMs: 10, answerMs: 100 } });
    await keeper.attach(attachment, { fresh: true });
    await writeFile(at('stuck'), '');
    await kill(keeper.pid);
    await expect.poll(() => log.join('\n'), { timeout: 15_000 }).toContain('does not answer and is killed');
    for (const name of ['stuck', 'hangs', 'lock']) await rm(at(name), { recursive: true, force: true });
    await expect
      .poll(async () => (await keeper.status())?.disks, { timeout: 15_000 })
      .toMatchObject([{ session: 'one', disk: 'system' }]);
  },
);

test('an adopted daemon of other software is ended, and this one takes its place', async () => {
  const { open, log, present, startOrphan } = await setUp();
  const older = startOrphan(0);
  const ended = once(older, 'exit');
  await present('blockd.sock', 'ENXIO');
  const keeper = await open({ software: 'collective 2.0.0' });
  await ended;
  await keeper.traceStart('one');
  expect(keeper.pid).not.toBe(older.pid);
  expect(log.join('\n')).toContain('of older software and is replaced');
});

test('what the daemon says of a full disk and of a refused token is there for status', async () => {
  const { open } = await setUp();
  const keeper = await open();
  keeper.take({ event: 'disk-full', session: 'one', disk: 'user', message: 'no space' });
  keeper.take({ event: 'disk-full', session: 'one', disk: 'user', message: 'still no space' });
  keeper.take({ event: 'token-refused' });
  expect(keeper.troubles).toMatchObject([
    { code: 'disk-full', machine: 'one', disk: 'user', message: 'still no space' },
    { code: 'not-logged-in' },
  ]);
});

test('keys of blocks that come while a disk waits for its daemon to start are those that it is attached with', async () => {
  const { folder, open, at, attachment } = await setUp();
  const keeper = await open({
    program: {
      module: at('daemon.mjs'),
      words: [folder, '500'],
      controlSocket: at('blockd.sock'),
      logFile: at('blockd.log'),
    },
  });
  const keysOf = (epoch: number) => {
    const key = Buffer.alloc(32, epoch).toString('base64url');
    return [{ epoch, blockNameKey: key, chunkKey: key }];
  };
  const overlay = { path: at('overlay'), mode: 'persistent' as const };
  const attaching = keeper.attach({ ...attachment, overlay, blockKeys: keysOf(1) }, { fresh: false });
  await keeper.setBlockKeys('one', keysOf(2));
  await attaching;
  const said = (await readFile(at('said'), 'utf8')).trim().split('\n');
  expect(said.map((line) => JSON.parse(line) as unknown)).toMatchObject([{ method: 'attach', blockKeys: keysOf(2) }]);
});

test('keys of blocks and the token go to the daemon, with each disk of the person, and again to the next one; the token is in no file', async () => {
  const { open, at, attachment } = await setUp();
  const keeper = await open();
  const keysOf = (epoch: number) => {
    const key = Buffer.alloc(32, epoch).toString('base64url');
    return [{ epoch, blockNameKey: key, chunkKey: key }];
  };
  const said = async (method: string): Promise<Record<string, unknown>[]> =>
    (await readFile(at('said'), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .filter((each) => each['method'] === method);
  const token = 'A'.repeat(43);
  await keeper.setRepository({ origin: 'http://127.0.0.1:9', token });
  const overlay = { path: at('overlay'), mode: 'persistent' as const };
  await keeper.attach(
    { ...attachment, overlay, disk: 'user', blockKeys: keysOf(1), socketPath: at('user') },
    { fresh: false },
  );
  await keeper.attach(attachment, { fresh: false });
  expect((await said('attach')).map(({ blockKeys }) => blockKeys)).toEqual([keysOf(1), undefined]);
  await keeper.setBlockKeys('one', keysOf(2));
  expect(await said('keys')).toMatchObject([{ blockKeys: keysOf(2) }]);
  const first = keeper.pid ?? 0;
  const restarted = once(keeper, 'restarted');
  process.kill(first, 'SIGKILL');
  await rm(at('lock'), { recursive: true });
  await restarted;
  const again = (await said('attach')).filter(({ pid }) => pid !== first);
  expect(again.map(({ disk, blockKeys }) => [disk, blockKeys]).sort()).toEqual([
    ['system', undefined],
    ['user', keysOf(2)],
  ]);
  const told = (await said('repository')).filter(({ pid }) => pid !== first);
  expect(told).toMatchObject([{ token }]);
  expect(await readFile(at('repository.json'), 'utf8')).not.toContain(token);
});
