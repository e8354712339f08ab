/**
 * A sealed layer becomes a snapshot object: the changed blocks are read twice through the view, first to name them, then
 * those that no listed object holds to be compressed and encrypted. So map pages can come first in the object (and boot traces after them, where a reader is anyway), nothing
 * is compressed in vain, and what is held in memory are the maps: the data goes through a worker process (backup-work.ts).
 *
 * Blocks of zeroes become zero, blocks as on the initial user disk inherit, and a block that was written again with what it
 * had keeps its name, also by an older epoch.
 */
import { randomBytes } from 'node:crypto';
import { open, readdir, rename, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  ChangedPairs,
  CollectiveError,
  DIGEST_BYTES,
  MAP_KIND,
  SnapshotObjectWriter,
  digestFromBytes,
  encodeTraceChunk,
  mapColumns,
  type Digest,
  type DiskMap,
} from '@collective/shared';
import { removeIfThere } from '../storage/durable-file.js';
import type {
  Blocks,
  ChunksResult,
  EncodeResult,
  Entries,
  NameResult,
  PackResult,
  PackTask,
  PackWork,
} from './backup-work.js';
import type { DiskView, SnapshotDisks } from './disk-port.js';
import { localFailure } from './local-failure.js';
import { planTrace, type KnownTraces, type PlannedTrace } from './trace-plan.js';

/** Of blocks; between two tasks the worker is another machine's. */
const TASK_BYTES = 16 << 20;
const PAGES_A_TASK = 256;
const LEVEL = 3;

export type PackKeys = {
  readonly epoch: number;
  readonly chunkKey: Uint8Array;
  /** The newest epoch's first. */
  readonly nameKeys: readonly [Uint8Array, ...Uint8Array[]];
};

/** What is committed of a disk. */
export type CommittedDisk = {
  readonly map: DiskMap;
  /** Pages of that map. */
  readonly pages: ReadonlySet<Digest>;
  readonly baseMap: DiskMap | undefined;
};

export type PackOptions = {
  readonly disks: readonly {
    readonly name: string;
    readonly layer: string;
    readonly committed: CommittedDisk;
    readonly trace?: KnownTraces;
  }[];
  readonly port: Pick<SnapshotDisks, 'view' | 'changedBlocks'>;
  readonly work: PackWork;
  readonly keys: PackKeys;
  /** Of the object; whole and durable when this resolves, not there when the snapshot adds nothing. */
  readonly path: string;
  /** No listed object holds anything of the committed state. */
  readonly mustResend: boolean;
  /** Of blocks and pages whose objects are given up: 32 characters of latin1 each. */
  readonly givenUp?: ReadonlySet<string>;
  readonly signal: AbortSignal;
};

export type PackedDisk = {
  readonly name: string;
  readonly map: DiskMap;
  readonly root: Digest;
  readonly pages: ReadonlySet<Digest>;
  /** The chunk of its boot trace, in this object or a listed one; undefined: it has none. */
  readonly trace: Digest | undefined;
};
export type PackFigures = {
  readonly touchedBlocks: number;
  readonly changedBlocks: number;
  readonly sentBlocks: number;
  readonly sentPages: number;
  /** Of the object; 0: there is none. */
  readonly objectBytes: number;
};
export type Packed = PackFigures & { readonly disks: readonly PackedDisk[] };

type Named = {
  readonly disk: PackOptions['disks'][number];
  readonly pairs: ChangedPairs;
  readonly map: DiskMap;
  readonly built: ReturnType<DiskMap['build']>;
};

/** Errors: `disk-full`, `local-io` of this machine's disk, `block-unavailable`, `shutting-down`, `internal` (a worker died). */
export async function packSnapshot(options: PackOptions): Promise<Packed> {
  const named: Named[] = [];
  for (const disk of options.disks) named.push(await nameDisk(disk, options));
  const blocks = blocksToSend(named, options);
  const pages = pagesToSend(named, options);
  const sentBlocks = blocks.reduce((count, list) => count + list.blockIndexes.length, 0);
  const isEmpty = sentBlocks + pages.length === 0;
  const traces = named.map(({ disk }) => planTrace(disk.trace, { ...options, ...options.keys, isEmpty }));
  await removeIfThere(options.path);
  const objectBytes = isEmpty ? 0 : await writeObject({ named, blocks, pages, traces }, options);
  return {
    disks: named.map(({ disk, map, built }, at) => ({
      name: disk.name,
      map,
      root: built.root,
      pages: new Set(built.pages.keys()),
      trace: traces[at]?.digest,
    })),
    touchedBlocks: named.reduce((count, { pairs }) => count + pairs.count, 0),
    changedBlocks: named.reduce((count, { map, disk }) => count + map.changesSince(disk.committed.map).count, 0),
    sentBlocks,
    sentPages: pages.length,
    objectBytes,
  };
}

async function nameDisk(disk: PackOptions['disks'][number], options: PackOptions): Promise<Named> {
  const { port, work, keys, signal } = options;
  const { map: committed, baseMap } = disk.committed;
  const { blockBytes } = committed;
  const touched = await port.changedBlocks(disk.name, disk.layer, blockBytes);
  const { blockIndexes, forced } = withForced(touched, committed, options);
  const columns = mapColumns(blockIndexes.length);
  await port.view(disk.name, disk.layer, async (view) => {
    requireSize(view, committed, disk.name);
    for (const [from, to] of tasksOf(blockIndexes.length, blockBytes)) {
      const indexes = blockIndexes.slice(from, to);
      const result = await untilAborted<NameResult>(work, signal, {
        kind: 'name',
        blocks: { view: sourceOf(view), blockBytes, blockIndexes: indexes },
        committed: entriesOf(committed, indexes),
        base: baseMap === undefined ? undefined : entriesOf(baseMap, indexes),
        forced: forced.slice(from, to),
        nameKeys: keys.nameKeys,
      });
      columns.kinds.set(result.kinds, from);
      columns.digests.set(result.digests, from * DIGEST_BYTES);
    }
  });
  const pairs = new ChangedPairs(committed, blockIndexes, columns);
  const map = committed.clone().apply(pairs);
  return { disk, pairs, map, built: map.build() };
}

/** The touched blocks, and those that must be sent again though nobody touched them. */
const withForced = (
  touched: Uint32Array,
  committed: DiskMap,
  { mustResend, givenUp }: PackOptions,
): { readonly blockIndexes: Uint32Array; readonly forced: Uint8Array } => {
  if (!mustResend && (givenUp === undefined || givenUp.size === 0))
    return { blockIndexes: touched, forced: new Uint8Array(touched.length) };
  const { kinds, digestBytes } = committed;
  const isForced = new Uint8Array(kinds.length);
  for (const [index, kind] of kinds.entries())
    if (kind === MAP_KIND.private && (mustResend || givenUp?.has(keyAt(digestBytes, index)) === true))
      isForced[index] = 1;
  const isWanted = isForced.slice();
  for (const index of touched) isWanted[index] = 1;
  const blockIndexes = Uint32Array.from(isWanted.keys()).filter((index) => isWanted[index] === 1);
  return { blockIndexes, forced: Uint8Array.from(blockIndexes, (index) => isForced[index] ?? 0) };
};

type BlockList = { readonly named: Named; readonly blockIndexes: Uint32Array; readonly digests: Buffer };

/** Of each disk the blocks that no listed object holds, each name once. */
const blocksToSend = (named: readonly Named[], { mustResend, givenUp }: PackOptions): BlockList[] => {
  const wanted = new Map<string, { readonly disk: number; readonly at: number }>();
  for (const [disk, { pairs }] of named.entries()) {
    const { kinds, digests } = pairs.columns;
    for (let at = 0; at < pairs.count; at += 1) {
      const key = keyAt(digests, at);
      if (kinds[at] === MAP_KIND.private && !wanted.has(key)) wanted.set(key, { disk, at });
    }
  }
  if (!mustResend) for (const { disk } of named) dropKnown(wanted, disk.committed.map, givenUp);
  const chosen = named.map(() => [] as number[]);
  for (const { disk, at } of wanted.values()) chosen[disk]?.push(at);
  return named.map((one, disk) => {
    const list = (chosen[disk] ?? []).sort((a, b) => a - b);
    const digests = Buffer.alloc(list.length * DIGEST_BYTES);
    for (const [to, at] of list.entries())
      one.pairs.columns.digests.copy(digests, to * DIGEST_BYTES, at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
    return { named: one, blockIndexes: Uint32Array.from(list, (at) => one.pairs.blockIndexes[at] ?? 0), digests };
  });
};

/** What the committed map names is in a listed object. Text is made of few digests only: a map may have millions. */
const dropKnown = (
  wanted: Map<string, unknown>,
  committed: DiskMap,
  givenUp: ReadonlySet<string> | undefined,
): void => {
  if (wanted.size === 0) return;
  const firstBytes = new Uint8Array(65_536);
  for (const key of wanted.keys()) firstBytes[key.charCodeAt(0) * 256 + key.charCodeAt(1)] = 1;
  const { kinds, digestBytes } = committed;
  for (let index = 0; index < kinds.length; index += 1) {
    if (kinds[index] !== MAP_KIND.private || firstBytes[digestBytes.readUInt16BE(index * DIGEST_BYTES)] === 0) continue;
    const key = keyAt(digestBytes, index);
    if (givenUp?.has(key) !== true) wanted.delete(key);
  }
};

/** Root first, then level by level, as in the format. */
const pagesToSend = (named: readonly Named[], { mustResend, givenUp }: PackOptions): [Digest, Buffer][] => {
  const known = new Set<Digest>();
  if (!mustResend)
    for (const { disk } of named)
      for (const digest of disk.committed.pages)
        if (givenUp?.has(Buffer.from(digest, 'hex').toString('latin1')) !== true) known.add(digest);
  const wanted = new Map<Digest, Buffer>();
  for (const { built } of named)
    for (const [digest, page] of built.pages) if (!known.has(digest)) wanted.set(digest, page);
  // Byte 4 of a page is its level.
  return [...wanted].sort(([, a], [, b]) => (b[4] ?? 0) - (a[4] ?? 0));
};

/** The object's length. */
async function writeObject(
  parts: {
    readonly named: readonly Named[];
    readonly blocks: readonly BlockList[];
    readonly pages: [Digest, Buffer][];
    readonly traces: readonly PlannedTrace[];
  },
  options: PackOptions,
): Promise<number> {
  const { port, work, keys, path, signal } = options;
  await removeUnfinished(path);
  // A name that no object had before: a task that was given up may still write into that one.
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  const file = await open(temporary, 'wx', 0o600);
  try {
    const writer = new SnapshotObjectWriter();
    await writeAt(file, writer.head, 0);
    for (let from = 0; from < parts.pages.length; from += PAGES_A_TASK) {
      const some = parts.pages.slice(from, from + PAGES_A_TASK);
      const pages = some.map(([, page]) => page);
      const { chunks } = await untilAborted<ChunksResult>(work, signal, { kind: 'pages', pages, level: LEVEL });
      await writeAt(file, Buffer.concat(chunks), writer.byteLength);
      for (const [at, [digest]] of some.entries()) writer.add(digest, chunks[at]?.length ?? 0);
    }
    for (const { send } of parts.traces) {
      if (send === undefined || writer.has(send.digest)) continue;
      const chunk = encodeTraceChunk(send, keys);
      await writeAt(file, chunk, writer.byteLength);
      writer.add(send.digest, chunk.length);
    }
    for (const { named, blockIndexes, digests } of parts.blocks) {
      if (blockIndexes.length === 0) continue;
      const { blockBytes } = named.map;
      await port.view(named.disk.name, named.disk.layer, async (view) => {
        for (const [from, to] of tasksOf(blockIndexes.length, blockBytes)) {
          const wanted = Buffer.from(digests.subarray(from * DIGEST_BYTES, to * DIGEST_BYTES));
          const { epoch, chunkKey, nameKeys } = keys;
          const { chunkBytes } = await untilAborted<EncodeResult>(work, signal, {
            kind: 'encode',
            blocks: { view: sourceOf(view), blockBytes, blockIndexes: blockIndexes.slice(from, to) },
            target: { path: temporary, byteOffset: writer.byteLength },
            ...{ digests: wanted, nameKey: nameKeys[0], chunkKey, epoch, level: LEVEL },
          });
          for (const [at, bytes] of chunkBytes.entries())
            writer.add(digestFromBytes(wanted.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES)), bytes);
        }
      });
    }
    const end = writer.finish();
    await writeAt(file, end, writer.byteLength);
    await file.sync();
    await file.close();
    await rename(temporary, path);
    await syncFolder(dirname(path));
    return writer.byteLength + end.length;
  } catch (error) {
    await file.close().catch(() => undefined);
    await removeIfThere(temporary).catch(() => undefined);
    throw localFailure(error, path);
  }
}

/** From and to of each task's part of a list of blocks. */
function* tasksOf(count: number, blockBytes: number): Generator<readonly [number, number]> {
  const perTask = Math.max(1, Math.floor(TASK_BYTES / blockBytes));
  for (let from = 0; from < count; from += perTask) yield [from, Math.min(count, from + perTask)];
}

/** Another process can be told of a socket, and not of a function. */
const sourceOf = (view: DiskView): Blocks['view'] =>
  view.socketPath === undefined ? view : { diskBytes: view.diskBytes, socketPath: view.socketPath };

/**
 * In an outage a worker waits for minutes for a block that is not here; a start, and a logout, do not wait for that. A task
 * that is given up ends with the view that it reads; until then it may go on writing, to a file that nobody else has.
 */
const untilAborted = async <R extends PackResult>(work: PackWork, signal: AbortSignal, task: PackTask): Promise<R> => {
  signal.throwIfAborted();
  return new Promise<R>((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    work
      .run(task)
      .then((result) => resolve(result as R), reject)
      .finally(() => signal.removeEventListener('abort', abort));
  });
};

/** What a pack that was killed left of the object. */
export const removeUnfinished = async (path: string): Promise<void> => {
  const [folder, prefix] = [dirname(path), `${basename(path)}.`];
  for (const name of await readdir(folder))
    if (name.startsWith(prefix) && name.endsWith('.tmp')) await removeIfThere(join(folder, name));
};

const entriesOf = (map: DiskMap, blockIndexes: Uint32Array): Entries => {
  const kinds = new Uint8Array(blockIndexes.length);
  const digests = Buffer.alloc(blockIndexes.length * DIGEST_BYTES);
  for (const [at, index] of blockIndexes.entries()) {
    kinds[at] = map.kinds[index] ?? MAP_KIND.zero;
    map.digestBytes.copy(digests, at * DIGEST_BYTES, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
  }
  return { kinds, digests };
};

/** A digest as 32 characters: half the memory of hexadecimal digits. */
export const keyAt = (digests: Buffer, at: number): string =>
  digests.toString('latin1', at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);

const requireSize = (view: DiskView, { diskBytes }: DiskMap, name: string): void => {
  if (view.diskBytes === diskBytes) return;
  throw new CollectiveError(
    'local-io',
    `Disk ${name} has ${String(view.diskBytes)} bytes, its snapshots ${String(diskBytes)}.`,
  );
};

const writeAt = async (file: FileHandle, bytes: Uint8Array, byteOffset: number): Promise<void> => {
  for (let written = 0; written < bytes.length;)
    written += (await file.write(bytes, written, bytes.length - written, byteOffset + written)).bytesWritten;
};

const syncFolder = async (path: string): Promise<void> => {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
};
