import { describe, expect, it } from 'vitest';
import { type DiskDescription } from './disk-description.js';
import { type ErrorCode } from './errors.js';
import { checkMachineDescription } from './machine-description.js';
import { type VersionManifest, decodeVersionManifest, encodeVersionManifest, isApplianceName } from './manifest.js';
import { type SnapshotManifest, SNAPSHOT_USER_DISKS_MAX, decodeSnapshotManifest } from './snapshot-manifest.js';
import { codeOf } from './testing/code-of.js';
import { goldenSnapshot, goldenVersion } from './testing/golden-examples.js';

const decode = (value: unknown): ErrorCode | 'value' =>
  codeOf(() => decodeVersionManifest(Buffer.from(JSON.stringify(value))));
const withMachine = (change: Record<string, unknown>): unknown => ({
  ...goldenVersion,
  machine: { ...goldenVersion.machine, ...change },
});
const [systemDisk, userDisk] = goldenVersion.disks;
if (systemDisk === undefined || userDisk === undefined) throw new Error('no disks');
const withDisks = (...disks: (DiskDescription | Record<string, unknown>)[]): unknown => ({ ...goldenVersion, disks });
const extraDisks = (count: number, bus: string): Record<string, unknown>[] =>
  Array.from({ length: count }, (_unused, index) => ({ ...userDisk, name: `disk-${index}`, bus }));

describe('machine description', () => {
  it.each<[string, Record<string, unknown>]>([
    ['a raw QEMU argument', { extraArguments: '-device vfio-pci' }],
    ['a host path as firmware', { firmware: '/etc/passwd' }],
    ['a word with more behind it', { network: 'virtio,hostfwd=tcp::22-:22' }],
    ['no CPU', { cpus: 0 }],
    ['33 CPUs', { cpus: 33 }],
    ['32 MiB', { memoryBytes: 33_554_432 }],
    ['128 GiB', { memoryBytes: 137_438_953_472 }],
    ['half a MiB', { memoryBytes: 1_073_741_824 + 524_288 }],
    ['a number as text', { cpus: '2' }],
    ['nothing for a field', { clock: null }],
  ])('with %s is refused as bad-machine, in a manifest and alone', (_name, change) => {
    expect(decode(withMachine(change))).toBe('bad-machine');
    expect(codeOf(() => checkMachineDescription({ ...goldenVersion.machine, ...change }))).toBe('bad-machine');
  });

  it('at its limits is accepted', () => {
    expect(decode(withMachine({ cpus: 32, memoryBytes: 68_719_476_736 }))).toBe('value');
    expect(decode(withMachine({ cpus: 1, memoryBytes: 67_108_864 }))).toBe('value');
  });

  it('has IDE disks on the chipset pc only, four of them, and six on SATA', () => {
    const machine = { ...goldenVersion.machine, chipset: 'pc' };
    const ide = { ...systemDisk, bus: 'ide' };
    expect(decode(withDisks(ide))).toBe('bad-machine');
    expect(decode({ ...goldenVersion, machine, disks: [ide, ...extraDisks(3, 'ide')] })).toBe('value');
    expect(decode({ ...goldenVersion, machine, disks: [ide, ...extraDisks(4, 'ide')] })).toBe('bad-machine');
    expect(decode(withDisks(systemDisk, ...extraDisks(6, 'sata')))).toBe('value');
    expect(decode(withDisks(systemDisk, ...extraDisks(7, 'sata')))).toBe('bad-machine');
  });
});

describe('version manifest', () => {
  it('is written in the order of the format, whatever order its fields have in memory', () => {
    const reversed = Object.fromEntries(Object.entries(goldenVersion).reverse()) as VersionManifest;
    expect(encodeVersionManifest(reversed)).toEqual(encodeVersionManifest(goldenVersion));
  });

  it.each<[string, unknown]>([
    ['no disk', withDisks()],
    ['no system disk', withDisks(userDisk)],
    ['two system disks', withDisks(systemDisk, { ...systemDisk, name: 'other' })],
    ['two disks of one name', withDisks(systemDisk, { ...userDisk, name: 'system' })],
    ['nine disks', withDisks(systemDisk, ...extraDisks(8, 'virtio'))],
    ['a size that is no multiple of 512', withDisks({ ...systemDisk, diskBytes: 1_000 })],
    ['a block size that is no power of two', withDisks({ ...systemDisk, blockBytes: 65_535 })],
    ['an ephemeral disk with content', withDisks(systemDisk, { ...systemDisk, name: 'tmp', kind: 'ephemeral' })],
    ['a memory disk', withDisks(systemDisk, { ...userDisk, kind: 'memory' })],
    ['a base', withDisks({ ...systemDisk, base: systemDisk.root })],
    ['a path as disk name', withDisks({ ...systemDisk, name: '../etc' })],
    ['a path as appliance', { ...goldenVersion, appliance: '../x' }],
    ['version 0', { ...goldenVersion, version: 0 }],
    ['itself as parent', { ...goldenVersion, parent: { version: 2, manifest: systemDisk.root } }],
    ['a title of 201 characters', { ...goldenVersion, title: 'x'.repeat(201) }],
    ['a control character in the title', { ...goldenVersion, title: 'a\u001b[2Jb' }],
    ['a time before 1970', { ...goldenVersion, createdAt: -1 }],
    ['an unknown field', { ...goldenVersion, extra: 1 }],
    ['a field less', { ...goldenVersion, notes: undefined }],
    ['no object', []],
  ])('with %s is refused', (_name, value) => {
    expect(decode(value)).toBe('malformed');
  });

  it('of a later format is refused as such', () => {
    expect(decode({ ...goldenVersion, format: 2, whatever: true })).toBe('unknown-format');
    expect(decode({ ...goldenVersion, format: 0 })).toBe('malformed');
    expect(decode({ ...goldenVersion, format: '1' })).toBe('malformed');
  });

  it('counts a title in code points: 200 of any kind, not more for what looks like one character', () => {
    expect(decode({ ...goldenVersion, title: '\u{1f600}'.repeat(200) })).toBe('value');
    expect(decode({ ...goldenVersion, title: `e${'\u0301'.repeat(200)}` })).toBe('malformed');
  });
});

describe('snapshot manifest', () => {
  const check = (change: Partial<SnapshotManifest>): ErrorCode | 'value' =>
    codeOf(() => decodeSnapshotManifest(Buffer.from(JSON.stringify({ ...goldenSnapshot, ...change }))));
  const [userSnapshot] = goldenSnapshot.disks;
  if (userSnapshot === undefined) throw new Error('no disk');

  it('with or without a memory image is accepted, with half of one it is not', () => {
    expect(check({})).toBe('value');
    expect(check({ memory: null, disks: [userSnapshot] })).toBe('value');
    expect(check({ memory: null })).toBe('malformed');
    expect(check({ disks: [userSnapshot] })).toBe('malformed');
  });

  it('has room for the user disks of many versions beside the memory, and no more', () => {
    const many = (count: number): SnapshotManifest['disks'] => [
      ...Array.from({ length: count }, (_none, at) => ({ ...userSnapshot, name: `disk-${String(at)}` })),
      ...goldenSnapshot.disks.filter(({ kind }) => kind === 'memory'),
    ];
    expect(check({ disks: many(SNAPSHOT_USER_DISKS_MAX) })).toBe('value');
    expect(check({ disks: many(SNAPSHOT_USER_DISKS_MAX + 1) })).toBe('malformed');
  });

  it('names the boot trace of a user disk, and none of memory', () => {
    const withTrace = (kind: string): SnapshotManifest['disks'] =>
      goldenSnapshot.disks.map((disk) =>
        disk.kind === kind ? { ...disk, trace: disk.root ?? undefined } : disk,
      ) as SnapshotManifest['disks'];
    expect(check({ disks: withTrace('user') })).toBe('value');
    expect(check({ disks: withTrace('memory') })).toBe('malformed');
  });

  it('names objects in ascending order and none of a later snapshot', () => {
    expect(check({ objects: [] })).toBe('value');
    expect(check({ objects: [2, 1] })).toBe('malformed');
    expect(check({ objects: [1, 1] })).toBe('malformed');
    expect(check({ objects: [4] })).toBe('malformed');
  });
});

describe('appliance names', () => {
  it('are lower-case letters, digits and hyphens', () => {
    for (const name of ['debian-server', 'a', '9', 'x'.repeat(63)]) expect(isApplianceName(name)).toBe(true);
    for (const name of ['', '-a', 'A', 'a/b', '..', 'a\n', 'x'.repeat(64), 'ä'])
      expect(isApplianceName(name)).toBe(false);
  });
});
