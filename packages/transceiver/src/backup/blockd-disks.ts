/**
 * The user disks of one machine by way of blockd. While the machine runs, its own session has them; while it does not, and
 * when the version that runs has no such disk, they are attached by a session of the backup, for as long as there is
 * something to do, and let go before a start.
 *
 * What needs no block path is read from the overlay's folder: which layers there are, and how much they hold.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, hasCode, type Digest, type EpochKeys } from '@collective/shared';
import {
  DESCRIPTION_NAME,
  decodeStackDescription,
  encodeStackDescription,
  type StackDescription,
} from '../blockd/overlay/stack-description.js';
import { MAP_HEADER_BYTES } from '../blockd/overlay/map-file-header.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import { NbdReader } from '../publish/nbd-reader.js';
import { isErrno, readIfThere, writeDurably } from '../storage/durable-file.js';
import type { FileSystem } from '../storage/file-system.js';
import type { NamedBase } from './base-file.js';
import type { DiskView, SnapshotDisks } from './disk-port.js';
import { dropLayers } from './drop-layers.js';
import { localFailure, ofThisMachine } from './local-failure.js';

/** A control connection to blockd, as ControlClient is one; the methods of docs/adr/0020 by name. */
export interface BlockdControl {
  request(method: BackupMethod | 'attach' | 'detach' | 'hello', params: object): Promise<unknown>;
}
export type BackupMethod = 'seal' | 'view-open' | 'view-close' | 'changed-blocks' | 'rebase';

export type BlockdDisksOptions = {
  /** Of the machine; names the session. */
  readonly name: string;
  /** Errors: `shutting-down` when blockd cannot be reached. */
  readonly control: () => Promise<BlockdControl>;
  /** The session of the running machine that has the disk; undefined: it does not run, or the version has no such disk. */
  readonly session: (disk: string) => string | undefined;
  /** `source`, `overlay`, `diskKey` and the like for a disk of the machine that does not run; session, disk and listen are added. */
  readonly attachment: (disk: string) => Promise<object>;
  readonly overlayOf: (disk: string) => string;
  /** For short-lived sockets and files; short enough for a socket's name. */
  readonly runDirectory: string;
  readonly blockKeys: () => BlockKeys;
  readonly fileSystem: Pick<FileSystem, 'lock'>;
  /** Whether a block daemon may be there, without starting one. */
  readonly isBlockdThere?: () => boolean;
};

export class BlockdDisks implements SnapshotDisks {
  readonly #options: BlockdDisksOptions;
  readonly #ownSession: string;
  readonly #attached = new Map<string, Promise<void>>();
  /** An agent that was killed, or a release that failed, may have left some of ours attached. */
  #mayBeAttached = true;
  #users = 0;
  #whenIdle: (() => void)[] = [];
  #releasing: Promise<unknown> = Promise.resolve();

  constructor(options: BlockdDisksOptions) {
    this.#options = options;
    // No machine can be named so: it would be taken for that one.
    this.#ownSession = `backup@${options.name}`;
  }

  async seal(disk: string): Promise<{ readonly layer: string }> {
    return this.#use(disk, async (control, session) => {
      const { layer } = (await control.request('seal', { session, disk })) as { readonly layer: string };
      return { layer };
    });
  }

  async view<T>(disk: string, layer: string, work: (view: DiskView) => Promise<T>): Promise<T> {
    return this.#use(disk, async (control, session) => {
      const path = this.#shortPath('view');
      await control.request('view-open', { session, disk, layer, listen: { path } }).catch(async (error: unknown) => {
        // Of an agent that was killed: its socket has another name, so it is opened again under ours.
        if (!hasCode(error, 'exists')) throw error;
        await control.request('view-close', { session, disk, layer });
        await control.request('view-open', { session, disk, layer, listen: { path } });
      });
      try {
        const reader = await NbdReader.open(path, 'block-unavailable');
        try {
          return await work({
            diskBytes: reader.diskBytes,
            socketPath: path,
            read: async (target, byteOffset) => reader.read(target, byteOffset),
          });
        } finally {
          reader.close();
        }
      } finally {
        // It ends by itself with the disk's session.
        await control.request('view-close', { session, disk, layer }).catch(() => undefined);
      }
    });
  }

  async changedBlocks(disk: string, layer: string, blockBytes: number): Promise<Uint32Array> {
    return this.#use(disk, async (control, session) => {
      const path = this.#shortPath('changed');
      try {
        await control.request('changed-blocks', { session, disk, layer, blockBytes, path });
        const bytes = await readFile(path);
        return Uint32Array.from({ length: Math.floor(bytes.length / 4) }, (_none, at) => bytes.readUInt32LE(at * 4));
      } finally {
        await unlink(path).catch(() => undefined);
      }
    });
  }

  async rebase(disk: string, layer: string, base: NamedBase): Promise<void> {
    await this.#use(disk, async (control, session) => {
      const blockKeys = this.#options.blockKeys();
      await control.request('rebase', { session, disk, layer, base: base.name, blockKeys });
    });
  }

  async replace(disk: string): Promise<void> {
    await this.#atRest(disk, dropLayers);
  }

  async putOver(disk: string, base: NamedBase): Promise<void> {
    await this.#atRest(disk, async (folder) => {
      const description = await this.#description(disk);
      // Without one the next attach makes it, over the base that its source names.
      if (description === undefined) return;
      await writeDurably(join(folder, DESCRIPTION_NAME), encodeStackDescription({ ...description, base: base.name }));
    });
  }

  async liesOver(disk: string): Promise<Digest | null> {
    return (await this.#description(disk))?.base ?? null;
  }

  /** With the overlay's folder, which nobody has meanwhile. Errors: `in-use`, `disk-full`, `local-io`. */
  async #atRest(disk: string, work: (folder: string) => Promise<void>): Promise<void> {
    if (this.#options.session(disk) !== undefined)
      throw new CollectiveError('in-use', `${this.#options.name} is running.`);
    await this.release();
    const folder = this.#options.overlayOf(disk);
    // Whoever has the disk holds this lock.
    const lock = await this.#options.fileSystem.lock(join(folder, 'lock'));
    try {
      await work(folder);
    } catch (error) {
      throw localFailure(error, folder);
    } finally {
      await lock.release();
    }
  }

  async sealedLayers(disk: string): Promise<readonly string[]> {
    return (await this.#layers(disk)).slice(0, -1);
  }

  async heldBytes(disk: string): Promise<number> {
    return (await this.#allocated(disk, 'data')).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async isTouched(disk: string): Promise<boolean> {
    if ((await this.heldBytes(disk)) > 0) return true;
    // Where there is more of a map than its header, bits were set: pages without any are holes.
    const maps = await this.#allocated(disk, 'live');
    return maps.some(({ bytes, unitBytes }) => bytes > Math.max(MAP_HEADER_BYTES, unitBytes));
  }

  /** What that file of each layer takes on the local disk; `unitBytes`: the least that the file system gives. */
  async #allocated(disk: string, file: 'data' | 'live'): Promise<{ bytes: number; unitBytes: number }[]> {
    const all = [];
    for (const layer of await this.#layers(disk)) {
      const path = join(this.#options.overlayOf(disk), 'layers', layer, file);
      // A layer may be forgotten between the two looks. Blocks of 512 bytes: the file is sparse.
      const found = await stat(path).catch(() => undefined);
      if (found !== undefined) all.push({ bytes: found.blocks * 512, unitBytes: found.blksize });
    }
    return all;
  }

  /** Waits for what is under way; whatever comes after it attaches again. */
  async release(): Promise<void> {
    const releasing = this.#releasing.then(async () => {
      if (this.#users > 0) await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
      if (this.#attached.size > 0) this.#mayBeAttached = true;
      if (!this.#mayBeAttached) return;
      this.#attached.clear();
      if (this.#options.isBlockdThere?.() === false) return;
      const control = await this.#options.control();
      await control.request('detach', { session: this.#ownSession, keep: true }).catch((error: unknown) => {
        // blockd was restarted: it has nothing of ours.
        if (!hasCode(error, 'not-found')) throw error;
      });
      this.#mayBeAttached = false;
    });
    this.#releasing = releasing.catch(() => undefined);
    await releasing;
  }

  async #use<T>(disk: string, work: (control: BlockdControl, session: string) => Promise<T>): Promise<T> {
    await this.#releasing;
    this.#users += 1;
    try {
      // Of a suspended machine nothing is to be had: for that no block daemon is started.
      this.#options.session(disk);
      const control = await this.#options.control().catch((error: unknown) => {
        throw isErrno(error, 'ENOENT', 'ECONNREFUSED') ? blockdIsAway(error) : error;
      });
      try {
        return await work(control, this.#options.session(disk) ?? (await this.#attach(control, disk)));
      } catch (error) {
        // A blockd that was restarted, or a machine that has stopped: the next try attaches again.
        if (hasCode(error, 'not-found') || hasCode(error, 'shutting-down')) this.#attached.delete(disk);
        throw (await isBlockdAway(control, error)) ? blockdIsAway(error) : ofThisMachine(error);
      }
    } finally {
      this.#users -= 1;
      if (this.#users === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    }
  }

  async #attach(control: BlockdControl, disk: string): Promise<string> {
    let attached = this.#attached.get(disk);
    if (attached === undefined) {
      attached = this.#attachNow(control, disk);
      this.#attached.set(disk, attached);
      attached.catch(() => this.#attached.delete(disk));
    }
    await attached;
    return this.#ownSession;
  }

  async #attachNow(control: BlockdControl, disk: string): Promise<void> {
    this.#mayBeAttached = true;
    const attachment = await this.#options.attachment(disk);
    const params = { ...attachment, session: this.#ownSession, disk, listen: { path: this.#shortPath('disk') } };
    await control.request('attach', params).catch((error: unknown) => {
      // By an agent that was killed: it is ours.
      if (!hasCode(error, 'exists')) throw error;
    });
  }

  async #layers(disk: string): Promise<readonly string[]> {
    return (await this.#description(disk))?.layerIds ?? [];
  }

  async #description(disk: string): Promise<StackDescription | undefined> {
    const bytes = await readIfThere(join(this.#options.overlayOf(disk), DESCRIPTION_NAME));
    return bytes === undefined ? undefined : decodeStackDescription(bytes);
  }

  #shortPath(what: string): string {
    const machine = createHash('sha256').update(this.#options.name).digest('hex').slice(0, 8);
    return join(this.#options.runDirectory, `b-${machine}-${what}-${randomBytes(4).toString('hex')}`);
  }
}

/** It has ended in the middle of the work, or the one that was started again has not opened the disk yet. */
const isBlockdAway = async (control: BlockdControl, error: unknown): Promise<boolean> => {
  if (hasCode(error, 'shutting-down')) return true;
  if (hasCode(error, 'not-found')) return error.data['isAttached'] === false;
  // A view whose connection broke says no more than that.
  if (!hasCode(error, 'local-io')) return false;
  return control.request('hello', {}).then(
    () => false,
    (said: unknown) => hasCode(said, 'shutting-down'),
  );
};

/** Whoever keeps it starts it again at once: it is tried again soon (retry-plan.ts). */
const blockdIsAway = (cause: unknown): CollectiveError =>
  new CollectiveError('shutting-down', 'The block daemon has ended, and is being started again.', {
    cause,
    data: { isBlockd: true },
  });

/** The keys of every epoch that is known, as blockd takes them. */
export const blockKeysOf = (epochs: Iterable<number>, keysOf: (epoch: number) => EpochKeys): BlockKeys =>
  [...new Set(epochs)].map((epoch) => {
    const { blockNameKey, chunkKey } = keysOf(epoch);
    return { epoch, blockNameKey: blockNameKey.toString('base64url'), chunkKey: chunkKey.toString('base64url') };
  });
