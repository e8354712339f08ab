import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Digest } from '@collective/shared';
import {
  BackupFile,
  decodeBackupState,
  encodeBackupState,
  newSubscriptionId,
  type BackupState,
  type Pending,
} from './backup-file.js';

const digest = (digit: string): Digest => digit.repeat(64) as Digest;
const layers = [{ disk: 'user', layer: 'a'.repeat(32) }];
const states = [{ disk: 'user', root: digest('1'), base: digest('2') }];
const writtenBy = { appliance: 'debian', version: 2, manifest: digest('8') };
const sealed = { reason: 'periodic' as const, createdAt: 5, layers, writtenBy, mustPin: false };
const STATE: BackupState = {
  ...{ format: 1, subscription: '5'.repeat(32), appliance: 'debian', isRegistered: true, periodSeconds: 30 },
  writer: writtenBy,
  disks: [
    {
      ...{ name: 'user', isAttached: true, bus: 'virtio', diskBytes: 4_096, blockBytes: 4_096 },
      base: { appliance: 'debian', version: 1, root: digest('3'), map: digest('4') },
      committed: { root: digest('1'), base: digest('2') },
    },
  ],
  head: { number: 3, manifest: digest('5'), committedAt: 1, deviceName: 'laptop' },
  ...{ objects: [1, 3], mustResend: false, mustCommit: false, lease: 7 },
  ...{ pending: null, next: [], toPin: [], apart: null },
};
const stateOf = (disk: string): Pending => ({
  ...{ kind: 'committed', ...sealed, objects: [1], isAnew: false },
  states: [...states, { disk, root: digest('1'), base: digest('2') }],
});
const packed = {
  ...{ kind: 'packed' as const, ...sealed, number: 4, manifest: 'AAAA', objectBytes: 10 },
  ...{ upload: 'b'.repeat(32), objects: [1, 3, 4], states, isAnew: false },
};
const PENDING: readonly Pending[] = [
  { kind: 'sealed', ...sealed },
  packed,
  { kind: 'committed', ...sealed, objects: [1], states, isAnew: true },
];

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'backup-file-'));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

describe('backup.json', () => {
  it.each(PENDING)('keeps every field of what is $kind', (pending) => {
    const state: BackupState = {
      ...STATE,
      pending,
      next: [{ ...sealed, reason: 'stop', mustPin: true }],
      toPin: [{ subscription: '5'.repeat(32), number: 2 }],
      apart: { why: 'other-head', since: 9, head: { number: 5, manifest: digest('7') }, deviceName: 'desk' },
      ...{ movesTo: 'debian-2', givenUp: { number: 4, manifest: digest('8') } },
    };
    expect(decodeBackupState(encodeBackupState(state))).toEqual(state);
  });

  it('names a disk that has neither layer nor state: it is carried along', () => {
    const dropped = { ...STATE.disks[0], name: 'dropped', isAttached: false } as BackupState['disks'][number];
    const state: BackupState = { ...STATE, disks: [...STATE.disks, dropped], pending: { kind: 'sealed', ...sealed } };
    expect(decodeBackupState(encodeBackupState(state))).toEqual(state);
  });

  it('of version 1 is read and written as it always was', async () => {
    const golden = await readFile(new URL('golden/backup-1.json', import.meta.url));
    const state = decodeBackupState(golden);
    expect(state).toEqual({
      ...STATE,
      pending: PENDING[1],
      next: [{ ...sealed, reason: 'stop', mustPin: true }],
      toPin: [{ subscription: '5'.repeat(32), number: 2 }],
      apart: { why: 'other-head', since: 9, head: { number: 5, manifest: digest('7') }, deviceName: 'desk' },
    });
    expect(encodeBackupState(state).equals(golden)).toBe(true);
  });

  it('names the boot traces of disks, where there are some', async () => {
    const golden = await readFile(new URL('golden/backup-1-traced.json', import.meta.url));
    const state: BackupState = {
      ...STATE,
      disks: STATE.disks.map((disk) => ({
        ...disk,
        committed: { root: digest('1'), base: digest('2'), trace: digest('6') },
      })),
      pending: { ...packed, states: states.map((one) => ({ ...one, trace: digest('9') })) },
    };
    expect(decodeBackupState(golden)).toEqual(state);
    expect(encodeBackupState(state).equals(golden)).toBe(true);
  });

  it.each<[string, Partial<BackupState>]>([
    ['objects that do not ascend', { objects: [3, 1] }],
    ['a second disk of one name', { disks: [...STATE.disks, ...STATE.disks] }],
    ['two layers of one disk', { pending: { kind: 'sealed', ...sealed, layers: [...layers, ...layers] } }],
    [
      'a state of a disk that has no layer',
      { disks: [...STATE.disks, { ...STATE.disks[0], name: 'b' } as never], pending: stateOf('b') },
    ],
    ['layers of another disk', { pending: { kind: 'sealed', ...sealed, layers: [{ disk: 'other', layer: 'a' }] } }],
    [
      'a snapshot that does not follow the head',
      { pending: { ...(PENDING[1] as Pending & { kind: 'packed' }), number: 3 } },
    ],
    ['what comes next after nothing', { next: [sealed] }],
    ['no disk', { disks: [] }],
    ['a period below the least', { periodSeconds: 4 }],
    ['a reason that is none', { pending: { kind: 'sealed', ...sealed, reason: 'because' as never } }],
  ])('refuses %s', (_what, change) => {
    expect(() => encodeBackupState({ ...STATE, ...change })).toThrow(/backup\.json/);
  });

  it('is an error when it is damaged, never "nothing saved"', async () => {
    await writeFile(path.join(folder, 'backup.json'), '{"format":1}');
    await expect(BackupFile.open(folder)).rejects.toMatchObject({ code: 'malformed' });
    await writeFile(path.join(folder, 'backup.json'), '{"format":2}');
    await expect(BackupFile.open(folder)).rejects.toMatchObject({ code: 'unknown-format' });
    await rm(path.join(folder, 'backup.json'));
    expect(await BackupFile.open(folder)).toBeUndefined();
  });

  it('changes one after the other; a change that is refused leaves the file and the state as they were', async () => {
    const file = await BackupFile.create(folder, STATE);
    const both = [1, 2, 3].map(async () => file.update((state) => ({ ...state, lease: (state.lease ?? 0) + 1 })));
    const refused = file.update((state) => ({ ...state, objects: [2, 1] }));
    await Promise.all(both);
    await expect(refused).rejects.toMatchObject({ code: 'malformed' });
    expect(file.state).toEqual({ ...STATE, lease: 10 });
    expect((await BackupFile.open(folder))?.state).toEqual(file.state);
    const before = await readFile(path.join(folder, 'backup.json'));
    await file.update((state) => state);
    expect((await readFile(path.join(folder, 'backup.json'))).equals(before)).toBe(true);
  });
});

describe('subscription ids', () => {
  it('are 128 random bits', () => {
    expect(newSubscriptionId()).toMatch(/^[0-9a-f]{32}$/);
    expect(newSubscriptionId()).not.toBe(newSubscriptionId());
  });
});
