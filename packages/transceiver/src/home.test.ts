import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SOCKET_PATH_BYTES_MAX, homeDirectory, openHome } from './home.js';
import { eraseSession, loadSession, saveSession } from './agent/session-file.js';
import { takeHomeLock } from './agent/home-lock.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-home-'));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

const runtime = async (): Promise<NodeJS.ProcessEnv> => {
  const directory = join(folder, 'xdg');
  await mkdir(directory, { recursive: true, mode: 0o700 });
  return { XDG_RUNTIME_DIR: directory };
};

describe('homeDirectory', () => {
  it('takes the option before the environment before the custom', () => {
    expect(homeDirectory('/a', { COLLECTIVE_HOME: '/b' })).toBe('/a');
    expect(homeDirectory(undefined, { COLLECTIVE_HOME: '/b' })).toBe('/b');
    expect(homeDirectory(undefined, {})).toMatch(/\/\.local\/share\/collective$/);
  });

  it('refuses an empty name', () => {
    expect(() => homeDirectory(undefined, { COLLECTIVE_HOME: '' })).toThrow(/empty/);
  });
});

describe('openHome', () => {
  it('makes everything 0700', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    for (const directory of [home.directory, home.trustDirectory, home.cacheDirectory, home.runDirectory]) {
      expect((await stat(directory)).mode & 0o777).toBe(0o700);
    }
  });

  it('refuses a folder that holds other things, and leaves its mode alone', async () => {
    const other = join(folder, 'other');
    await mkdir(other, { mode: 0o755 });
    await chmod(other, 0o755);
    await writeFile(join(other, 'letter'), 'x');
    await expect(openHome(other, await runtime())).rejects.toMatchObject({ code: 'usage' });
    expect((await stat(other)).mode & 0o777).toBe(0o755);
  });

  it('names sockets through a short link when the home is deep', async () => {
    const deep = join(folder, 'd'.repeat(50), 'e'.repeat(50));
    const home = await openHome(deep, await runtime());
    expect(Buffer.byteLength(home.agentSocket)).toBeLessThanOrEqual(SOCKET_PATH_BYTES_MAX);
    await writeFile(join(home.runDirectory, 'probe'), 'there');
    expect(await readFile(join(deep, 'run', 'probe'), 'utf8')).toBe('there');
  });

  it('says so when there is no room for a short link either', async () => {
    const long = join(folder, 'x'.repeat(80));
    await mkdir(long, { mode: 0o700 });
    const deep = join(folder, 'd'.repeat(50), 'e'.repeat(50));
    await expect(openHome(deep, { XDG_RUNTIME_DIR: long })).rejects.toMatchObject({ code: 'usage' });
  });
});

describe('the session file', () => {
  const keys = {
    account: 'a',
    deviceSeed: Buffer.alloc(32, 1),
    personSecret: Buffer.alloc(32, 2),
    since: 5,
    ring: [{ epoch: 2, secret: Buffer.alloc(32, 3) }],
  };

  it('lies in the runtime directory, 0600, and is found again', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    await saveSession(home, keys);
    expect(await loadSession(home)).toEqual(keys);
    expect((await stat(home.sessionFile)).mode & 0o777).toBe(0o600);
    expect(home.sessionDirectory.startsWith(join(folder, 'xdg'))).toBe(true);
  });

  it('an agent with another environment finds it too', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    await saveSession(home, keys);
    const other = await openHome(join(folder, 'h'), { XDG_RUNTIME_DIR: '/nowhere' });
    expect(await loadSession(other)).toEqual(keys);
  });

  it('of an agent that knew no epochs is read, with an empty ring', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    await saveSession(home, keys);
    const path = join(home.sessionDirectory, 'session.json');
    const { ring: _ring, ...before } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
    await writeFile(path, JSON.stringify(before));
    expect(await loadSession(home)).toEqual({ ...keys, ring: [] });
  });

  it('is gone after it was erased, link and all', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    await saveSession(home, keys);
    await eraseSession(home);
    expect(await loadSession(home)).toBeUndefined();
    await expect(stat(join(home.sessionDirectory, 'session.json'))).rejects.toThrow();
    await eraseSession(home);
  });

  it('is refused when others can read it', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    await saveSession(home, keys);
    await chmod(join(home.sessionDirectory, 'session.json'), 0o644);
    await expect(loadSession(home)).rejects.toMatchObject({ code: 'not-allowed' });
  });
});

describe('the lock of a home', () => {
  it('is had by one', async () => {
    const home = await openHome(join(folder, 'h'), await runtime());
    const lock = await takeHomeLock(home);
    await expect(takeHomeLock(home)).rejects.toMatchObject({ code: 'in-use' });
    await lock.release();
    await (await takeHomeLock(home)).release();
  });
});
