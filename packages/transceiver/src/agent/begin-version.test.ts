import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskMap, type Digest } from '@collective/shared';
import { MachineBackup } from '../backup/machine-backup.js';
import { MemoryDisks } from '../backup/memory-disks.double.js';
import type { MachineParts } from '../backup/backup-types.js';
import { beginningOf, noteVersion, writerOf, type StartedVersion } from './begin-version.js';
import { specOf } from './machine-spec-plan.js';
import type { PlannedDisk } from './machine-port.js';
import { Subscription } from './subscription.js';

const SHAPE = { diskBytes: 1 << 20, blockBytes: 65_536 };
let home: string;
let subscription: Subscription;
let backup: MachineBackup;

const overlayOf = (disk: string): string => join(home, 'tiny', 'overlays', disk);
const plannedDisk = (name: string, kind: PlannedDisk['description']['kind']): PlannedDisk => {
  const map = DiskMap.empty(SHAPE);
  if (kind === 'user') map.set(0, { kind: 'public', digest: name.charCodeAt(0).toString(16).repeat(32) as Digest });
  const root = kind === 'user' ? map.build().root : null;
  return { description: { name, kind, bus: 'virtio', ...SHAPE, root, base: null }, map };
};
/** A version of these disks; `name:kind`, a user disk without a kind. */
const version = (number: number, ...disks: readonly string[]): StartedVersion => ({
  appliance: 'tiny',
  version: {
    verified: { manifest: { version: number }, digest: String(number).repeat(64) },
    disks: ['system:system', ...disks].map((text) => {
      const [name = '', kind = 'user'] = text.split(':');
      return plannedDisk(name, kind as 'user');
    }),
  } as unknown as StartedVersion['version'],
});
const begin = async (of: StartedVersion): Promise<void> => noteVersion(backup, { ...of, subscription });
const attached = (): readonly string[] =>
  backup.state.disks.filter(({ isAttached }) => isAttached).map(({ name }) => name);
const names = (): readonly string[] => backup.state.disks.map(({ name }) => name);

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'begin-version-'));
  subscription = await Subscription.open(home, 'tiny');
  const parts = {
    ...{ name: 'tiny', folder: join(home, 'tiny'), overlayOf, person: { client: {} }, isRunning: () => false },
    disks: new MemoryDisks({ fetch: () => Promise.reject(new Error('no network')), nameKeys: [] }),
  } as unknown as MachineParts;
  const first = version(1, 'home');
  const writer = writerOf(first);
  const disk = first.version.disks[1] as PlannedDisk;
  const disks = [await beginningOf(disk, { subscription, writer, overlayOf })];
  backup = await MachineBackup.create(parts, { appliance: 'tiny', disks, writer });
  await begin(first);
});
afterEach(async () => rm(home, { recursive: true, force: true }));

describe('the start of a version', () => {
  it('that brings a user disk makes it part of the subscription, as it begins; again changes nothing', async () => {
    const second = version(2, 'home', 'mail');
    await begin(second);
    expect([names(), attached()]).toEqual([
      ['home', 'mail'],
      ['home', 'mail'],
    ]);
    const { root } = (second.version.disks[2] as PlannedDisk).description;
    expect(backup.state.disks[1]).toMatchObject({ base: { appliance: 'tiny', version: 2, root }, committed: null });
    expect(backup.state.writer).toEqual(writerOf(second));
    expect(subscription.userDisks).toEqual(['home', 'mail']);
    const { state } = backup;
    await begin(second);
    expect(backup.state).toEqual(state);
    // A later version begins it differently: what it was begun as counts.
    await begin(version(3, 'mail', 'home'));
    expect(backup.state.disks).toEqual(state.disks);
  });

  it('that drops a user disk keeps it, unattached; a reset leaves its overlay, and another version has it again', async () => {
    await begin(version(2, 'home', 'mail'));
    await begin(version(3, 'mail'));
    expect([names(), attached()]).toEqual([['home', 'mail'], ['mail']]);
    for (const disk of ['home', 'mail', 'system']) await mkdir(overlayOf(disk), { recursive: true });
    expect(await (await Subscription.open(home, 'tiny')).disksMadeAnew()).toEqual(['system']);
    await begin(version(1, 'home'));
    expect(attached()).toEqual(['home']);
    await begin(version(4));
    expect([names(), attached()]).toEqual([['home', 'mail'], []]);
  });

  it('that calls it ephemeral has it all the same; the other way round it becomes the person’s', async () => {
    await begin(version(2, 'home:ephemeral', 'cache:ephemeral'));
    expect([names(), attached()]).toEqual([['home'], ['home']]);
    const { verified, disks } = version(2, 'home:ephemeral', 'cache:ephemeral').version;
    const plan = { name: 'tiny', version: verified.manifest.version, machine: {}, disks, bases: new Map() };
    await specOf(plan as never, subscription);
    expect(subscription.userDisks).toEqual(['home']);
    await begin(version(3, 'home', 'cache'));
    expect(attached()).toEqual(['home', 'cache']);
    expect((await Subscription.open(home, 'tiny')).userDisks.sort()).toEqual(['cache', 'home']);
  });

  it('whose system disk has the name of a user disk is refused: its overlay would take the place of the person’s', async () => {
    const { state } = backup;
    await expect(begin(version(2, 'home:system'))).rejects.toMatchObject({ code: 'bad-machine' });
    expect(backup.state).toBe(state);
  });

  it('that would give the subscription more disks than are kept is refused', async () => {
    for (let number = 2; number <= 5; number += 1)
      await begin(version(number, ...Array.from({ length: 7 }, (_none, at) => `d${String(number)}${String(at)}`)));
    const more = Array.from({ length: 7 }, (_none, at) => `e${String(at)}`);
    await expect(begin(version(6, ...more))).rejects.toMatchObject({ code: 'bad-machine' });
    expect(names().length).toBe(29);
  });
});
