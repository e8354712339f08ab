import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskMap } from '@collective/shared';
import { expect, it, onTestFinished } from 'vitest';
import { specOf } from './machine-spec-plan.js';
import { Subscription } from './subscription.js';

it('a disk that comes over the base file of a snapshot is the person’s: a reset leaves it, also after a restart', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'collective-subscription-'));
  onTestFinished(async () => rm(folder, { recursive: true, force: true }));
  const subscription = await Subscription.open(folder, 'tiny');
  const shape = { diskBytes: 1 << 20, blockBytes: 65_536, root: null, bus: 'virtio' };
  const map = DiskMap.empty({ diskBytes: 1 << 20, blockBytes: 65_536 });
  const disks = [
    { description: { name: 'system', kind: 'system', ...shape }, map },
    { description: { name: 'home', kind: 'user', ...shape }, map },
  ];
  const bases = new Map([['home', 'b'.repeat(64)]]);
  const spec = await specOf({ name: 'tiny', version: 3, machine: {}, disks, bases } as never, subscription);
  expect(spec.disks[1]?.source).toMatchObject({ kind: 'snapshot', base: 'b'.repeat(64) });
  for (const name of ['system', 'home']) await mkdir(subscription.overlayPath(name), { recursive: true });
  const again = await Subscription.open(folder, 'tiny');
  expect(again.userDisks).toEqual(['home']);
  expect(await again.disksMadeAnew()).toEqual(['system']);
});
