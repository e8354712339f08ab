/**
 * What a person would use instead, under the same player: nbdkit's curl plugin with its cow and cache filters on the raw file of the
 * system disk, through the link; the other disks by nbdkit too, from local files, to its advantage.
 */
import { access } from 'node:fs/promises';
import path from 'node:path';
import { Child } from '../../support/child.js';
import { eventually } from '../../support/eventually.js';
import type { BootImages } from '../boot/qemu-boot.js';
import { curlPluginWords } from '../boot/competitors.js';

const READY_MS = 60_000;

export class TheirPath implements AsyncDisposable {
  readonly #servers: Child[] = [];
  readonly sockets = new Map<string, string>();

  /** `url` names the system disk's raw file. Resolves when every disk's socket is there. */
  static async start(images: BootImages, url: string, folder: string): Promise<TheirPath> {
    const theirs = new TheirPath();
    for (const { name, diskBytes } of images.disks) {
      const socket = path.join(folder, `nbdkit-${name}.sock`);
      const words =
        name === 'system'
          ? curlPluginWords(url)
          : name === 'user'
            ? ['--filter=cow', 'file', images.user]
            : ['--filter=cow', 'null', String(diskBytes)];
      theirs.#servers.push(
        new Child(`nbdkit ${name}`, 'nbdkit', ['--foreground', '--exit-with-parent', '--unix', socket, ...words]),
      );
      theirs.sockets.set(name, socket);
    }
    for (const [name, socket] of theirs.sockets)
      await eventually(`nbdkit serves ${name}`, READY_MS, () =>
        access(socket).then(
          () => true,
          () => undefined,
        ),
      );
    return theirs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.stop();
  }
}
