import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskMap } from '@collective/shared';
import { describe, expect, it, onTestFinished } from 'vitest';
import { diskKeyCheck } from '../blockd/overlay/layer-keys.js';
import { encodeStackDescription } from '../blockd/overlay/stack-description.js';
import { chooseDiskKey } from './disk-key-ring.js';
import { Subscription } from './subscription.js';

const keyOf = (byte: number): string => Buffer.alloc(64, byte).toString('base64url');
const checkOf = (byte: number): string => diskKeyCheck(Buffer.alloc(64, byte));

describe('the disk key of a machine', () => {
  it('is the present one when nothing of the machine is there', () => {
    expect(chooseDiskKey([keyOf(1), keyOf(2)], [], 'x')).toBe(keyOf(1));
    expect(chooseDiskKey([keyOf(1)], [undefined], 'x')).toBe(keyOf(1));
  });

  it('is the former one with which its disks were made', () => {
    expect(chooseDiskKey([keyOf(1), keyOf(2), keyOf(3)], [checkOf(3), checkOf(3)], 'x')).toBe(keyOf(3));
    expect(chooseDiskKey([keyOf(1), keyOf(2)], [checkOf(1)], 'x')).toBe(keyOf(1));
  });

  it('is none when a disk was made with a key that is not in the ring, whatever the others were made with', () => {
    for (const checks of [[checkOf(4)], [checkOf(1), checkOf(4)], [checkOf(4), checkOf(1)]])
      expect(() => chooseDiskKey([keyOf(1)], checks, 'a disk of tiny')).toThrow(/a disk of tiny .* another key/);
  });
});

it('a subscription knows the keys of its own disks: not of a system disk that a crash left, and not of a description that is broken', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'subscription-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const subscription = await Subscription.open(folder, 'tiny');
  const shape = { diskBytes: 65_536, blockBytes: 65_536 };
  for (const name of ['home', 'scratch', 'broken'])
    await subscription.keptDisk(
      {
        description: { name, kind: 'ephemeral', bus: 'virtio', ...shape, root: null } as never,
        map: DiskMap.empty(shape),
      },
      1,
    );
  const describeDisk = async (disk: string, bytes: Buffer): Promise<void> => {
    await mkdir(subscription.overlayPath(disk), { recursive: true });
    await writeFile(join(subscription.overlayPath(disk), 'overlay.json'), bytes);
  };
  const stack = (byte: number): Buffer =>
    encodeStackDescription({
      diskBytes: 65_536,
      base: null,
      encryption: { keyCheck: checkOf(byte) },
      layerIds: ['0'.repeat(32)],
    });
  await describeDisk('system', stack(1));
  await describeDisk('home', stack(2));
  await describeDisk('broken', Buffer.from('{'));
  expect(await subscription.keyChecks()).toEqual([checkOf(2)]);
});
