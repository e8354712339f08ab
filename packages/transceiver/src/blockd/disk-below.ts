/**
 * What lies below the layers of a disk, or is the whole of one that is read-only: nothing (zeroes), a published disk, or a snapshot. One object
 * holds everything that belongs to it, because a rebase exchanges it while the disk is in use.
 */
import { CollectiveError, DiskMap, isDigest, MAP_KIND, sha256, type Digest } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import type { OpenedBase } from './base/open-base.js';
import type { BlockDevice, ReadOptions } from './block-device.js';
import { DiskTrace, type DiskTraceOptions } from './boot-trace.js';
import { buildPublicHalf } from './block-path.js';
import type { CachedStore } from './cache/cached-store.js';
import { systemClock } from './clock.js';
import type { ControlParams } from './control/control-protocol.js';
import { readMapFile } from './control/map-file.js';
import { ImageDevice, type ImageDeviceOptions, type ImageMap } from './image-device.js';
import type { PrivateUse } from './private/private-half.js';
import { SessionUse, type SessionUseOptions } from './session-use.js';
import { halfOf, SnapshotDevice } from './snapshot-device.js';
import { ZeroDevice } from './zero-device.js';

export type DiskSource = ControlParams<'attach'>['source'];

export type DiskBelow = {
  readonly device: BlockDevice;
  /** Where reads wait. */
  readonly images: readonly ImageDevice[];
  /** Of each block what it is; undefined: all zero. */
  readonly map: ImageMap | undefined;
  /** Of a published disk that is not all zero. */
  readonly trace: DiskTrace | undefined;
  /** Of a snapshot with private blocks. */
  readonly privateUse: PrivateUse | undefined;
  /** Where its blocks are best put in the caches. */
  readonly placementTag: number;
  /** As ImageDevice.foresee. */
  readonly foresee: ImageDevice['foresee'];
  /** Brings a block into its cache, without the waiting rule. */
  readonly fetch: (blockIndex: number, options: ReadOptions) => Promise<void>;
  readonly close: () => Promise<void>;
};

export type BelowContext = {
  readonly fileSystem: FileSystem;
  readonly store: CachedStore;
  /** Makes sure that the store has a reader for blocks of that size. */
  readonly openBlockSize: (blockBytes: number) => Promise<void>;
  /** As base/open-base.ts. */
  readonly openBase: (folder: string, digest: Digest) => Promise<OpenedBase>;
  /** As PrivateHalf.use, with the disk key of this disk. */
  readonly usePrivate: (base: OpenedBase) => Promise<PrivateUse>;
  readonly onUnavailable: (blockIndex: number, digest: Digest) => void;
  /** Whether what nobody waits for costs the person something. */
  readonly isMetered: () => boolean;
  /** Something that only helps has failed. */
  readonly onHintFailed: (error: unknown) => void;
  readonly onArrived: (blockIndex: number, waitedMs: number) => void;
};

export type BelowOptions = { readonly disk: string; readonly waitMs: number; readonly graceMs: number };

/** What the source of `attach` says. Errors: those of maps and bases, `wrong-key`. */
export const openSource = async (
  source: DiskSource,
  options: BelowOptions,
  context: BelowContext,
): Promise<DiskBelow> => {
  switch (source.kind) {
    case 'zero': {
      const device = new ZeroDevice(source.diskBytes);
      const nothing = { map: undefined, trace: undefined, privateUse: undefined, placementTag: 0 };
      const close = (): Promise<void> => device.close();
      return { device, images: [], ...nothing, foresee: () => 0, fetch: () => Promise.resolve(), close };
    }
    case 'published':
      return await openPublished(source, options, context);
    case 'snapshot':
      if (!isDigest(source.base)) throw new CollectiveError('bad-request', `${source.base} is no digest`);
      return await openSnapshot({ folder: source.folder, digest: source.base }, options, context);
    default:
      return source satisfies never;
  }
};

const openPublished = async (
  source: Extract<DiskSource, { kind: 'published' }>,
  options: BelowOptions,
  context: BelowContext,
): Promise<DiskBelow> => {
  const map = await readMap(source, context.fileSystem);
  await context.openBlockSize(map.blockBytes);
  const placementTag = placementTagOf(`${source.appliance}/${options.disk}`);
  const { image, recorder } = buildPublicHalf(map, context.store, {
    ...imageOptions(map, options, context),
    name: `${source.appliance}@${source.version}/${options.disk}`,
    placementTag,
  });
  const { trace, use } = hintsOf(source, {
    image,
    recorder,
    fileSystem: context.fileSystem,
    isMetered: context.isMetered,
    onFailed: context.onHintFailed,
  });
  await Promise.all([trace?.replay(), use?.open()]);
  return {
    ...{ device: recorder, images: [image], map, trace, privateUse: undefined, placementTag },
    foresee: (touches, segments) => image.foresee(touches, segments),
    fetch: (blockIndex, readOptions) => image.fetch(blockIndex, readOptions),
    close: async () => {
      trace?.close();
      await use?.close();
      await image.close();
    },
  };
};

const hintsOf = (
  { version, root, blockBytes, trace: files = {} }: Extract<DiskSource, { kind: 'published' }>,
  parts: Pick<DiskTraceOptions & SessionUseOptions, 'image' | 'recorder' | 'fileSystem' | 'isMetered' | 'onFailed'>,
): { readonly trace?: DiskTrace; readonly use?: SessionUse } => {
  if (root === null || !isDigest(root)) return {};
  const of = { ...parts, version, root, blockBytes, files, clock: systemClock };
  const use = new SessionUse(of);
  return { use, trace: new DiskTrace({ ...of, use }) };
};

const readMap = async (
  source: Extract<DiskSource, { kind: 'published' }>,
  fileSystem: FileSystem,
): Promise<DiskMap> => {
  const { diskBytes, blockBytes, root } = source;
  if (root === null) return DiskMap.empty({ diskBytes, blockBytes });
  if (!isDigest(root) || source.map === undefined)
    throw new CollectiveError('bad-request', 'a disk with a root needs a map file');
  return await readMapFile(fileSystem, source.map, { diskBytes, blockBytes, root });
};

/** The state that a base file says. Errors: those of openBase, `wrong-key`. */
export const openSnapshot = async (
  { folder, digest }: { readonly folder: string; readonly digest: Digest },
  options: BelowOptions,
  context: BelowContext,
): Promise<DiskBelow> => {
  const base = await context.openBase(folder, digest);
  const { subscription, number } = base.file;
  const placementTag = placementTagOf(`${subscription}/${options.disk}`);
  const common = {
    ...imageOptions(base, options, context),
    name: `${subscription}@${number}/${options.disk}`,
    placementTag,
  };
  await context.openBlockSize(base.blockBytes);
  const publicImage = new ImageDevice(halfOf(base, 'public'), context.store, common);
  const what = { map: base, trace: undefined, placementTag };
  if (!base.kinds.includes(MAP_KIND.private)) {
    return {
      ...{ device: publicImage, images: [publicImage], ...what, privateUse: undefined },
      foresee: (touches) => publicImage.foresee(touches),
      fetch: (blockIndex, readOptions) => publicImage.fetch(blockIndex, readOptions),
      close: () => publicImage.close(),
    };
  }
  const privateUse = await context.usePrivate(base);
  const privateImage = new ImageDevice(halfOf(base, 'private'), privateUse.store, {
    ...common,
    source: privateUse.source,
  });
  const device = new SnapshotDevice(base, { public: publicImage, private: privateImage });
  return {
    ...{ device, images: [publicImage, privateImage], ...what, privateUse },
    foresee: (touches) => device.foresee(touches),
    fetch: (blockIndex, readOptions) => device.imageOf(blockIndex).fetch(blockIndex, readOptions),
    close: async () => {
      await device.close();
      privateUse.release();
    },
  };
};

const imageOptions = (
  map: Pick<DiskMap, 'digestBytes'>,
  { waitMs, graceMs }: BelowOptions,
  context: BelowContext,
): Omit<ImageDeviceOptions, 'name'> => ({
  waitMs,
  graceMs,
  onUnavailable: (blockIndex) => {
    const digest = map.digestBytes.toString('hex', blockIndex * 32, (blockIndex + 1) * 32);
    if (isDigest(digest)) context.onUnavailable(blockIndex, digest);
  },
  onArrived: context.onArrived,
});

const placementTagOf = (name: string): number => Number.parseInt(sha256(Buffer.from(name)).slice(0, 7), 16);
