/**
 * From what the agent verified to what the supervisor starts. System disks get a temporary overlay (fresh at each start and
 * reboot; kept in a maintain session); user and ephemeral disks a persistent one, over what they began as, whatever this version's are.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { DISK_KEY_BYTES, encodeChangedPairs } from '@collective/shared';
import type { MachineDisk, MachineSpec } from '../supervisor/machine-spec.js';
import { writeDurably } from '../storage/durable-file.js';
import type { BootTestPlan, MachinePlan, PlannedDisk } from './machine-port.js';
import type { Subscription } from './subscription.js';

type Accelerator = NonNullable<MachineSpec['accelerator']>;
const isAccelerator = (text: string): text is Accelerator => text === 'auto' || text === 'kvm' || text === 'tcg';

/** Writes the maps that the disks need, and gives the machine. */
export async function specOf(plan: MachinePlan, subscription: Subscription): Promise<MachineSpec> {
  const disks: MachineDisk[] = [];
  const maps = new Set<string>();
  const of = { name: plan.maintains ?? plan.appliance ?? plan.name, version: plan.version };
  const mode = plan.maintains === undefined ? 'temporary' : 'persistent';
  for (const disk of plan.disks) {
    const { description } = disk;
    const { name, bus, kind } = description;
    if (kind === 'system') {
      if (description.root !== null) {
        await subscription.putMap(description.root, disk.map);
        maps.add(description.root);
      }
      const source = published(
        of,
        description,
        description.root === null ? undefined : subscription.mapPath(description.root),
      );
      // What a maintain session boots is no version yet.
      const isTraced = source.kind === 'published' && plan.maintains === undefined;
      const traced = isTraced
        ? {
            ...source,
            trace: await subscription.putHints(name, { trace: plan.traces?.get(name), use: plan.uses?.get(name) }),
          }
        : source;
      disks.push({ name, bus, source: traced, overlay: { path: subscription.overlayPath(name), mode } });
      continue;
    }
    const base = plan.bases?.get(name);
    const overlay = { path: subscription.overlayPath(name), mode: 'persistent' } as const;
    // What a maintain session has of it is nobody's, and stays here.
    const isTraced = (kind === 'user' || base !== undefined) && plan.maintains === undefined;
    const trace = isTraced ? { trace: traceOf(plan, subscription, description) } : {};
    if (base !== undefined) {
      // Before its first layer: what a reset leaves, and whose key it has, is asked of the subscription.
      await subscription.keptSnapshotDisk(description, plan.version);
      disks.push({ name, bus, source: { kind: 'snapshot', folder: overlay.path, base }, overlay, ...trace });
      continue;
    }
    const kept = await subscription.keptDisk(disk, plan.version);
    const source: MachineDisk['source'] =
      kept.root === null
        ? { kind: 'zero', diskBytes: kept.diskBytes }
        : published({ name: of.name, version: kept.version }, kept, subscription.mapPath(kept.root));
    disks.push({ name, bus, source, overlay, ...trace });
  }
  await subscription.dropMaps(maps);
  return {
    machine: plan.name,
    description: plan.machine,
    disks,
    uuid: subscription.uuid,
    macAddress: subscription.macAddress,
    ...(plan.maintains === undefined ? {} : { keepSystemOverlay: true }),
    ...(plan.accel !== undefined && isAccelerator(plan.accel) ? { accelerator: plan.accel } : {}),
  };
}

/** Replayed when there is one, and the link may be used for what nobody has asked for. */
const traceOf = (
  { replaysPrivateTraces }: MachinePlan,
  subscription: Subscription,
  { name, blockBytes }: PlannedDisk['description'],
): NonNullable<MachineDisk['trace']> => {
  const path = subscription.privateTracePath(name);
  return { path, blockBytes, replay: replaysPrivateTraces === true && existsSync(path) };
};

/** A machine of its own for one boot: nothing of a subscription is used, everything lies in `folder` and goes with it. */
export async function bootTestSpec(
  plan: BootTestPlan,
  options: { readonly machine: string; readonly folder: string },
): Promise<MachineSpec> {
  const { machine, folder } = options;
  await mkdir(join(folder, 'maps'), { recursive: true, mode: 0o700 });
  const disks: MachineDisk[] = [];
  for (const disk of plan.disks) {
    const { name, bus, root, diskBytes } = disk.description;
    const overlay = { path: join(folder, 'overlays', name), mode: 'temporary' } as const;
    if (root === null) {
      disks.push({ name, bus, source: { kind: 'zero', diskBytes }, overlay });
      continue;
    }
    disks.push({
      name,
      bus,
      source: published(plan, disk.description, await writeMap(join(folder, 'maps', root), disk)),
      overlay,
    });
  }
  await mkdir(join(folder, 'overlays'), { recursive: true, mode: 0o700 });
  return {
    machine,
    description: plan.machine,
    disks,
    uuid: randomUUID(),
    macAddress: '52:54:00:00:b0:07',
    restrictNetwork: true,
  };
}

/** For overlays that are thrown away: once it is forgotten, nobody can read what was left of them. */
export const newDiskKey = (): string => randomBytes(DISK_KEY_BYTES).toString('base64url');

/** Writes the disk's map where blockd can read it; gives the path. */
export async function writeMap(path: string, { map }: PlannedDisk): Promise<string> {
  await writeDurably(path, encodeChangedPairs(map.changesSince(undefined)));
  return path;
}

export const published = (
  of: { readonly name: string; readonly version: number },
  disk: { readonly diskBytes: number; readonly blockBytes: number; readonly root: string | null },
  map: string | undefined,
): MachineDisk['source'] => ({
  kind: 'published',
  appliance: of.name,
  version: of.version,
  diskBytes: disk.diskBytes,
  blockBytes: disk.blockBytes,
  root: disk.root,
  ...(map === undefined ? {} : { map }),
});
