/**
 * User disks in memory, for tests: layers over a committed state, as the block path keeps them. They outlive the backup that
 * uses them, as real ones outlive a killed agent.
 *
 * A rebase believes nothing: what the layers held must be what the base file's map names, block by block; what they did not
 * hold is fetched by its digest, as the block path would.
 */
import { randomBytes } from 'node:crypto';
import {
  CollectiveError,
  MAP_KIND,
  privateBlockDigest,
  isAllZero,
  type Digest,
  type DiskMap,
} from '@collective/shared';
import type { BaseFile } from '../blockd/base/base-file.js';
import { OVERLAY_LIMITS } from '../blockd/overlay/geometry.js';
import { BaseFolder, type NamedBase } from './base-file.js';
import type { DiskView, SnapshotDisks } from './disk-port.js';

const GRANULE_BYTES = 4_096;
const TRIMMED = Buffer.alloc(GRANULE_BYTES);

/** A block that is not at hand. */
export type FetchBlock = (digest: Digest, file: BaseFile) => Promise<Buffer>;

type Layer = {
  readonly id: string;
  readonly granules: Map<number, Buffer>;
  /** Of granules that were not written as a whole: from and to of what was. The rest of their bytes is what lies below. */
  readonly parts: Map<number, readonly [number, number]>;
};
type Disk = {
  readonly overlay: string;
  /** The initial user disk. */
  readonly initial: Buffer;
  committed: Buffer;
  /** From the bottom; the last one is open. */
  layers: Layer[];
  base: Digest | undefined;
  /** Nothing of the committed state is at hand: each read of it asks the repository. */
  isCold: boolean;
};

export class MemoryDisks implements SnapshotDisks {
  readonly #disks = new Map<string, Disk>();
  readonly #fetch: FetchBlock;
  readonly #nameKeys: readonly Uint8Array[];
  readonly #begin: ((name: string) => { readonly overlay: string; readonly initial: Buffer }) | undefined;
  released = 0;
  /** Bytes that views have given. */
  readBytes = 0;

  constructor(options: {
    readonly fetch: FetchBlock;
    readonly nameKeys: readonly Uint8Array[];
    /** How a disk that nobody has added begins with its first use; absent: it is none. */
    readonly begin?: (name: string) => { readonly overlay: string; readonly initial: Buffer };
  }) {
    this.#begin = options.begin;
    this.#fetch = options.fetch;
    this.#nameKeys = options.nameKeys;
  }

  /** `initial`: the initial user disk's bytes. */
  add(name: string, overlay: string, initial: Buffer): void {
    this.#disks.set(name, {
      ...{ overlay, initial, base: undefined, isCold: false },
      committed: Buffer.from(initial),
      layers: [newLayer()],
    });
  }

  /** As a start with the source `snapshot`: what lies in the overlay stays. */
  async attachBase(name: string, base: NamedBase): Promise<void> {
    const disk = this.#disk(name);
    disk.committed = await this.#resolve(disk, base, Buffer.from(disk.committed));
    disk.base = base.name;
  }

  write(name: string, byteOffset: number, bytes: Uint8Array): void {
    const disk = this.#disk(name);
    const top = disk.layers.at(-1);
    const now = contentOf(disk, disk.layers.length);
    now.set(bytes, byteOffset);
    const last = byteOffset + bytes.length - 1;
    for (let granule = Math.floor(byteOffset / GRANULE_BYTES); granule * GRANULE_BYTES <= last; granule += 1) {
      const start = granule * GRANULE_BYTES;
      const part = [Math.max(0, byteOffset - start), Math.min(GRANULE_BYTES, last + 1 - start)] as const;
      if (part[1] - part[0] === GRANULE_BYTES) top?.parts.delete(granule);
      else if (top?.granules.has(granule) !== true || top.parts.has(granule)) top?.parts.set(granule, part);
      top?.granules.set(granule, Buffer.from(now.subarray(start, start + GRANULE_BYTES)));
    }
  }

  /** Whole granules become zero; nothing of them is held. */
  trim(name: string, byteOffset: number, byteLength: number): void {
    const top = this.#disk(name).layers.at(-1);
    for (let at = byteOffset; at < byteOffset + byteLength; at += GRANULE_BYTES)
      top?.granules.set(at / GRANULE_BYTES, TRIMMED);
  }

  /** What a guest would read now. */
  content(name: string): Buffer {
    const disk = this.#disk(name);
    return contentOf(disk, disk.layers.length);
  }

  /** The base file that the overlay names; undefined: the beginning. */
  baseOf(name: string): Digest | undefined {
    return this.#disk(name).base;
  }

  /** The cache of private blocks is empty, and stays so. */
  chill(name: string): void {
    this.#disk(name).isCold = true;
  }

  async seal(name: string): Promise<{ readonly layer: string }> {
    const disk = this.#disk(name);
    await requireBase(disk);
    const sealed = disk.layers.at(-1) ?? newLayer();
    if (disk.layers.length >= OVERLAY_LIMITS.layersMax) throw new CollectiveError('too-large', 'too many layers');
    disk.layers.push(newLayer());
    return { layer: sealed.id };
  }

  async view<T>(name: string, layer: string, work: (view: DiskView) => Promise<T>): Promise<T> {
    const disk = this.#disk(name);
    await requireBase(disk);
    const content = contentOf(disk, upTo(disk, layer));
    return work({
      diskBytes: content.length,
      read: async (target, byteOffset) => {
        if (byteOffset + target.length > content.length) throw new RangeError('reads beyond the disk');
        if (disk.isCold) await this.#requireAtHand(disk, { layer, byteOffset, byteLength: target.length });
        this.readBytes += target.length;
        content.copy(target, 0, byteOffset);
      },
    });
  }

  async changedBlocks(name: string, layer: string, blockBytes: number): Promise<Uint32Array> {
    const disk = this.#disk(name);
    const touched = new Set<number>();
    for (const { granules } of disk.layers.slice(0, upTo(disk, layer)))
      for (const granule of granules.keys()) touched.add(Math.floor((granule * GRANULE_BYTES) / blockBytes));
    return Uint32Array.from(touched).sort();
  }

  async rebase(name: string, layer: string, base: NamedBase): Promise<void> {
    const disk = this.#disk(name);
    await requireBase(disk);
    const count = upTo(disk, layer);
    const held = contentOf(disk, count);
    const resolved = await this.#resolve(disk, base, held);
    if (!resolved.equals(held)) throw new CollectiveError('digest-mismatch', 'the base is not what the layers hold');
    disk.committed = resolved;
    disk.layers = disk.layers.slice(count);
    disk.base = base.name;
  }

  async replace(name: string, base: NamedBase): Promise<void> {
    const disk = this.#disk(name);
    await requireBase(disk);
    disk.committed = await this.#resolve(disk, base, contentOf(disk, disk.layers.length));
    disk.layers = [newLayer()];
    disk.base = base.name;
  }

  async putOver(name: string, base: NamedBase): Promise<void> {
    const disk = this.#disk(name);
    const folder = await BaseFolder.open(disk.overlay);
    const map = await folder.state((await folder.base(base.name)).file);
    // What the map does not name any more.
    const { kinds, blockBytes } = map;
    for (const [index, kind] of kinds.entries())
      if (kind === MAP_KIND.zero) disk.committed.fill(0, index * blockBytes, (index + 1) * blockBytes);
    for (const { granules, parts } of disk.layers)
      for (const [granule, [from, to]] of parts) {
        const bytes = granules.get(granule);
        if (bytes === undefined || kinds[Math.floor((granule * GRANULE_BYTES) / blockBytes)] !== MAP_KIND.zero)
          continue;
        bytes.fill(0, 0, from);
        bytes.fill(0, to);
      }
    disk.base = base.name;
  }

  async liesOver(name: string): Promise<Digest | null> {
    return this.#disk(name).base ?? null;
  }

  async sealedLayers(name: string): Promise<readonly string[]> {
    return this.#disk(name)
      .layers.slice(0, -1)
      .map(({ id }) => id);
  }

  async heldBytes(name: string): Promise<number> {
    const held = ({ granules }: Layer): number => [...granules.values()].filter((each) => each !== TRIMMED).length;
    return this.#disk(name).layers.reduce((bytes, layer) => bytes + held(layer) * GRANULE_BYTES, 0);
  }

  async isTouched(name: string): Promise<boolean> {
    return this.#disk(name).layers.some(({ granules }) => granules.size > 0);
  }

  async release(): Promise<void> {
    this.released += 1;
  }

  /** What no layer up to that one covers of these bytes is asked of the repository. Errors: `block-unavailable`. */
  async #requireAtHand(
    disk: Disk,
    of: { readonly layer: string; readonly byteOffset: number; readonly byteLength: number },
  ): Promise<void> {
    if (disk.base === undefined) return;
    const folder = await BaseFolder.open(disk.overlay);
    const { file } = await folder.base(disk.base);
    const map = await folder.state(file);
    const layers = disk.layers.slice(0, upTo(disk, of.layer));
    const last = of.byteOffset + of.byteLength - 1;
    for (let granule = Math.floor(of.byteOffset / GRANULE_BYTES); granule * GRANULE_BYTES <= last; granule += 1) {
      const digest = map.digestAt(Math.floor((granule * GRANULE_BYTES) / map.blockBytes));
      if (digest === undefined || layers.some(({ granules, parts }) => granules.has(granule) && !parts.has(granule)))
        continue;
      await this.#fetch(digest, file).catch((cause: unknown) => {
        throw new CollectiveError('block-unavailable', String(cause), { cause });
      });
    }
  }

  /** The bytes of a committed state. `held`: what is at hand. */
  async #resolve(disk: Disk, base: NamedBase, held: Buffer): Promise<Buffer> {
    const folder = await BaseFolder.open(disk.overlay);
    const { file } = await folder.base(base.name);
    return stateBytes(await folder.state(file), {
      ...{ initial: disk.initial, held, nameKeys: this.#nameKeys },
      fetch: async (digest) => this.#fetch(digest, file),
    });
  }

  #disk(name: string): Disk {
    if (!this.#disks.has(name) && this.#begin !== undefined) {
      const { overlay, initial } = this.#begin(name);
      this.add(name, overlay, initial);
    }
    const disk = this.#disks.get(name);
    if (disk === undefined) throw new RangeError(`there is no disk ${name}`);
    return disk;
  }
}

/** The bytes of a disk in this state. `held` is used where it is what the map names. */
export async function stateBytes(
  map: DiskMap,
  from: {
    readonly initial: Buffer;
    readonly held?: Buffer;
    readonly nameKeys: readonly Uint8Array[];
    readonly fetch: (digest: Digest) => Promise<Buffer>;
  },
): Promise<Buffer> {
  const { blockBytes, diskBytes } = map;
  const bytes = Buffer.alloc(diskBytes);
  for (let index = 0; index < map.blockCount; index += 1) {
    const at = index * blockBytes;
    const end = Math.min(at + blockBytes, diskBytes);
    const kind = map.kinds[index];
    if (kind === MAP_KIND.zero) continue;
    if (kind === MAP_KIND.inherit) {
      from.initial.copy(bytes, at, at, end);
      continue;
    }
    const digest = map.digestAt(index);
    if (kind !== MAP_KIND.private || digest === undefined) throw new Error(`block ${String(index)} is public`);
    const block = Buffer.alloc(blockBytes);
    from.held?.copy(block, 0, at, end);
    const isHeld = from.held !== undefined && from.nameKeys.some((key) => privateBlockDigest(key, block) === digest);
    const found = isHeld ? block : await from.fetch(digest);
    if (isAllZero(found)) throw new Error(`block ${String(index)} is all zero, but has a name`);
    found.copy(bytes, at, 0, end - at);
  }
  return bytes;
}

/** What the overlay names must be there whole, with its maps: a restarted block path opens it. */
const requireBase = async ({ overlay, base }: Disk): Promise<void> => {
  if (base === undefined) return;
  const folder = await BaseFolder.open(overlay);
  const { file } = await folder.base(base);
  await folder.state(file);
  await folder.baseMap(file);
};

const newLayer = (): Layer => ({ id: randomBytes(16).toString('hex'), granules: new Map(), parts: new Map() });

/** How many layers there are up to and with that one. */
const upTo = (disk: Disk, layer: string): number => {
  const at = disk.layers.findIndex(({ id }) => id === layer);
  if (at < 0 || at === disk.layers.length - 1) throw new RangeError(`layer ${layer} is not sealed`);
  return at + 1;
};

const contentOf = (disk: Disk, layers: number): Buffer => {
  const content = Buffer.from(disk.committed);
  for (const { granules } of disk.layers.slice(0, layers))
    for (const [granule, bytes] of granules) bytes.copy(content, granule * GRANULE_BYTES);
  return content;
};
