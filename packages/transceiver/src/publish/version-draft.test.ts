import { describe, expect, it } from 'vitest';
import { sha256, type VersionManifest } from '@collective/shared';
import type { DiskImage } from './disk-image.js';
import { DEFAULT_MACHINE, parseRecipe } from './recipe.js';
import { draftVersion } from './version-draft.js';

const image = (diskBytes: number): DiskImage => ({
  path: '/images/x.raw',
  format: 'raw',
  diskBytes,
  extents: [],
  usedBytes: 0,
  fileBytes: diskBytes,
  changedAtMs: 0,
});
const nothing = { name: 'demo', recipe: undefined, parent: undefined, title: undefined, notes: undefined };
const recipe = (disks: readonly object[]): ReturnType<typeof parseRecipe> =>
  parseRecipe(JSON.stringify({ format: 1, title: 'T', machine: DEFAULT_MACHINE, disks }));
const parent: VersionManifest = {
  format: 1,
  appliance: 'demo',
  version: 3,
  parent: null,
  createdAt: 1,
  title: 'Before',
  notes: 'old news',
  machine: { ...DEFAULT_MACHINE, cpus: 7 },
  disks: [
    {
      name: 'system',
      kind: 'system',
      bus: 'sata',
      diskBytes: 1 << 20,
      blockBytes: 65_536,
      root: sha256(Buffer.from('s')),
      base: null,
    },
    {
      name: 'user',
      kind: 'user',
      bus: 'virtio',
      diskBytes: 1 << 20,
      blockBytes: 16_384,
      root: sha256(Buffer.from('u')),
      base: null,
    },
  ],
};

describe('draftVersion', () => {
  it('makes a new appliance of one image, with a machine of today', () => {
    const draft = draftVersion({ ...nothing, images: new Map([['system', image(1 << 20)]]) });
    expect(draft).toMatchObject({ title: 'demo', machine: DEFAULT_MACHINE });
    expect(draft.disks[0]?.description).toMatchObject({
      kind: 'system',
      bus: 'virtio',
      blockBytes: 65_536,
      root: null,
    });
  });

  it('keeps machine, buses and the disks without an image of the version before; notes are new', () => {
    const draft = draftVersion({ ...nothing, parent, images: new Map([['system', image(2 << 20)]]) });
    expect(draft).toMatchObject({ title: 'Before', notes: '', machine: { cpus: 7 } });
    expect(draft.disks.map(({ description }) => [description.name, description.bus, description.diskBytes])).toEqual([
      ['system', 'sata', 2 << 20],
      ['user', 'virtio', 1 << 20],
    ]);
    expect(draft.disks[1]?.description.root).toBe(parent.disks[1]?.root);
  });

  it('refuses a disk that the appliance does not have, and a recipe whose disk has no image', () => {
    expect(() => draftVersion({ ...nothing, parent, images: new Map([['data', image(512)]]) })).toThrow(
      /no disk "data"/,
    );
    const two = recipe([
      { name: 'system', kind: 'system', bus: 'virtio' },
      { name: 'user', kind: 'user', bus: 'virtio' },
    ]);
    expect(() => draftVersion({ ...nothing, recipe: two, images: new Map([['system', image(512)]]) })).toThrow(
      /"user" has no image/,
    );
  });

  it('refuses an image of another size than the recipe says', () => {
    const sized = recipe([{ name: 'system', kind: 'system', bus: 'virtio', diskBytes: 4096 }]);
    expect(() => draftVersion({ ...nothing, recipe: sized, images: new Map([['system', image(512)]]) })).toThrow(
      /cut off/,
    );
  });

  it('refuses an appliance without a system disk, and IDE disks on a q35', () => {
    expect(() => draftVersion({ ...nothing, images: new Map([['user', image(512)]]) })).toThrow(
      /exactly one system disk/,
    );
    const ide = recipe([{ name: 'system', kind: 'system', bus: 'ide' }]);
    expect(() => draftVersion({ ...nothing, recipe: ide, images: new Map([['system', image(512)]]) })).toThrow(/IDE/);
  });

  it('gives an ephemeral disk its size and no content', () => {
    const withScratch = recipe([
      { name: 'system', kind: 'system', bus: 'virtio' },
      { name: 'ephemeral', kind: 'ephemeral', bus: 'virtio', diskBytes: 1 << 30 },
    ]);
    const draft = draftVersion({ ...nothing, recipe: withScratch, images: new Map([['system', image(512)]]) });
    expect(draft.disks[1]?.description).toMatchObject({ kind: 'ephemeral', diskBytes: 1 << 30, root: null });
  });
});

describe('parseRecipe', () => {
  it('takes a machine description alone', () => {
    expect(parseRecipe(JSON.stringify(DEFAULT_MACHINE))).toEqual({ machine: DEFAULT_MACHINE });
  });

  it.each([
    ['no JSON', '{'],
    ['a repeated key', '{"cpus":1,"cpus":2}'],
    ['an unknown field', JSON.stringify({ ...DEFAULT_MACHINE, qemuArguments: '-device x' })],
    [
      'a file that is a path',
      JSON.stringify({
        format: 1,
        machine: DEFAULT_MACHINE,
        disks: [{ name: 'system', kind: 'system', bus: 'virtio', file: '../x' }],
      }),
    ],
  ])('refuses %s', (_what, text) => {
    expect(() => parseRecipe(text)).toThrow(expect.objectContaining({ code: 'bad-machine' }));
  });
});
