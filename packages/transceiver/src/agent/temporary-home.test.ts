import { mkdir, mkdtemp, readdir, readFile, rm, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { openHome, type Home } from '../home.js';
import { removeLeftPerson } from './left-person.js';
import { saveSession } from './session-file.js';
import {
  assertFitsTemporary,
  foundTemporaryHome,
  isMarked,
  mark,
  removePerson,
  temporaryHome,
} from './temporary-home.js';

/** A folder on tmpfs, as a person's runtime directory. */
const SHM = '/dev/shm';
let home: Home;
beforeEach(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'collective-now-'));
  const runtime = await mkdtemp(join(SHM, 'collective-now-'));
  home = await openHome(join(folder, 'h'), { XDG_RUNTIME_DIR: runtime });
  onTestFinished(async () => {
    for (const each of [folder, runtime]) await rm(each, { recursive: true, force: true });
  });
});

const put = async (path: string, text = 'theirs'): Promise<void> => {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
};

/** Everything that a person leaves, in each place. */
const leaveEverything = async (): Promise<void> => {
  const { directory, sessionDirectory } = home;
  for (const name of [
    ...['device.json', 'device-locked-0123456789abcdef.json', 'device.json.0123456789ab.tmp', 'seen.json'],
    ...[
      'seen-profile.json',
      'settings.json',
      'hoard.json',
      'supervisor-repository.json',
      'trust/1',
      'objects/000005.log',
      'uploads/tiny.json',
    ],
    ...[
      'machines/tiny/overlays/home/layers/x/data',
      'machines/tiny/memory/ram',
      'exports/e/map',
      'private/blocks.slots',
    ],
    ...['log/agent.log', 'log/agent.log.1', 'run/m-0123456789/q/screen.png', 'run/blockd.sock'],
  ])
    await put(join(directory, name));
  await put(join(sessionDirectory, 'disk-keys', 'tiny'));
  await symlink(join(sessionDirectory, 'disk-keys'), home.diskKeysFolder);
  for (const name of ['device.json', 'seen.json', 'trust/1']) await put(join(sessionDirectory, name));
  await put(join(directory, 'agent.lock'), '');
  await put(join(directory, 'run', 'agent.sock'), '');
};

describe('the removal of a person', () => {
  it('leaves the folders, the public cache, and what is none of ours', async () => {
    await leaveEverything();
    for (const name of ['cache/65536.slots', 'letter', 'devices.txt', 'my-machines/x'])
      await put(join(home.directory, name), 'not theirs');
    await mark(home);
    await removePerson(home);
    const left = (await readdir(home.directory, { recursive: true })).sort();
    const folders = [
      'cache',
      'exports',
      'log',
      'machines',
      'my-machines',
      'objects',
      'private',
      'run',
      'trust',
      'uploads',
    ];
    const files = ['cache/65536.slots', 'devices.txt', 'letter', 'my-machines/x', 'agent.lock', 'run/agent.sock'];
    expect(left).toEqual([...folders, ...files, 'log/agent.log', 'log/agent.log.1'].sort());
    for (const name of ['agent.log', 'agent.log.1']) expect((await stat(join(home.logDirectory, name))).size).toBe(0);
    expect(await readdir(home.sessionDirectory)).toEqual([]);
    expect(await isMarked(home)).toBe(false);
    await removePerson(home); // once more
  });

  it('that fails leaves the mark, so that it is done again', async () => {
    await leaveEverything();
    await mark(home);
    // A folder where a log should be cannot be cut.
    await mkdir(join(home.logDirectory, 'strange'));
    await expect(removePerson(home)).rejects.toThrow(/EISDIR/);
    expect(await isMarked(home)).toBe(true);
  });
});

describe('when an agent starts', () => {
  const keys = {
    account: 'anna',
    deviceSeed: Buffer.alloc(32, 1),
    personSecret: Buffer.alloc(32, 2),
    since: 1,
    ring: [],
  };

  it('a home that was never marked is left alone', async () => {
    await leaveEverything();
    expect(await removeLeftPerson(home)).toBe(false);
    expect(await readFile(join(home.directory, 'device.json'), 'utf8')).toBe('theirs');
  });

  it.each([
    ['whose session is gone', undefined],
    ['whose removal was broken off, though the session of the owner is there', keys],
    ['whose session has no device any more', { ...keys, stay: 'now' as const }],
  ])('somebody %s is removed', async (_what, session) => {
    await leaveEverything();
    await rm(temporaryHome(home).deviceFile);
    await mark(home);
    if (session !== undefined) await saveSession(home, session);
    expect(await removeLeftPerson(home)).toBe(true);
    expect(await readdir(home.machinesDirectory)).toEqual([]);
    expect(await readdir(home.sessionDirectory)).toEqual([]);
    expect(await isMarked(home)).toBe(false);
  });
});

it('the session of an agent with another runtime directory is found where it is, and not taken for gone', async () => {
  const deviceFile = {
    ...{ format: 1, account: 'anna', device: 'a'.repeat(64), deviceName: 'x' },
    repository: { origin: 'http://127.0.0.1:1', identity: 'b'.repeat(64), pin: null },
    identityKey: Buffer.alloc(32).toString('base64url'),
    passwordParameters: { kdf: 'scrypt', logN: 17, r: 8, p: 1, salt: Buffer.alloc(16).toString('base64url') },
    box: Buffer.alloc(104).toString('base64url'),
  };
  await mark(home);
  await put(temporaryHome(home).deviceFile, JSON.stringify(deviceFile));
  const seeds = { deviceSeed: Buffer.alloc(32, 1), personSecret: Buffer.alloc(32, 2) };
  await saveSession(home, { account: 'anna', ...seeds, since: 1, ring: [], stay: 'now' });
  const other = await mkdtemp(join(SHM, 'collective-now-'));
  onTestFinished(() => rm(other, { recursive: true, force: true }));
  const elsewhere = await openHome(home.directory, { XDG_RUNTIME_DIR: other });
  expect(elsewhere.sessionDirectory).not.toBe(home.sessionDirectory);
  expect(await removeLeftPerson(elsewhere)).toBe(false);
  const place = await foundTemporaryHome(elsewhere);
  expect(place).toMatchObject({ sessionDirectory: home.sessionDirectory, deviceFile: temporaryHome(home).deviceFile });
  await rm(place.deviceFile);
  expect(await removeLeftPerson(elsewhere)).toBe(true);
  expect(await readdir(home.sessionDirectory)).toEqual([]);
});

describe('a home for now', () => {
  it('keeps device, trust and what was seen in memory, and everything else where it was', async () => {
    const now = temporaryHome(home);
    for (const path of [now.deviceFile, now.seenFile, now.seenProfileFile, now.trustDirectory]) {
      expect(path.startsWith(`${home.sessionDirectory}/`)).toBe(true);
      expect((await statfs(dirname(path))).type).toBe(0x01021994);
    }
    expect({ ...now, deviceFile: '', seenFile: '', seenProfileFile: '', trustDirectory: '' }).toEqual({
      ...home,
      ...{ deviceFile: '', seenFile: '', seenProfileFile: '', trustDirectory: '' },
    });
  });

  it('is no home that holds a device, disks, or what a reset has locked', async () => {
    await assertFitsTemporary(home);
    for (const name of ['device.json', 'machines/tiny/subscription.json', 'device-locked-0123456789abcdef.json']) {
      await put(join(home.directory, name));
      await expect(assertFitsTemporary(home)).rejects.toMatchObject({ code: 'exists' });
      await rm(join(home.directory, name.split('/').slice(0, 2).join('/')), { recursive: true });
    }
    await assertFitsTemporary(home);
  });

  it('is none where keys of the session, or those of disks that an earlier supervisor kept, lie on a disk', async () => {
    await mkdir(home.diskKeysFolder);
    await expect(assertFitsTemporary(home)).rejects.toMatchObject({ code: 'no-tmpfs' });
    await rm(home.diskKeysFolder, { recursive: true });
    const onDisk = { ...home, sessionDirectory: join(home.directory, 'run') };
    await expect(assertFitsTemporary(onDisk)).rejects.toMatchObject({ code: 'no-tmpfs' });
  });
});
