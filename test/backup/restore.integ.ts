/**
 * What was saved comes to another transceiver bit for bit; what is not the person's, or older than what was seen, does not. Over 400 lines: every way of
 * altering a snapshot is tried against the same two transceivers.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  CollectiveError,
  PAYLOAD_TYPES,
  decodeSnapshotManifest,
  encodeSnapshotManifest,
  keyId,
  openEnvelope,
  signDeviceCertificate,
  signEnvelope,
  type SnapshotManifest,
} from '@collective/shared';
import { newKey } from '@collective/repository-server';
import {
  SnapshotTrust,
  catchUp,
  fetchSnapshot,
  newestSnapshot,
  prepareStart,
  sampleCheck,
  undo,
} from '@collective/transceiver';
import { BackupLab, DISK, INITIAL_BYTES, type Transceiver } from './backup-lab.js';
import { InjectedClient, unreachable } from './injected-client.js';

let lab: BackupLab;
let first: Transceiver;
let second: Transceiver;
let subscription: string;

beforeEach(async () => {
  lab = await BackupLab.open();
  first = await lab.transceiver();
  second = await lab.transceiver();
  await first.create();
  ({ subscription } = first.backup.state);
  first.write(3, 70_001);
  first.write(250, 70_002);
  first.write(0, 0);
  await first.save();
});
afterEach(async () => lab[Symbol.asyncDispose]());

describe('on a second transceiver', () => {
  test('the disk is the same, bit for bit, and goes on from there', async () => {
    await second.restore(subscription);
    expect(second.content.equals(first.content)).toBe(true);
    expect(second.backup.state.head).toMatchObject({ number: 1, deviceName: 'test device' });
    await first.backup.leases.release();
    second.write(4, 70_003);
    const { content } = second;
    const before = second.client.partBytes;
    expect(await second.save()).toBe('idle');
    expect(second.client.partBytes - before).toBeLessThan(9_000);
    expect((await lab.snapshotBytes(subscription, 2)).equals(content)).toBe(true);
    // And back again.
    expect(await catchUp(first.backup, first.restoreParts)).toBe('caught-up');
    expect(first.content.equals(content)).toBe(true);
    expect(first.backup.state.head?.number).toBe(2);
    expect(await catchUp(first.backup, first.restoreParts)).toBe('current');
  });

  test('maps come in few requests', async () => {
    second.client.calls.length = 0;
    await second.restore(subscription);
    // Index, root, leaves: of one object.
    expect(second.client.calls.filter((name) => name === 'snapshotData').length).toBeLessThanOrEqual(4);
    expect(second.client.calls).not.toContain('chunk');
  });

  test('nothing saved, or nothing there: not-found', async () => {
    await expect(second.restore('0'.repeat(32))).rejects.toMatchObject({ code: 'not-found' });
  });

  test('what it did not save is kept: apart, not caught up', async () => {
    await second.restore(subscription);
    await first.backup.leases.release();
    second.write(4, 70_003);
    await second.save();
    await second.backup.leases.release();
    first.write(9, 1);
    expect(await catchUp(first.backup, first.restoreParts)).toBe('apart');
    expect(first.backup.state.apart).toMatchObject({ why: 'other-head', head: { number: 2 } });
  });

  test.each([1, 2, 3])(
    'the agent is killed while it catches up (%d): the next one comes to the same',
    async (kills) => {
      await second.restore(subscription);
      await first.backup.leases.release();
      second.write(4, 70_003);
      await second.save();
      const { content } = second;
      let left = kills;
      first.onStep = (step) => {
        if (step !== 'disk-rebased' && step !== 'rebase-noted' && step !== 'cleaned-up') return;
        left -= 1;
        if (left === 0) throw new Error('killed');
      };
      await catchUp(first.backup, first.restoreParts).catch(() => undefined);
      await first.restart();
      await first.drain();
      expect(await catchUp(first.backup, first.restoreParts)).toMatch(/current|caught-up/);
      expect(first.content.equals(content)).toBe(true);
    },
  );
});

describe('undo', () => {
  test('brings an older state back as a new snapshot, and can be undone', async () => {
    const old = first.content;
    first.write(3, 80_001);
    first.write(100, 80_002);
    const changed = first.content;
    await first.save();
    first.write(5, 80_003); // not saved when the undo comes
    const unsaved = first.content;
    await undo(first.backup, first.restoreParts, 1);
    expect(first.content.equals(old)).toBe(true);
    const { head } = first.backup.state;
    expect(head?.number).toBe(4);
    expect((await lab.snapshotBytes(subscription, 2)).equals(changed)).toBe(true);
    expect((await lab.snapshotBytes(subscription, 3)).equals(unsaved)).toBe(true);
    expect((await lab.snapshotBytes(subscription, 4)).equals(old)).toBe(true);
    await undo(first.backup, first.restoreParts, 3);
    expect(first.content.equals(unsaved)).toBe(true);
    first.write(6, 80_004);
    const { content } = first;
    expect(await first.save()).toBe('idle');
    expect((await lab.snapshotBytes(subscription, 6)).equals(content)).toBe(true);
  });

  // Seen in review: the undo was done, and said to have failed.
  test('the repository goes away after the commit: it is done, says that nothing is pinned yet, and that is done later', async () => {
    const old = first.content;
    first.write(3, 80_001);
    await first.save();
    first.client.beforeCall = (name) => {
      if (name === 'pinSnapshot') throw unreachable();
    };
    expect(await undo(first.backup, first.restoreParts, 1)).toMatchObject({
      ...{ number: 3, before: 2, unfinished: { what: 'pin', error: { code: 'repository-unreachable' } } },
    });
    expect(first.content.equals(old)).toBe(true);
    first.client.beforeCall = () => undefined;
    await first.restart();
    expect(await first.drain()).toBe('idle');
    const rows = await first.person.client.call('snapshots', { params: { subscription }, query: { which: 'kept' } });
    expect(rows.find(({ number }) => number === 2)).toMatchObject({ pinned: true });
  });

  test('the disk cannot come to the old state now: it is done, says so, and is in that state before the next start', async () => {
    const old = first.content;
    first.write(3, 80_001);
    await first.save();
    const replace = first.disks.replace.bind(first.disks);
    first.disks.replace = async () => {
      throw new CollectiveError('local-io', 'as the test wants it');
    };
    expect(await undo(first.backup, first.restoreParts, 1)).toMatchObject({
      ...{ number: 3, before: 2, unfinished: { what: 'disks', error: { code: 'local-io' } } },
    });
    expect((await lab.snapshotBytes(subscription, 3)).equals(old)).toBe(true);
    first.disks.replace = replace;
    await prepareStart(first.backup);
    expect(first.content.equals(old)).toBe(true);
  });

  test('is refused while the machine runs, and of a snapshot that is not there', async () => {
    await first.backup.seal('request');
    await expect(undo(first.backup, first.restoreParts, 9)).rejects.toMatchObject({ code: 'not-found' });
    first.isRunning = true;
    await expect(undo(first.backup, first.restoreParts, 1)).rejects.toMatchObject({ code: 'in-use' });
  });

  test.each([
    'pack-noted',
    'object-sent',
    'snapshot-committed',
    'commit-noted',
    'disk-rebased',
    'rebase-noted',
  ] as const)('killed at %s: the next agent goes on with it', async (step) => {
    const old = first.content;
    first.write(3, 80_001);
    await first.save();
    const changed = first.content;
    let isUndoing = false;
    first.onStep = (at) => {
      isUndoing ||= first.backup.state.pending?.reason === 'undo';
      if (at === step && isUndoing) throw new Error('killed');
    };
    await expect(undo(first.backup, first.restoreParts, 1)).rejects.toThrow('killed');
    await first.restart();
    await first.drain();
    expect(first.content.equals(changed)).toBe(false);
    expect(first.content.equals(old)).toBe(true);
    expect((await lab.snapshotBytes(subscription, first.backup.state.head?.number ?? 0)).equals(first.content)).toBe(
      true,
    );
  });

  test('one that has not reached the repository is dropped by a start; one that has is taken over first', async () => {
    const old = first.content;
    first.write(3, 80_001);
    await first.save();
    const { content } = first;
    const dieAt = (step: string): void => {
      first.onStep = (at) => {
        if (at === step && first.backup.state.pending?.reason === 'undo') throw new Error('killed');
      };
    };
    dieAt('pack-noted');
    await expect(undo(first.backup, first.restoreParts, 1)).rejects.toThrow('killed');
    await first.restart();
    await prepareStart(first.backup);
    first.isRunning = true;
    first.write(50, 80_002);
    expect(await first.drain()).toBe('idle');
    await first.save();
    expect(first.content.subarray(0, 10 * 4_096).equals(content.subarray(0, 10 * 4_096))).toBe(true);
    expect((await lab.snapshotBytes(subscription, first.backup.state.head?.number ?? 0)).equals(first.content)).toBe(
      true,
    );
    first.isRunning = false;
    dieAt('commit-noted');
    await expect(undo(first.backup, first.restoreParts, 1)).rejects.toThrow('killed');
    await first.restart();
    await prepareStart(first.backup);
    expect(first.content.equals(old)).toBe(true);
    first.isRunning = true;
    first.write(50, 80_003);
    await first.save();
    expect((await lab.snapshotBytes(subscription, first.backup.state.head?.number ?? 0)).equals(first.content)).toBe(
      true,
    );
  });

  test('what it needs is gone at the server: refused, and what is here stays', async () => {
    first.write(3, 80_001);
    await first.save();
    const { content } = first;
    let isAsked = false;
    first.client.beforeCall = (name) => {
      // As the server says when a chunk is missing.
      if (name === 'commitSnapshot' && first.backup.state.pending?.reason === 'undo') {
        isAsked = true;
        throw new CollectiveError('block-missing', 'a chunk was collected');
      }
    };
    await expect(undo(first.backup, first.restoreParts, 1)).rejects.toMatchObject({ code: 'block-missing' });
    expect(isAsked).toBe(true);
    expect(await first.drain()).toBe('idle');
    expect(first.content.equals(content)).toBe(true);
    expect(first.backup.state.head?.number).toBe(2);
  });
});

describe('an old snapshot is opened by its number', () => {
  test('its base file leads to its bytes', async () => {
    const old = first.content;
    first.write(3, 80_001);
    await first.save();
    const { disks } = await fetchSnapshot(second.restoreParts, { subscription, number: 1 });
    const base = disks[0]?.base;
    if (base === undefined) throw new Error('no disk');
    await second.disks.attachBase(DISK, base);
    expect(second.content.equals(old)).toBe(true);
  });
});

/** What the server answers to `snapshotManifest`, changed on its way. */
const forged = async (change: (manifest: SnapshotManifest) => SnapshotManifest, signer = newKey()): Promise<Buffer> => {
  const { client } = second.client;
  const bytes = await client.call('snapshotManifest', { params: { subscription, number: 1 } });
  const manifest = decodeSnapshotManifest(openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot }).payload);
  const payload = encodeSnapshotManifest(change(manifest));
  return signEnvelope({ payloadType: PAYLOAD_TYPES.snapshot, payload, signers: [signer] });
};
const of = (): { subscription: string; number: number } => ({ subscription, number: 1 });

describe('refused', () => {
  test('signed by a key that is no device', async () => {
    const bytes = await forged((manifest) => manifest);
    await expect(second.trust.verify(bytes, of())).rejects.toMatchObject({ code: 'untrusted' });
  });

  test('with the name of a device of the person, but another content than it signed', async () => {
    const bytes = await first.person.client.call('snapshotManifest', { params: { subscription, number: 1 } });
    const envelope = JSON.parse(bytes.toString('utf8')) as { payload: string };
    const payload = Buffer.from(envelope.payload, 'base64')
      .toString('utf8')
      .replace('"reason":"request"', '"reason":"suspend"');
    const changed = JSON.stringify({ ...envelope, payload: Buffer.from(payload).toString('base64') });
    expect(changed).not.toBe(bytes.toString('utf8'));
    await expect(second.trust.verify(Buffer.from(changed), of())).rejects.toMatchObject({ code: 'bad-signature' });
  });

  test('signed by a device that the server made up, with a certificate by another identity', async () => {
    const device = newKey();
    const { server, person } = lab.subscriber;
    const certificate = server.certificate({ account: person.account, identity: newKey(), device });
    const { client } = second.client;
    const lying = {
      ...second.person,
      client: {
        ...client,
        call: (async (name: string, options: never) =>
          name === 'myDeviceCertificates'
            ? [{ device: openedId(device), certificate: certificate.toString('base64') }]
            : client.call(name as never, options)) as typeof client.call,
      },
    };
    const bytes = await forged((manifest) => ({ ...manifest, device: openedId(device) }), device);
    await expect(new SnapshotTrust(lying).verify(bytes, of())).rejects.toMatchObject({ code: 'untrusted' });
    // By the right identity, but for another account.
    const other = signDeviceCertificate(
      {
        ...{ format: 1, account: 'somebody', repository: server.repository.identity },
        ...{ deviceKey: device.publicKey, deviceName: 'x', createdAt: 1 },
      },
      person.identity,
    );
    const mixed = {
      ...second.person,
      client: {
        ...client,
        call: (async (name: string, options: never) =>
          name === 'myDeviceCertificates'
            ? [{ device: openedId(device), certificate: other.toString('base64') }]
            : client.call(name as never, options)) as typeof client.call,
      },
    };
    await expect(new SnapshotTrust(mixed).verify(bytes, of())).rejects.toMatchObject({ code: 'untrusted' });
  });

  test("another person's snapshot, another subscription's, another number", async () => {
    const bytes = await first.person.client.call('snapshotManifest', { params: { subscription, number: 1 } });
    const { server } = lab.subscriber;
    const stranger = await server.join('olga', 'user', [{ name: 'debian', access: 'use' }]);
    const strangers = new SnapshotTrust({
      ...second.person,
      ...{ account: 'olga', identityKeys: [stranger.identity.publicKey] },
      client: new InjectedClient(server, stranger.token).client,
    });
    await expect(strangers.verify(bytes, of())).rejects.toMatchObject({ code: 'untrusted' });
    await expect(second.trust.verify(bytes, { subscription: '1'.repeat(32), number: 1 })).rejects.toMatchObject({
      code: 'untrusted',
    });
    await expect(second.trust.verify(bytes, { subscription, number: 2 })).rejects.toMatchObject({ code: 'untrusted' });
    await expect(second.trust.verify(bytes, of())).resolves.toMatchObject({ deviceName: 'test device' });
  });

  test('by an identity of before a reset that was unlocked: taken', async () => {
    const { person } = lab.subscriber;
    const after = new SnapshotTrust({
      ...second.person,
      identityKeys: [newKey().publicKey, person.identity.publicKey],
    });
    const bytes = await first.person.client.call('snapshotManifest', { params: { subscription, number: 1 } });
    await expect(after.verify(bytes, of())).resolves.toBeDefined();
  });

  test('older than what this home or the profile has seen, or another one of that number: rollback', async () => {
    const { head } = first.backup.state;
    if (head === null) throw new Error('nothing saved');
    const newest = async (seen: { number: number; manifest: typeof head.manifest } | undefined): Promise<unknown> =>
      newestSnapshot(second.restoreParts, subscription, seen);
    await expect(newest({ number: 2, manifest: head.manifest })).rejects.toMatchObject({ code: 'rollback' });
    const other = head.manifest.replace(/./g, (digit) => (digit === '0' ? '1' : '0')) as typeof head.manifest;
    await expect(newest({ number: 1, manifest: other })).rejects.toMatchObject({ code: 'rollback' });
    await expect(newest(head)).resolves.toMatchObject({ number: 1 });
    first.write(9, 1);
    await first.save();
    // Seen was another first snapshot than the one that the newest follows.
    await expect(newest({ number: 1, manifest: other })).rejects.toMatchObject({ code: 'rollback' });
    await expect(newest(head)).resolves.toMatchObject({ number: 2 });
    const seenInProfile = { id: subscription, appliance: 'debian', name: 'x' };
    lab.profile = {
      ...lab.profile,
      subscriptions: [{ ...seenInProfile, head: { number: 3, manifest: other, savedAt: 1, deviceName: 'x' } }],
    };
    await expect(newest(undefined)).rejects.toMatchObject({ code: 'rollback' });
  });

  test('pages and chunks that are not what the manifest names', async () => {
    const { client } = second.client;
    const flipping = {
      ...second.restoreParts,
      person: {
        ...second.person,
        client: {
          ...client,
          objectRange: async (range: Parameters<typeof client.objectRange>[0]) => {
            const part = await client.objectRange(range);
            // Behind the head, ahead of the index: in the first page.
            if (part.byteOffset < 100 && range.range.startsWith('-') === false)
              part.bytes[60] = (part.bytes[60] ?? 0) ^ 1;
            return part;
          },
        },
      },
    };
    await expect(fetchSnapshot(flipping, of())).rejects.toMatchObject({ code: 'digest-mismatch' });
  });
});

describe('while it is read', () => {
  test('a newer snapshot is committed and the old one deleted: the newer one comes', async () => {
    let isDone = false;
    second.client.afterCall = async (name) => {
      if (name !== 'snapshotManifest' || isDone) return;
      isDone = true;
      first.write(8, 90_000);
      await first.save();
      // Its object is gone, as after thinning and collecting.
      second.client.beforeCall = (call) => {
        if (call !== 'snapshotData') return;
        second.client.beforeCall = () => undefined;
        throw new CollectiveError('not-found', 'the object was collected');
      };
    };
    await second.restore(subscription);
    expect(second.backup.state.head?.number).toBe(2);
    expect(second.content.equals(first.content)).toBe(true);
  });
});

describe('a sample of what was saved', () => {
  test('opens; what is missing or does not open is reported', async () => {
    expect(await sampleCheck(first.backup, { blocks: 20 })).toMatchObject({ checkedBlocks: 2, failures: [] });
    lab.epochKeys.reverse();
    const { failures } = await sampleCheck(first.backup, { blocks: 20 });
    expect(failures.map(({ disk, code }) => [disk, code])).toEqual([
      [DISK, 'digest-mismatch'],
      [DISK, 'digest-mismatch'],
    ]);
  });

  test('nothing private, nothing to look at', async () => {
    await second.create();
    expect(await sampleCheck(second.backup)).toEqual({ checkedBlocks: 0, checkedBytes: 0, failures: [] });
    expect(second.content.equals(INITIAL_BYTES)).toBe(true);
  });
});

const openedId = (device: ReturnType<typeof newKey>) => keyId(device.publicKey);
