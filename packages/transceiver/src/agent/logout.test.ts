import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskMap } from '@collective/shared';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { openHome, type Home } from '../home.js';
import type { JobEvent } from './agent-types.js';
import { localDisks, type BackupSettling, type Unsaved } from './backup-settling.js';
import { removeLeftPerson } from './left-person.js';
import { logOut, type LogoutParts } from './logout.js';
import type { MachinePort } from './machine-port.js';
import { ObjectCache } from './object-cache.js';
import { Subscription } from './subscription.js';
import { isMarked } from './temporary-home.js';

let home: Home;
let objects: ObjectCache;
/** What was asked of machines and backup, in order. */
let asked: string[];
let states: Map<string, string>;
let events: JobEvent[];
let controller: AbortController;

beforeEach(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'collective-logout-'));
  home = await openHome(join(folder, 'h'), { XDG_RUNTIME_DIR: folder });
  objects = await ObjectCache.open(home.objectsDirectory);
  await objects.putHeads(Buffer.from('theirs'));
  await writeFile(home.deviceFile, 'theirs');
  [asked, events, states, controller] = [[], [], new Map(), new AbortController()];
  onTestFinished(async () => {
    await objects.close();
    await rm(folder, { recursive: true, force: true });
  });
});

/** Machines that are nothing but a state. */
const machines = {
  status: async () => ({ machines: [...states].map(([name, state]) => ({ name, state })) }),
  suspended: async () => [...states].filter(([, state]) => state === 'suspended').map(([name]) => ({ name })),
  stop: async (name: string) => {
    asked.push(`stop ${name}`);
    states.set(name, 'stopped');
  },
  shutdown: async () => void asked.push('shutdown'),
} as unknown as MachinePort;

const backupWith = (left: Unsaved): BackupSettling => ({
  settle: async ({ onProgress }) => {
    asked.push('settle');
    onProgress({ unsavedBytes: 5_000_000, machines: [{ name: 'tiny', unsavedBytes: 5_000_000 }] });
    return left;
  },
});
const SAVED: Unsaved = { unsavedBytes: 0, machines: [] };
const UNSAVED: Unsaved = { unsavedBytes: 3_210_000, machines: [{ name: 'tiny', unsavedBytes: 3_210_000 }] };

const parts = (left: Unsaved, more: Partial<LogoutParts> = {}): LogoutParts => ({
  ...{ home, objects, machines, backup: backupWith(left), session: undefined, isRemoval: true },
  beforeEnd: async () => void asked.push('data ends'),
  job: { emit: (event) => events.push(event), signal: controller.signal },
  ...more,
});

const isThere = async (): Promise<boolean> => (await readdir(home.directory)).includes('device.json');

describe('a logout that removes everything', () => {
  it('waits for the backup, says how it goes, ends supervisor and block daemon, then removes', async () => {
    expect(await logOut({}, parts(SAVED))).toEqual({ removed: true, notes: [] });
    expect(asked).toEqual(['settle', 'data ends', 'shutdown']);
    expect(events).toEqual([{ event: 'progress', step: 'save', text: 'Saving what is only here: 5.0 MB of tiny' }]);
    expect([await isThere(), objects.heads()]).toEqual([false, undefined]);
    await objects.putHeads(Buffer.from('of the next one')); // the cache goes on
  });

  it('refuses while a machine runs, is paused or being suspended, and asks nothing of the backup', async () => {
    for (const state of ['preparing', 'running', 'paused', 'suspending', 'stopping']) {
      states.set('tiny', state);
      await expect(logOut({}, parts(SAVED))).rejects.toMatchObject({ code: 'in-use' });
      await expect(logOut({ discard: true }, parts(SAVED))).rejects.toThrow('tiny is running');
    }
    expect([asked, await isThere()]).toEqual([[], true]);
  });

  it('stops them first when it is told to, and only those', async () => {
    states = new Map([
      ['tiny', 'running'],
      ['old', 'stopped'],
      ['bad', 'failed'],
    ]);
    await logOut({ stop: true }, parts(SAVED));
    expect(asked).toEqual(['stop tiny', 'settle', 'data ends', 'shutdown']);
  });

  it('names what is unsaved and changes nothing; with discard it does not wait for it', async () => {
    const refused = logOut({}, parts(UNSAVED));
    await expect(refused).rejects.toMatchObject({ code: 'unsaved', data: { unsavedBytes: 3_210_000, suspended: 0 } });
    await expect(refused).rejects.toThrow('Only on this machine, and lost with it: 3.2 MB of tiny.');
    expect([asked, await isThere()]).toEqual([['settle'], true]);
    asked = [];
    await logOut({ discard: true }, parts(UNSAVED));
    expect([asked, await isThere()]).toEqual([['data ends', 'shutdown'], false]);
  });

  it('counts the memory of a suspended machine as unsaved, whatever the backup says', async () => {
    states.set('tiny', 'suspended');
    await expect(logOut({}, parts(SAVED))).rejects.toThrow(
      'lost with it: what tiny, which is suspended, has in memory.',
    );
    expect(await isThere()).toBe(true);
  });

  it('that is interrupted while it waits removes nothing, although nothing is left to save', async () => {
    const settle: BackupSettling['settle'] = async () => {
      controller.abort(new Error('Ctrl-C'));
      return SAVED;
    };
    await expect(logOut({}, parts(SAVED, { backup: { settle } }))).rejects.toThrow('Ctrl-C');
    expect(await isThere()).toBe(true);
  });

  it('that is broken off while it removes is finished when the next agent starts', async () => {
    // A folder where a log should be cannot be cut.
    await mkdir(join(home.logDirectory, 'strange'));
    await expect(logOut({}, parts(SAVED))).rejects.toThrow(/EISDIR/);
    expect(await isMarked(home)).toBe(true);
    await rm(join(home.logDirectory, 'strange'), { recursive: true });
    await writeFile(join(home.directory, 'device.json'), 'as if it had not come so far');
    expect(await removeLeftPerson(home)).toBe(true);
    expect([await isThere(), await isMarked(home)]).toEqual([false, false]);
  });

  it('that cannot end the supervisor removes nothing', async () => {
    const stuck = { ...machines, shutdown: async () => Promise.reject(new Error('stuck')) };
    await expect(logOut({}, parts(SAVED, { machines: stuck }))).rejects.toThrow('stuck');
    expect([await isThere(), objects.heads()?.toString()]).toEqual([true, 'theirs']);
  });
});

it('a logout of the owner keeps everything, lets machines run, and asks nothing of the backup', async () => {
  states.set('tiny', 'running');
  expect(await logOut({}, parts(UNSAVED, { isRemoval: false }))).toEqual({ removed: false, notes: [] });
  expect([asked, await isThere(), objects.heads()?.toString()]).toEqual([['data ends'], true, 'theirs']);
  await logOut({ stop: true }, parts(UNSAVED, { isRemoval: false }));
  expect(asked).toEqual(['data ends', 'stop tiny', 'data ends']);
});

it('without a backup everything that was written to user disks is unsaved: not holes, not other disks, not what is no machine', async () => {
  const shape = { diskBytes: 1 << 30, blockBytes: 65_536 };
  const map = DiskMap.empty(shape);
  const subscription = await Subscription.open(home.machinesDirectory, 'tiny');
  for (const [name, kind] of [
    ['home', 'user'],
    ['scratch', 'ephemeral'],
  ]) {
    await subscription.keptDisk({ description: { name, kind, bus: 'virtio', ...shape, root: null } as never, map }, 1);
    const layer = join(subscription.overlayPath(name ?? ''), 'layers', '0'.repeat(32));
    await mkdir(layer, { recursive: true });
    await writeFile(join(layer, 'data'), Buffer.alloc(1 << 20, 7));
    await truncate(join(layer, 'data'), shape.diskBytes);
  }
  await mkdir(join(home.machinesDirectory, 'boot-test-1'));
  await writeFile(join(home.machinesDirectory, 'stray'), '');
  await Subscription.open(home.machinesDirectory, 'never-written');
  const options = { signal: controller.signal, onProgress: () => undefined };
  const found = await localDisks(home).settle(options);
  expect(found.machines.map(({ name }) => name)).toEqual(['tiny']);
  expect(found.unsavedBytes).toBeGreaterThanOrEqual(1 << 20);
  expect(found.unsavedBytes).toBeLessThan(2 << 20);
});
