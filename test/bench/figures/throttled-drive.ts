/**
 * A drive of so many bytes a second for one process: the controller `blkio` of Linux's control groups holds back what its threads read from, and write past the
 * page cache to, the drive below a folder. No FUSE and no device of its own, whose processor time would be measured with it. Needs root and control groups of version 1.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, realpath, rmdir, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';

const BLKIO = '/sys/fs/cgroup/blkio';

/** `MAJOR:MINOR` of the whole drive that holds `folder`. */
const driveOf = async (folder: string): Promise<string> => {
  const { dev } = await stat(folder);
  // glibc's makedev, of the 32 bits that are in use.
  const numbers = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
  const device = await realpath(`/sys/dev/block/${numbers}`).catch(() => {
    throw new Error(`${folder} does not lie on a drive (device ${numbers}): set TMPDIR to a folder that does`);
  });
  const whole = existsSync(path.join(device, 'partition')) ? path.dirname(device) : device;
  return (await readFile(path.join(whole, 'dev'), 'utf8')).trim();
};

export class ThrottledDrive implements AsyncDisposable {
  readonly #group: string;

  private constructor(group: string) {
    this.#group = group;
  }

  /** From now on the process and its threads have that drive. Undefined `bytesPerSecond`: as it is. */
  static async of(pid: number, folder: string, bytesPerSecond: number | undefined): Promise<ThrottledDrive> {
    if (
      !existsSync(path.join(BLKIO, 'blkio.throttle.read_bps_device')) &&
      !existsSync(path.join(BLKIO, 'cgroup.procs'))
    )
      throw new Error(`there is no ${BLKIO}: figure-3 needs the blkio controller of control groups, version 1`);
    const group = path.join(BLKIO, `collective-figure-3-${process.pid}`);
    await mkdir(group, { recursive: true });
    const drive = await driveOf(folder);
    for (const limit of ['read', 'write'])
      await writeFile(path.join(group, `blkio.throttle.${limit}_bps_device`), `${drive} ${bytesPerSecond ?? 0}`);
    await writeFile(path.join(group, 'cgroup.procs'), String(pid));
    return new ThrottledDrive(group);
  }

  /** Every process of the group leaves it. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of (await readFile(path.join(this.#group, 'cgroup.procs'), 'utf8')).split('\n').filter(Boolean))
      await writeFile(path.join(BLKIO, 'cgroup.procs'), pid);
    await rmdir(this.#group);
  }
}

/** Takes what the files of a folder have in the page cache out of it, so that they are read from the drive. */
export const dropFromMemory = async (folder: string): Promise<void> => {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile())
      await runOrThrow('dd', [
        `of=${path.join(entry.parentPath, entry.name)}`,
        ...['oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'],
      ]);
};
