/**
 * The agent is killed after each step of a snapshot, and a new one goes on over the files and disks that it left: what was
 * sealed is saved exactly once, and the disk is the same as if nothing had happened.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { BackupStep } from '@collective/transceiver';
import { BackupLab, DISK, Killed, type Transceiver } from './backup-lab.js';
import { unreachable } from './injected-client.js';

let lab: BackupLab;
let home: Transceiver;

beforeEach(async () => {
  lab = await BackupLab.open();
  home = await lab.transceiver();
  await home.create();
  home.write(7, 60_000);
  await home.save('start');
});
afterEach(async () => lab[Symbol.asyncDispose]());

const killAt = (step: BackupStep, nth = 1): void => {
  let left = nth;
  home.onStep = (at) => {
    if (at !== step) return;
    left -= 1;
    if (left === 0) throw new Killed(step);
  };
};

const numberIsSaved = async (number: number, content: Buffer): Promise<void> => {
  const { head, pending, next, subscription } = home.backup.state;
  expect([head?.number, pending, next]).toEqual([number, null, []]);
  expect(await lab.head(subscription)).toMatchObject({ number: head?.number, manifest: head?.manifest });
  expect((await lab.snapshotBytes(subscription, number)).equals(content)).toBe(true);
  expect(home.content.equals(content)).toBe(true);
  expect(await home.disks.sealedLayers(DISK)).toEqual([]);
};

const STEPS: readonly BackupStep[] = [
  'seal-noted',
  'object-packed',
  'bases-written',
  'pack-noted',
  'upload-opened',
  'part-sent',
  'object-sent',
  'snapshot-committed',
  'commit-noted',
  'disk-rebased',
  'rebase-noted',
  'cleaned-up',
];

describe('killed at', () => {
  test.each(STEPS)('%s: the next agent goes on, and nothing is lost', async (step) => {
    for (let block = 0; block < 40; block += 1) home.write(100 + block, 50_000 + block);
    const content = home.content;
    killAt(step);
    await expect(home.save()).rejects.toThrow(Killed);
    await home.restart();
    expect(await home.drain()).toBe('idle');
    await numberIsSaved(2, content);
    // And the one after it.
    home.write(9, 40_000);
    const later = home.content;
    await home.save();
    await numberIsSaved(3, later);
  });

  test('disk-sealed: what no note tells of is saved with the next seal', async () => {
    home.write(9, 40_000);
    const content = home.content;
    killAt('disk-sealed');
    await expect(home.save()).rejects.toThrow(Killed);
    await home.restart();
    expect(await home.backup.hasLeftovers()).toBe(true);
    await home.save('stop');
    await numberIsSaved(2, content);
  });

  test('every part: a part is sent at most twice', async () => {
    for (let block = 0; block < 60; block += 1) home.disks.write(DISK, (100 + block) * 4_096, noise(block));
    const content = home.content;
    await home.backup.seal('request');
    const before = home.client.partBytes;
    for (let kills = 0; ; kills += 1) {
      killAt('part-sent');
      const end = await home.drain().catch(() => undefined);
      await home.restart();
      if (end === 'idle') break;
      expect(kills).toBeLessThan(20);
    }
    await numberIsSaved(2, content);
    // Three full parts and the rest: each arrived once, because the server says where to go on.
    expect(home.client.partBytes - before).toBeLessThan(60 * 4_096 * 1.1);
  });
});

/** Does not compress. */
const noise = (seed: number): Buffer => {
  const block = Buffer.alloc(4_096);
  let state = seed + 1;
  for (let at = 0; at < block.length; at += 1) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    block[at] = state >>> 16;
  }
  return block;
};

describe('answers get lost', () => {
  test.each(['takeLease', 'openSnapshotUpload', 'uploadSnapshotPart', 'commitSnapshot', 'createSubscription'] as const)(
    'of %s: asked again, one snapshot is made',
    async (route) => {
      const fresh = await lab.transceiver();
      home = fresh;
      await fresh.create();
      fresh.write(3, 70_000);
      const content = fresh.content;
      await fresh.backup.seal('request');
      let losses = 2;
      fresh.client.afterCall = (name) => {
        if (name === route && losses > 0) {
          losses -= 1;
          throw unreachable();
        }
      };
      await expect(fresh.drain()).rejects.toThrow('cannot be reached');
      // Once with the same agent, once with a new one.
      await fresh.drain().catch(() => undefined);
      await fresh.restart();
      expect(await fresh.drain()).toBe('idle');
      await numberIsSaved(1, content);
    },
  );

  test('of the commit, and the lease was taken anew meanwhile: the snapshot is found, not made twice', async () => {
    home.write(3, 70_000);
    const content = home.content;
    await home.backup.seal('request');
    home.client.afterCall = (name) => {
      if (name === 'commitSnapshot') throw unreachable();
    };
    await expect(home.drain()).rejects.toThrow('cannot be reached');
    home.client.afterCall = () => undefined;
    await home.restart();
    await home.backup.leases.take('free');
    expect(await home.drain()).toBe('idle');
    await numberIsSaved(2, content);
  });

  test('the lease was taken anew before the commit: the manifest is signed again, nothing is sent again', async () => {
    home.write(3, 70_000);
    const content = home.content;
    await home.backup.seal('request');
    let isLost = false;
    home.client.beforeCall = (name) => {
      if (name === 'commitSnapshot' && !isLost) {
        isLost = true;
        throw unreachable();
      }
    };
    await expect(home.drain()).rejects.toThrow('cannot be reached');
    const sent = home.client.partBytes;
    await home.restart();
    await home.backup.leases.take('free');
    expect(await home.drain()).toBe('idle');
    expect(home.client.partBytes).toBe(sent);
    expect(home.steps).toContain('manifest-renewed');
    await numberIsSaved(2, content);
  });
});
