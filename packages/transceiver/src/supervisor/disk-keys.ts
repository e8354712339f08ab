/**
 * The keys of the machines that are there (of their disks, and of the blocks of the person's snapshots), outside the supervisor: so that one that was restarted attaches their disks again with nobody at
 * the keyboard, and a logout does not pull a disk from under a running guest. One file of mode 0600 a machine, from its start until nothing of
 * it runs, in the same place as the session's keys: on tmpfs where the machine has one, reached through the link HOME/run/disk-keys. So a
 * machine that is stopped or suspended needs a login, and after a restart of the computer all do.
 */
import { lstat, mkdir, readdir, readlink, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { Compile } from '@collective/schema';
import { blockKeysField, type BlockKeys } from '../blockd/private/block-key-ring.js';
import type { Home } from '../home.js';
import { isErrno, readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';

/** 64 bytes as base64url. */
export type DiskKey = string;

/** What a machine's disks need of the person's keys. */
export type MachineKeys = {
  /** Undefined: the machine's disks are not encrypted. */
  readonly diskKey?: DiskKey | undefined;
  /** Of the epochs of the person's ring; undefined: no disk has private blocks. */
  readonly blockKeys?: BlockKeys | undefined;
};

const DISK_KEY = /^[A-Za-z0-9_-]{85}[AQgw]$/;
const blockKeysCheck = Compile(blockKeysField);

export class DiskKeys {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Uses the folder that an earlier supervisor made, wherever its environment had it. Errors: `not-allowed`, `local-io`. */
  static async open(home: Pick<Home, 'diskKeysFolder' | 'sessionDirectory'>): Promise<DiskKeys> {
    const link = home.diskKeysFolder;
    const wanted = join(home.sessionDirectory, 'disk-keys');
    const found = await readlink(link).catch((error: unknown) => {
      if (isErrno(error, 'EINVAL', 'ENOENT')) return undefined;
      throw error;
    });
    if (found !== undefined && (await isPrivate(found))) return new DiskKeys(found);
    await mkdir(wanted, { recursive: true, mode: 0o700 });
    if (!(await isPrivate(wanted)))
      throw new CollectiveError('not-allowed', `${wanted} is not a folder that only its owner may enter`);
    if (wanted !== link) {
      await removeIfThere(link);
      await symlink(wanted, link);
    }
    return new DiskKeys(wanted);
  }

  /** In the place of what is there. Two lines: the disk key or nothing, and, when there are some, the keys of blocks as JSON. */
  async keep(machine: string, { diskKey, blockKeys }: MachineKeys): Promise<void> {
    if (diskKey === undefined && blockKeys === undefined) await this.forget(machine);
    else {
      const second = blockKeys === undefined ? '' : `\n${JSON.stringify(blockKeys)}`;
      await writeDurably(this.#path(machine), `${diskKey ?? ''}${second}`);
    }
  }

  /** Nothing of a file that is torn, or not there. */
  async read(machine: string): Promise<MachineKeys> {
    const text = (await readIfThere(this.#path(machine)))?.toString('latin1');
    if (text === undefined) return {};
    const [first = '', second, ...rest] = text.split('\n');
    if ((first !== '' && !DISK_KEY.test(first)) || rest.length > 0) return {};
    const blockKeys = second === undefined ? undefined : blockKeysIn(second);
    if (second !== undefined && blockKeys === undefined) return {};
    return { ...(first === '' ? {} : { diskKey: first }), ...(blockKeys === undefined ? {} : { blockKeys }) };
  }

  /** Overwrites and removes it. */
  async forget(machine: string): Promise<void> {
    const path = this.#path(machine);
    const bytes = await readIfThere(path);
    if (bytes === undefined) return;
    await writeFile(path, Buffer.alloc(bytes.length));
    await unlink(path);
  }

  /** What a supervisor that died has left of machines that are not there any more. */
  async forgetAllBut(machines: readonly string[]): Promise<void> {
    for (const name of await readdir(this.#folder)) if (!machines.includes(name)) await this.forget(name);
  }

  #path(machine: string): string {
    return join(this.#folder, machine);
  }
}

const blockKeysIn = (text: string): BlockKeys | undefined => {
  try {
    const value: unknown = JSON.parse(text);
    return blockKeysCheck.Check(value) ? value : undefined;
  } catch {
    return undefined;
  }
};

const isPrivate = async (folder: string): Promise<boolean> => {
  const found = await lstat(folder).catch(() => undefined);
  return found?.isDirectory() === true && found.uid === process.getuid?.() && (found.mode & 0o077) === 0;
};
