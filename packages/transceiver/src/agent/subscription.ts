/**
 * One person's use of one appliance on this machine, HOME/machines/NAME/subscription.json: the identity of the virtual
 * machine, and what each disk of the person began as. A user disk keeps its beginning for ever: its overlay only makes
 * sense over that map, whatever later versions of the appliance begin with. The maps lie beside it as files, which
 * blockd reads (docs/formats/disk-map.md, changed pairs relative to nothing).
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Type, type Static } from '@collective/schema';
import {
  CollectiveError,
  digestField,
  diskNameField,
  documentCodec,
  encodeChangedPairs,
  integerField,
  isDiskName,
  nullable,
  numberField,
  strictObject,
  wordField,
  type Digest,
  type DiskMap,
} from '@collective/shared';
import { decodeStackDescription, DESCRIPTION_NAME } from '../blockd/overlay/stack-description.js';
import { isErrno, makeFolderDurably, readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';
import type { MachineDisk } from '../supervisor/machine-spec.js';
import type { PlannedDisk } from './machine-port.js';

const schema = strictObject({
  format: Type.Literal(1),
  uuid: Type.String({ pattern: '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' }),
  macAddress: Type.String({ pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' }),
  disks: Type.Array(
    strictObject({
      name: diskNameField,
      kind: wordField('user', 'ephemeral'),
      /** The version whose initial disk it began as. */
      version: numberField,
      diskBytes: integerField({ min: 512, max: 2 ** 44 }),
      blockBytes: integerField({ min: 4_096, max: 1_048_576 }),
      root: nullable(digestField),
    }),
    { maxItems: 64 },
  ),
});
/** Names in `traces` of the sealed traces of user disks. */
const PRIVATE = '.private';
/** Names in `traces` of what boots have left. */
const RECORDED = '.recorded';
/** Names in `traces` of what all sessions touch, and of what this one, or the last one, has touched. */
const USE = '.use';
const SESSION = '.session';
export type LeftFile = { readonly disk: string; readonly kind: 'boot' | 'session' };
/** Undefined: it was left by neither. */
export const leftFile = (name: string): LeftFile | undefined => {
  for (const [ending, kind] of [[RECORDED, 'boot'] as const, [SESSION, 'session'] as const]) {
    const disk = name.slice(0, -ending.length);
    if (name.endsWith(ending) && isDiskName(disk)) return { disk, kind };
  }
  return undefined;
};

const codec = documentCodec(schema, { what: 'subscription.json', bytesMax: 65_536 });
export type SubscriptionFile = Static<typeof schema>;
export type KeptDisk = SubscriptionFile['disks'][number];

export class Subscription {
  readonly #folder: string;
  #file: SubscriptionFile;

  private constructor(folder: string, file: SubscriptionFile) {
    this.#folder = folder;
    this.#file = file;
  }

  /** Made when the appliance is used here for the first time. Errors: `malformed`, `local-io`. */
  static async open(machinesDirectory: string, name: string): Promise<Subscription> {
    const folder = join(machinesDirectory, name);
    // What a guest flushes into an overlay must not hang on a name that a power cut takes away.
    for (const made of [folder, join(folder, 'maps'), join(folder, 'overlays'), join(folder, 'traces')])
      await makeFolderDurably(made);
    const bytes = await readIfThere(join(folder, 'subscription.json'));
    if (bytes !== undefined) return new Subscription(folder, codec.decode(bytes));
    const subscription = new Subscription(folder, {
      format: 1,
      uuid: randomUUID(),
      macAddress: newMacAddress(),
      disks: [],
    });
    await subscription.#write();
    return subscription;
  }

  /** What is there of it; undefined for a folder that is none, or that cannot be read. Makes nothing. */
  static async read(machinesDirectory: string, name: string): Promise<Subscription | undefined> {
    const folder = join(machinesDirectory, name);
    try {
      const bytes = await readIfThere(join(folder, 'subscription.json'));
      return bytes === undefined ? undefined : new Subscription(folder, codec.decode(bytes));
    } catch (error) {
      if (error instanceof CollectiveError || isErrno(error, 'ENOTDIR')) return undefined;
      throw error;
    }
  }

  /** Names of those that are backed up. */
  get userDisks(): string[] {
    return this.#file.disks.filter(({ kind }) => kind === 'user').map(({ name }) => name);
  }

  /** Disks that a reset throws away: the ephemeral ones, and those that are nobody's (of the system). */
  async disksMadeAnew(): Promise<string[]> {
    const kept = new Set(this.userDisks);
    const names = await readdir(join(this.#folder, 'overlays'));
    return names.filter((name) => !kept.has(name));
  }

  /** What a disk began as; undefined before its first use. */
  kept(disk: string): KeptDisk | undefined {
    return this.#file.disks.find(({ name }) => name === disk);
  }

  get uuid(): string {
    return this.#file.uuid;
  }

  get macAddress(): string {
    return this.#file.macAddress;
  }

  /** What the person's disk began as; recorded, with its map, at the first use. */
  async keptDisk({ description, map }: PlannedDisk, version: number): Promise<KeptDisk> {
    const kept = this.kept(description.name);
    // What only lay here belongs to the person from now on: a reset leaves it.
    if (kept?.kind === 'ephemeral' && description.kind === 'user') return this.#keepAs({ ...kept, kind: 'user' });
    if (kept !== undefined) return kept;
    const kind = description.kind === 'ephemeral' ? 'ephemeral' : 'user';
    const { name, diskBytes, blockBytes, root } = description;
    if (root !== null) await this.putMap(root, map);
    return this.#keepAs({ name, kind, version, diskBytes, blockBytes, root });
  }

  /** A person's disk that did not begin here, but comes over the base file of a snapshot: it is theirs all the same. */
  async keptSnapshotDisk(disk: Pick<KeptDisk, 'name' | 'diskBytes' | 'blockBytes'>, version: number): Promise<void> {
    if (this.kept(disk.name)?.kind === 'user') return;
    const { name, diskBytes, blockBytes } = disk;
    await this.#keepAs({ name, kind: 'user', version, diskBytes, blockBytes, root: null });
  }

  mapPath(root: Digest): string {
    return join(this.#folder, 'maps', root);
  }

  /** The folder of a disk's overlay. */
  overlayPath(disk: string): string {
    return join(this.#folder, 'overlays', disk);
  }

  /** By which the disk key of each of the person's disks is known again; those that were never written are not among them. */
  async keyChecks(): Promise<string[]> {
    const checks: string[] = [];
    for (const { name } of this.#file.disks) {
      const bytes = await readIfThere(join(this.overlayPath(name), DESCRIPTION_NAME));
      // One that cannot be read is refused by who opens it, with what is wrong.
      const check = bytes === undefined ? undefined : keyCheckOf(bytes);
      if (check !== undefined) checks.push(check);
    }
    return checks;
  }

  /** Where blockd finds what is known of a system disk, which is written for it here, and where it leaves what this boot and this session touch. */
  async putHints(
    disk: string,
    { trace, use }: { readonly trace: Buffer | undefined; readonly use: Buffer | undefined },
  ): Promise<NonNullable<Extract<MachineDisk['source'], { readonly kind: 'published' }>['trace']>> {
    const path = join(this.#folder, 'traces', disk);
    if (trace !== undefined) await writeDurably(path, trace);
    if (use !== undefined) await writeDurably(`${path}${USE}`, use);
    return {
      record: `${path}${RECORDED}`,
      session: `${path}${SESSION}`,
      ...(trace === undefined ? {} : { replay: path }),
      ...(use === undefined ? {} : { use: `${path}${USE}` }),
    };
  }

  /** Where the sealed boot trace of a user disk lies. */
  privateTracePath(disk: string): string {
    return join(this.#folder, 'traces', `${disk}${PRIVATE}`);
  }

  async putMap(root: Digest, map: DiskMap): Promise<void> {
    const path = this.mapPath(root);
    if ((await readIfThere(path)) === undefined)
      await writeDurably(path, encodeChangedPairs(map.changesSince(undefined)));
  }

  /** Removes maps that neither a kept disk nor the version that runs needs. */
  async dropMaps(wanted: ReadonlySet<string>): Promise<void> {
    const kept = new Set<string>([...wanted, ...this.#file.disks.flatMap(({ root }) => (root === null ? [] : [root]))]);
    const names = await readdir(join(this.#folder, 'maps')).catch((error: unknown) => {
      if (isErrno(error, 'ENOENT')) return [];
      throw error;
    });
    for (const name of names) if (!kept.has(name)) await removeIfThere(join(this.#folder, 'maps', name));
  }

  async #keepAs(disk: KeptDisk): Promise<KeptDisk> {
    const others = this.#file.disks.filter(({ name }) => name !== disk.name);
    this.#file = { ...this.#file, disks: [...others, disk] };
    await this.#write();
    return disk;
  }

  async #write(): Promise<void> {
    await writeDurably(join(this.#folder, 'subscription.json'), codec.encode(this.#file));
  }
}

const keyCheckOf = (bytes: Buffer): string | undefined => {
  try {
    return decodeStackDescription(bytes).encryption?.keyCheck;
  } catch (error) {
    if (error instanceof CollectiveError) return undefined;
    throw error;
  }
};

/** Locally administered, in QEMU's own range. */
const newMacAddress = (): string =>
  ['52', '54', '00', ...Array.from(randomBytes(3), (byte) => byte.toString(16).padStart(2, '0'))].join(':');
