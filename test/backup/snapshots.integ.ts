/** Snapshots of a machine's user disk against a real repository in this process: what is sent, and what can be restored. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BackupLab, DISK, INITIAL_BYTES, type Transceiver } from './backup-lab.js';

let lab: BackupLab;
let home: Transceiver;

beforeEach(async () => {
  lab = await BackupLab.open();
  home = await lab.transceiver();
  await home.create();
});
afterEach(async () => lab[Symbol.asyncDispose]());

const saved = async (): Promise<Buffer> => {
  const { head, subscription } = home.backup.state;
  return lab.snapshotBytes(subscription, head?.number ?? 0);
};

describe('snapshots', () => {
  test('the first one inherits everything: one page is sent and no block', async () => {
    expect(await home.save('start')).toBe('idle');
    const { head, pending, objects } = home.backup.state;
    expect([head?.number, pending, objects]).toEqual([1, null, [1]]);
    expect(home.client.partBytes).toBeLessThan(300);
    expect((await saved()).equals(INITIAL_BYTES)).toBe(true);
  });

  test('only what has changed is sent, once, and the disk stays what it was', async () => {
    await home.save('start');
    const before = home.client.partBytes;
    home.write(3, 70_001);
    home.write(200, 70_001); // the same content twice
    home.write(201, 70_002);
    home.write(0, 0); // zeroes
    const content = home.content;
    expect(await home.save()).toBe('idle');
    expect(home.client.partBytes - before).toBeLessThan(12_000);
    expect((await saved()).equals(content)).toBe(true);
    expect(home.content.equals(content)).toBe(true);
    expect(await home.disks.sealedLayers(DISK)).toEqual([]);
    expect(await home.disks.heldBytes(DISK)).toBe(0);
  });

  test('written again with what it had: nothing is saved, and the layers go', async () => {
    home.write(3, 70_001);
    await home.save();
    const { head } = home.backup.state;
    home.write(3, 70_001);
    home.write(5, 1_005); // as the initial user disk has it
    await home.save();
    expect(home.backup.state.head).toEqual(head);
    expect(await home.disks.heldBytes(DISK)).toBe(0);
    expect(home.events.map(({ event }) => event)).toEqual(['sealed', 'saved', 'sealed', 'unchanged']);
  });

  test('a block that goes back to what the initial disk has inherits again', async () => {
    home.write(3, 70_001);
    await home.save();
    home.write(3, 1_003);
    await home.save();
    expect((await saved()).equals(INITIAL_BYTES)).toBe(true);
  });

  test('a block of an older epoch keeps its name; a new one has the new epoch', async () => {
    home.write(3, 70_001);
    await home.save();
    home.epoch = 2;
    home.write(3, 70_001);
    home.write(4, 70_002);
    const content = home.content;
    await home.save();
    expect((await saved()).equals(content)).toBe(true);
    expect(home.backup.state.head?.number).toBe(2);
  });

  test('what is sealed while one is pending goes with the next one', async () => {
    home.write(1, 70_001);
    await home.backup.seal('periodic');
    expect(await home.backup.seal('periodic')).toBe('left-out');
    home.write(2, 70_002);
    await home.backup.seal('stop');
    home.write(3, 70_003);
    await home.backup.seal('request');
    const content = home.content;
    expect(await home.drain()).toBe('idle');
    expect(home.backup.state.head?.number).toBe(1);
    expect((await saved()).equals(content)).toBe(true);
    expect(home.events.at(-1)).toMatchObject({ event: 'saved', reason: 'stop' });
  });
});

describe('the list of objects', () => {
  test('dead ones are left out now and then; of too many the smallest are sent again', async () => {
    home.objectLimits = { listedMax: 10, left: 6, lookEvery: 4 };
    await home.restart();
    const listed = (): number => home.backup.state.objects.length;
    for (let number = 1; number <= 7; number += 1) {
      home.write(5, 50_000 + number);
      await home.save();
    }
    home.write(5, 60_000);
    await home.save();
    // Of the others nothing is left but, in the newest, pages of the map; and its own.
    expect(listed()).toBeLessThanOrEqual(2);
    // From now on each has something that lives.
    let mostListed = 0;
    for (let number = 0; number < 24; number += 1) {
      home.write(20 + 9 * number, 70_000 + number);
      await home.save();
      mostListed = Math.max(mostListed, listed());
      expect((await saved()).equals(home.content)).toBe(true);
    }
    expect(mostListed).toBe(11);
    expect(listed()).toBeLessThan(11);
    const other = await lab.transceiver();
    await other.restore(home.backup.state.subscription);
    expect(other.content.equals(home.content)).toBe(true);
  });
});
