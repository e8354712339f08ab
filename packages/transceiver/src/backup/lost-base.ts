/**
 * What a disk lies on is not in the repository any more: an object was lost there, or retention took a snapshot that the repository did not
 * know to be this device's base (a lost catalogue, a device that was revoked and came back). Blocks that were written here as a whole are all
 * here; one that was written in part, and one that is to be sent again, need what lies below them.
 *
 * `mendBases` looks, by the indexes of the objects alone, for what none of the base's objects holds, and finds what it can in the objects of
 * the snapshots that are still kept: the base then names those too, and reads the same. It drops nothing and asks nobody. `giveUpLost`
 * makes zeroes of what is left, and is for a person who said so.
 *
 * As soon as all can be read everything is sent again: the repository looks only at what a snapshot changes, so it would take one that lists
 * what is gone, and that could be read nowhere but here.
 *
 * Order: base file, overlay (`putOver`), backup.json; `adoptBases` brings backup.json after an overlay whose agent was killed in between.
 */
import {
  ChangedPairs,
  CollectiveError,
  MAP_KIND,
  PAYLOAD_TYPES,
  decodeSnapshotManifest,
  digestBytes,
  hasCode,
  mapColumns,
  openEnvelope,
  type Digest,
  type DiskMap,
} from '@collective/shared';
import { isAway } from '../agent/repository-access.js';
import type { BackupDisk, BackupState } from './backup-file.js';
import { signalOf } from './backup-person.js';
import { initialState, type BaseFolder, type NamedBase } from './base-file.js';
import { isHere } from './begin-disks.js';
import type { DiskView } from './disk-port.js';
import { keyAt } from './pack-snapshot.js';
import type { StepContext } from './pack-step.js';
import { sealedAgain, withPin } from './pending-seals.js';
import { ascending } from './restore.js';
import { SnapshotObjects } from './snapshot-objects.js';

/** Numbers of blocks, ascending, by disk. */
export type LostBlocks = ReadonlyMap<string, Uint32Array>;

export type Mended = {
  /** Some base names more objects than before: it is worth another try. */
  readonly isMended: boolean;
  /** In no object that is kept; here they may be all the same, in the cache or written over. */
  readonly lost: LostBlocks;
};

/** Of other snapshots so many are looked into, the newest first. */
const OTHERS_MAX = 1_000;
/** Each waits until the block path gives it up. */
const PARALLEL_READS = 256;

/** Of disks that are here and lie on something. Errors: those of the network and of damaged base files. */
export async function mendBases(context: StepContext, signal?: AbortSignal): Promise<Mended> {
  const { parts, file } = context;
  const lost = new Map<string, Uint32Array>();
  const wider = new Map<string, NamedBase>();
  for (const disk of file.state.disks.filter(isHere)) {
    if (disk.committed === null) continue;
    const looked = await lookAt(context, { ...disk, committed: disk.committed }, signal);
    const { folder, base, map, objects, missing } = looked;
    if (missing.size === 0) continue;
    // Its memory goes with exactly what it reads now; what runs has the disk.
    if (!parts.isRunning()) {
      const others = await otherObjects(parts.person.client, base.file, signal);
      const found: number[] = [];
      for (const number of others) {
        const before = missing.size;
        if (before > 0) await strike(objects, number, { missing, signal });
        if (missing.size < before) found.push(number);
      }
      if (found.length > 0) {
        const all = ascending([...base.file.objects, ...found]);
        // Those that are gone stay named: they may come back.
        const number = Math.max(base.file.number, ...found);
        wider.set(disk.name, await folder.putBase({ ...base.file, objects: all, number }));
      }
    }
    if (missing.size > 0) lost.set(disk.name, indexesOf(map, missing));
  }
  const isMended = wider.size > 0;
  // With nothing to save here this device is to follow whoever went on meanwhile, and not to be apart from them.
  if (isMended && lost.size === 0 && file.state.pending !== null) await file.update(withAllAgain);
  for (const [disk, base] of wider) await putOver(context, disk, base);
  return { isMended, lost };
}

/** As many of these as nothing here can give: not the cache, and no layer. Errors: those of the view and of a seal, but `block-unavailable`. */
export async function unreadableOf({ parts, file, inSealTurn }: StepContext, lost: LostBlocks): Promise<LostBlocks> {
  const unreadable = new Map<string, Uint32Array>();
  for (const { name, blockBytes } of file.state.disks) {
    const blockIndexes = lost.get(name);
    if (blockIndexes === undefined) continue;
    // So many seals may wait that the last one was left out.
    const upper =
      (await parts.disks.sealedLayers(name)).at(-1) ??
      (await inSealTurn(async () => (await parts.disks.seal(name)).layer));
    const left = await parts.disks.view(name, upper, async (view) => refusedBy(view, { blockIndexes, blockBytes }));
    if (left.length > 0) unreadable.set(name, left);
  }
  return unreadable;
}

type Blocks = { readonly blockIndexes: Uint32Array; readonly blockBytes: number };

/** What is in the cache may take longer than a read waits, and is there for the next one: a pass that brings nothing more is the last. */
async function refusedBy(view: DiskView, { blockIndexes, blockBytes }: Blocks): Promise<Uint32Array> {
  let refused = await refusedOnce(view, { blockIndexes, blockBytes });
  for (;;) {
    const again = await refusedOnce(view, { blockIndexes: refused, blockBytes });
    if (again.length === refused.length) return again;
    refused = again;
  }
}

async function refusedOnce(view: DiskView, { blockIndexes, blockBytes }: Blocks): Promise<Uint32Array> {
  const refused: number[] = [];
  const left = blockIndexes.values();
  const read = async (): Promise<void> => {
    for (const index of left) {
      const start = index * blockBytes;
      await view.read(Buffer.alloc(Math.min(blockBytes, view.diskBytes - start)), start).catch((error: unknown) => {
        if (!hasCode(error, 'block-unavailable')) throw error;
        refused.push(index);
      });
    }
  };
  const results = await Promise.allSettled(Array.from({ length: PARALLEL_READS }, read));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  return Uint32Array.from(refused).sort();
}

/**
 * Zeroes take the place of these blocks, which may be none, below what was written here. The machine does not run. Everything is sent again
 * then, as a snapshot after the head, which is pinned, as is what the disk lay on. Durable when it resolves, disk by disk. Errors: `in-use`, `local-io`, `disk-full`.
 */
export async function giveUpLost(context: StepContext, lost: LostBlocks): Promise<void> {
  await context.file.update((state) => {
    const again = withAllAgain(state);
    // Should they be there again one day, that snapshot has them.
    return state.head === null || lost.size === 0 ? again : withPin(again, state.head.number);
  });
  for (const disk of context.file.state.disks) {
    const blockIndexes = lost.get(disk.name);
    if (blockIndexes === undefined || disk.committed === null) continue;
    const folder = await context.committed.folder(disk.name);
    const { file } = await folder.base(disk.committed.base);
    // The head may be another device's, which has written over them.
    await context.file.update((state) => withPin(state, file.number, file.subscription));
    const { map } = await context.committed.get(disk);
    const zeroes = mapColumns(blockIndexes.length);
    zeroes.kinds.fill(MAP_KIND.zero);
    const without = map.clone().apply(new ChangedPairs(map, blockIndexes, zeroes));
    const pairs = without.changesSince(initialState(disk, disk.base !== null));
    const maps = [await folder.putMap(pairs)];
    const base = await folder.putBase({ ...file, root: without.build().root, maps });
    await putOver(context, disk.name, base);
  }
}

/** What an overlay names is what its layers lie over, whatever backup.json says: the agent was killed between the two. */
export async function adoptBases({
  parts,
  file,
  committed,
}: Pick<StepContext, 'parts' | 'file' | 'committed'>): Promise<void> {
  // An overlay may name the state before, and is about to name the one that is noted.
  if (file.state.pending?.kind === 'committed') return;
  for (const disk of file.state.disks.filter(isHere)) {
    const name = disk.committed === null ? null : await parts.disks.liesOver(disk.name);
    if (name === null || name === disk.committed?.base) continue;
    await file.update(withBase(disk.name, await (await committed.folder(disk.name)).base(name)));
  }
}

/** So often it is looked whether a block that does not come is lost: in an outage nobody waits for the indexes of all objects. */
const LOOK_EVERY_MS = 600_000;

/** What it means that a snapshot could not be packed. */
export class LostLook {
  #foundNothingAtMs: number | undefined;

  /**
   * Resolves with `again` when the bases were mended. Errors: `base-lost`, or `error` when something else is the matter, or nobody can tell now.
   */
  async explain(context: StepContext, error: unknown, signal: AbortSignal): Promise<'again'> {
    const { parts, file } = context;
    const nowMs = parts.clock.nowMs();
    const isTooSoon = this.#foundNothingAtMs !== undefined && nowMs - this.#foundNothingAtMs < LOOK_EVERY_MS;
    if (!hasCode(error, 'block-unavailable') || isTooSoon) throw error;
    const { isMended, lost } = await mendBases(context, signal).catch((cause: unknown) => {
      throw isAway(cause) ? error : cause;
    });
    if (isMended) return 'again';
    if (lost.size > 0) throw baseLost(parts.name, lost, file.state.disks);
    this.#foundNothingAtMs = nowMs;
    throw error;
  }
}

/** How much that is, for people: `base-lost`. */
export function baseLost(name: string, lost: LostBlocks, of: readonly BackupDisk[]): CollectiveError {
  let [blocks, bytes] = [0, 0];
  for (const [disk, { length }] of lost) {
    blocks += length;
    bytes += length * (of.find((one) => one.name === disk)?.blockBytes ?? 0);
  }
  return new CollectiveError(
    'base-lost',
    `${String(blocks)} ${blocks === 1 ? 'block' : 'blocks'} (${String(bytes)} bytes) that your disk of ${name} lies on are not in the repository any more. What you wrote is here, and stays here: stop it and choose with collective continue ${name}.`,
    { data: { blocks, bytes } },
  );
}

type Looked = {
  readonly folder: BaseFolder;
  readonly base: NamedBase;
  readonly map: DiskMap;
  readonly objects: SnapshotObjects;
  /** Names that none of the base's objects has. */
  readonly missing: Set<string>;
};

async function lookAt(
  { parts, committed }: StepContext,
  disk: BackupDisk & { readonly committed: NonNullable<BackupDisk['committed']> },
  signal: AbortSignal | undefined,
): Promise<Looked> {
  const folder = await committed.folder(disk.name);
  const base = await folder.base(disk.committed.base);
  const { map } = await committed.get(disk);
  const missing = new Set<string>();
  for (const [index, kind] of map.kinds.entries())
    if (kind === MAP_KIND.private) missing.add(keyAt(map.digestBytes, index));
  // Of its own: what is known of an object may be of before it went.
  const objects = new SnapshotObjects(parts.person.client, base.file.subscription);
  for (const number of [...base.file.objects].reverse())
    if (missing.size > 0) await strike(objects, number, { missing, signal });
  return { folder, base, map, objects, missing };
}

/** Takes out of `missing` what this object holds: nothing when it is not there, or not whole. */
async function strike(
  objects: SnapshotObjects,
  number: number,
  { missing, signal }: { readonly missing: Set<string>; readonly signal: AbortSignal | undefined },
): Promise<void> {
  try {
    for (const [digest] of (await objects.index(number, signal)).entries())
      missing.delete(digestBytes(digest).toString('latin1'));
  } catch (error) {
    if (!(error instanceof CollectiveError && GONE.includes(error.code))) throw error;
  }
}
const GONE: readonly string[] = ['not-found', 'malformed', 'digest-mismatch', 'unknown-format', 'too-large'];

/**
 * What the kept snapshots list, the newest first, without what the base names. Only where to look: each block is checked by its name. The
 * snapshot that an object came with may be gone.
 */
async function otherObjects(
  client: StepContext['parts']['person']['client'],
  { subscription, objects }: { readonly subscription: string; readonly objects: readonly number[] },
  signal: AbortSignal | undefined,
): Promise<number[]> {
  const query = { which: 'kept' } as const;
  const rows = await orNone(client.call('snapshots', { params: { subscription }, query, ...signalOf(signal) }));
  const others = new Set<number>();
  for (const { number } of [...(rows ?? [])].sort((a, b) => b.number - a.number)) {
    if (others.size >= OTHERS_MAX) break;
    const params = { subscription, number };
    const bytes = await orNone(client.call('snapshotManifest', { params, ...signalOf(signal) }));
    if (bytes === undefined) continue;
    const { payload } = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot });
    for (const object of decodeSnapshotManifest(payload).objects) others.add(object);
  }
  for (const object of objects) others.delete(object);
  return ascending([...others])
    .reverse()
    .slice(0, OTHERS_MAX);
}

/** Undefined for what is not there any more: the subscription, or a snapshot. */
const orNone = async <T>(asked: Promise<T>): Promise<T | undefined> =>
  asked.catch((error: unknown) => {
    if (hasCode(error, 'not-found')) return undefined;
    throw error;
  });

const indexesOf = (map: DiskMap, missing: ReadonlySet<string>): Uint32Array =>
  Uint32Array.from(map.kinds.keys()).filter(
    (index) => map.kinds[index] === MAP_KIND.private && missing.has(keyAt(map.digestBytes, index)),
  );

async function putOver({ parts, file }: StepContext, disk: string, base: NamedBase): Promise<void> {
  await parts.disks.putOver(disk, base);
  await parts.onStep?.('base-put');
  await file.update(withBase(disk, base));
}

/** What was packed lies over the base of before. */
const withPackedAgain = (state: BackupState): BackupState =>
  state.pending?.kind === 'packed' ? { ...state, pending: sealedAgain(state.pending) } : state;

const withAllAgain = (state: BackupState): BackupState => ({
  ...withPackedAgain(state),
  mustResend: true,
  mustCommit: true,
});

/** Another state than before is one that no snapshot has. */
const withBase =
  (name: string, { name: base, file: { root } }: { readonly name: Digest; readonly file: { readonly root: Digest } }) =>
  (state: BackupState): BackupState => {
    const isOther = state.disks.some((disk) => disk.name === name && disk.committed?.root !== root);
    return {
      ...(isOther ? withAllAgain(state) : withPackedAgain(state)),
      disks: state.disks.map((disk) =>
        disk.name === name ? { ...disk, committed: { ...disk.committed, root, base } } : disk,
      ),
    };
  };
