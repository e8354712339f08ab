import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskMap, sha256, type DiskDescription } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DEFAULT_MACHINE } from '../publish/recipe.js';
import type { MachinePlan } from './machine-port.js';
import { specOf } from './machine-spec-plan.js';
import { isMaintenance, Maintenance, maintenanceMachine } from './maintenance.js';
import { Subscription } from './subscription.js';

let home: string;
let machines: string;
let exports: string;
const of = { appliance: 'demo', version: 3, manifest: sha256(Buffer.from('manifest')) };
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'collective-maintain-'));
  machines = join(home, 'machines');
  exports = join(home, 'exports');
  await mkdir(machines);
});
afterEach(() => rm(home, { recursive: true, force: true }));

describe('a maintain session', () => {
  it('is found again by the next agent, with what it began as', async () => {
    expect(await Maintenance.find(machines, 'demo')).toBeUndefined();
    await Maintenance.begin(machines, of);
    const found = await Maintenance.find(machines, 'demo');
    expect([found?.machine, found?.version, found?.manifest, found?.isReady]).toEqual([
      'demo-maintain',
      3,
      of.manifest,
      false,
    ]);
    expect(await isMaintenance(machines, 'demo-maintain')).toBe(true);
    expect(await isMaintenance(machines, 'demo')).toBe(false);
    expect(await isMaintenance(machines, 'other-maintain')).toBe(false);
  });

  it('is ready until it is started again, and that is on the disk', async () => {
    const maintenance = await Maintenance.begin(machines, of);
    await maintenance.setReady(true);
    expect((await Maintenance.find(machines, 'demo'))?.isReady).toBe(true);
    await maintenance.setReady(false);
    expect((await Maintenance.find(machines, 'demo'))?.isReady).toBe(false);
  });

  it('goes as a whole, by its name first', async () => {
    const maintenance = await Maintenance.begin(machines, of);
    await writeFile(join(maintenance.folder, 'overlay'), 'x');
    await maintenance.remove(exports);
    expect(await readdir(machines)).toEqual([]);
    expect(await readdir(exports)).toEqual([]);
    expect(await Maintenance.find(machines, 'demo')).toBeUndefined();
  });

  it('does not take the folder of an appliance that has its name', async () => {
    await Subscription.open(machines, 'demo-maintain');
    await expect(Maintenance.begin(machines, of)).rejects.toMatchObject({ code: 'exists' });
    expect(await isMaintenance(machines, 'demo-maintain')).toBe(false);
  });

  it('whose file is damaged is an error, never another session', async () => {
    const maintenance = await Maintenance.begin(machines, of);
    await writeFile(join(maintenance.folder, 'maintain.json'), '{}');
    await expect(Maintenance.find(machines, 'demo')).rejects.toMatchObject({ code: 'malformed' });
  });

  it('has a name that machines may have', () => {
    expect(maintenanceMachine('a'.repeat(54))).toHaveLength(63);
    for (const name of ['a'.repeat(55), '../demo', ''])
      expect(() => maintenanceMachine(name)).toThrow(expect.objectContaining({ code: 'usage' }));
  });

  it('keeps its system overlay, through reboots too; a person’s machine has a fresh one', async () => {
    const disk = (name: 'system' | 'user'): DiskDescription => ({
      name,
      kind: name,
      bus: 'virtio',
      diskBytes: 65_536,
      blockBytes: 65_536,
      root: null,
      base: null,
    });
    const disks = (['system', 'user'] as const).map((name) => ({
      description: disk(name),
      map: DiskMap.empty(disk(name)),
    }));
    const plan: MachinePlan = {
      name: 'demo-maintain',
      maintains: 'demo',
      version: 3,
      manifest: of.manifest,
      machine: DEFAULT_MACHINE,
      disks,
      blocks: { origin: 'http://127.0.0.1:1' },
      diskKeys: ['k'],
    };
    const spec = await specOf(plan, await Subscription.open(machines, 'demo-maintain'));
    expect(spec.keepSystemOverlay).toBe(true);
    expect(spec.disks.map(({ overlay }) => overlay?.mode)).toEqual(['persistent', 'persistent']);
    expect(spec.disks[0]?.source).toMatchObject({ appliance: 'demo' });
    const { maintains: _maintains, ...own } = plan;
    const usual = await specOf({ ...own, name: 'demo' }, await Subscription.open(machines, 'demo'));
    expect(usual.keepSystemOverlay).toBeUndefined();
    expect(usual.disks.map(({ overlay }) => overlay?.mode)).toEqual(['temporary', 'persistent']);
  });
});
