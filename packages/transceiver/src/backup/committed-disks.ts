/**
 * The committed states of a machine's disks, kept in memory between two snapshots (33 bytes a block), and written as base
 * files and maps when a snapshot has been packed.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest, DiskMap } from '@collective/shared';
import { BASE_MAPS_MAX } from '../blockd/base/base-file.js';
import { BaseFolder, initialState, type NamedBase } from './base-file.js';
import type { BackupDisk, BackupState } from './backup-file.js';
import type { CommittedDisk } from './pack-snapshot.js';

/** Later lists may grow to this before all is written anew, however short the first one is. */
const LATER_BYTES_MIN = 65_536;

type Held = CommittedDisk & { readonly of: Digest | null };

export class CommittedDisks {
  readonly #overlayOf: (disk: string) => string;
  readonly #held = new Map<string, Held>();
  readonly #next = new Map<string, Held>();

  /** `overlayOf`: the folder of a disk's overlay. */
  constructor(overlayOf: (disk: string) => string) {
    this.#overlayOf = overlayOf;
  }

  async folder(disk: string): Promise<BaseFolder> {
    return BaseFolder.open(this.#overlayOf(disk));
  }

  /** Errors: `local-io`, `digest-mismatch` for damaged maps. */
  async get(disk: BackupDisk): Promise<CommittedDisk> {
    const of = disk.committed?.base ?? null;
    const held = this.#held.get(disk.name);
    if (held?.of === of) return held;
    const folder = await this.folder(disk.name);
    const baseMap =
      disk.base === null ? undefined : await folder.publicMap(disk.base.map, { ...disk, root: disk.base.root });
    const state =
      of === null ? initialState(disk, disk.base !== null) : await folder.state((await folder.base(of)).file);
    // Nothing has been sent of the beginning: its pages count as new.
    const pages = of === null ? new Set<Digest>() : new Set(state.build().pages.keys());
    const loaded: Held = { map: state, pages, baseMap, of };
    this.#held.set(disk.name, loaded);
    return loaded;
  }

  /** What becomes committed under this base, so that it need not be read again. */
  remember(disk: string, of: Digest, state: Pick<CommittedDisk, 'map' | 'pages'>): void {
    const baseMap = this.#held.get(disk)?.baseMap;
    this.#next.set(disk, { ...state, baseMap, of });
  }

  /** A snapshot has been committed: what was remembered counts if it is that. */
  committed({ disks }: BackupState): void {
    for (const { name, committed } of disks) {
      const next = this.#next.get(name);
      if (next !== undefined && next.of === committed?.base) this.#held.set(name, next);
    }
    this.#next.clear();
  }

  forget(): void {
    this.#held.clear();
    this.#next.clear();
  }

  /**
   * Writes the base file of a state that follows the committed one; durable when it resolves. Only what has changed is
   * written, until the later lists outgrow the first.
   */
  async write(
    disk: BackupDisk,
    next: { readonly map: DiskMap; readonly root: Digest },
    of: { readonly subscription: string; readonly number: number; readonly objects: readonly number[] },
  ): Promise<NamedBase> {
    const folder = await this.folder(disk.name);
    const { diskBytes, blockBytes, base } = disk;
    const before = disk.committed === null ? undefined : (await folder.base(disk.committed.base)).file.maps;
    const isLonger = before === undefined || (await this.#isOutgrown(folder, before));
    let maps: Digest[];
    if (isLonger) maps = [await folder.putMap(next.map.changesSince(initialState(disk, base !== null)))];
    else {
      const changes = next.map.changesSince((await this.get(disk)).map);
      maps = changes.count === 0 ? [...before] : [...before, await folder.putMap(changes)];
    }
    return folder.putBase({
      ...{ format: 1, diskBytes, blockBytes, base, root: next.root, maps },
      ...{ subscription: of.subscription, number: of.number, objects: [...of.objects] },
    });
  }

  async #isOutgrown({ folder }: BaseFolder, maps: readonly Digest[]): Promise<boolean> {
    if (maps.length >= BASE_MAPS_MAX) return true;
    const sizes = await Promise.all(maps.map(async (map) => (await stat(join(folder, 'maps', map))).size));
    const [first = 0, ...later] = sizes;
    return later.reduce((sum, bytes) => sum + bytes, 0) > Math.max(first, LATER_BYTES_MIN);
  }

  /** Removes the bases and maps that neither the committed state nor what is pending names. */
  async cleanUp({ disks, pending }: BackupState): Promise<void> {
    for (const disk of disks) {
      const bases = new Set<Digest>(disk.committed === null ? [] : [disk.committed.base]);
      if (pending !== null && pending.kind !== 'sealed')
        for (const state of pending.states) if (state.disk === disk.name) bases.add(state.base);
      const folder = await this.folder(disk.name);
      await folder.keepOnly(bases, new Set(disk.base === null ? [] : [disk.base.map]));
    }
  }
}
