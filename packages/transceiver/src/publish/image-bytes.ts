/**
 * The plain bytes of a disk image by offset, whatever its format: raw files directly, everything else through a
 * `qemu-nbd --read-only` child (why: see nbd-reader.ts). Who opens one closes it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { open, mkdtemp, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { NbdReader } from './nbd-reader.js';

/** Where the plain bytes of an image are read; can be sent to a worker. */
export type ByteSource =
  | { readonly kind: 'file'; readonly path: string; readonly diskBytes: number }
  | { readonly kind: 'nbd'; readonly socketPath: string; readonly diskBytes: number };

export interface ImageBytes {
  /** Fills `target`; bytes behind the end of the disk are zero. Calls may overlap. Errors: `local-io`, `bad-image` (cut off). */
  read(target: Buffer, byteOffset: number): Promise<void>;
  close(): Promise<void>;
}

export async function openImageBytes(source: ByteSource): Promise<ImageBytes> {
  if (source.kind === 'file') return new FileBytes(await open(source.path, 'r'), source);
  const reader = await NbdReader.open(source.socketPath);
  return {
    async read(target, byteOffset) {
      const inside = Math.max(0, Math.min(target.length, reader.diskBytes - byteOffset));
      if (inside > 0) await reader.read(target.subarray(0, inside), byteOffset);
      target.fill(0, inside);
    },
    async close() {
      reader.close();
    },
  };
}

class FileBytes implements ImageBytes {
  readonly #file: FileHandle;
  readonly #source: { readonly path: string; readonly diskBytes: number };

  constructor(file: FileHandle, source: { readonly path: string; readonly diskBytes: number }) {
    this.#file = file;
    this.#source = source;
  }

  async read(target: Buffer, byteOffset: number): Promise<void> {
    const inside = Math.max(0, Math.min(target.length, this.#source.diskBytes - byteOffset));
    let filled = 0;
    while (filled < inside) {
      const { bytesRead } = await this.#file.read(target, filled, inside - filled, byteOffset + filled);
      if (bytesRead === 0) {
        throw new CollectiveError(
          'bad-image',
          `${this.#source.path} ended at byte ${String(byteOffset + filled)} of ${String(this.#source.diskBytes)}.`,
        );
      }
      filled += bytesRead;
    }
    target.fill(0, inside);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

/**
 * A qemu-nbd that serves one image read-only, or nothing for a raw image. It ends when its last client has gone, and this
 * keeps one connection open as long as it is wanted: so a publish that is killed leaves no process behind.
 */
export class ImageServer {
  readonly source: ByteSource;
  readonly #child: ChildProcess | undefined;
  readonly #holder: NbdReader | undefined;
  readonly #folder: string | undefined;

  private constructor(source: ByteSource, served?: { child: ChildProcess; holder: NbdReader; folder: string }) {
    this.source = source;
    this.#child = served?.child;
    this.#holder = served?.holder;
    this.#folder = served?.folder;
  }

  /** Errors: `missing-program`, `bad-image`. */
  static async open(image: {
    readonly path: string;
    readonly format: string;
    readonly diskBytes: number;
  }): Promise<ImageServer> {
    if (image.format === 'raw') return new ImageServer({ kind: 'file', path: image.path, diskBytes: image.diskBytes });
    const folder = await mkdtemp(join(tmpdir(), 'collective-nbd-'));
    const socketPath = join(folder, 's');
    const child = spawn(
      'qemu-nbd',
      ['--read-only', '--shared=0', '--cache=writeback', '-f', image.format, '-k', socketPath, image.path],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-1000)));
    const ended = new Promise<never>((_resolve, reject) => {
      child.once('error', () =>
        reject(new CollectiveError('missing-program', 'qemu-nbd is not installed (Debian: apt install qemu-utils).')),
      );
      child.once('exit', () =>
        reject(new CollectiveError('bad-image', `${image.path} cannot be read: ${said.trim() || 'qemu-nbd ended'}`)),
      );
    });
    ended.catch(() => undefined);
    try {
      const holder = await Promise.race([firstClient(socketPath), ended]);
      return new ImageServer({ kind: 'nbd', socketPath, diskBytes: image.diskBytes }, { child, holder, folder });
    } catch (error) {
      child.kill('SIGKILL');
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  async close(): Promise<void> {
    const child = this.#child;
    this.#holder?.close();
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGTERM');
      await exited;
    }
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }
}

/** Connects as soon as somebody listens on the socket; qemu-nbd has no other sign. Errors: `local-io` after 20 s. */
async function firstClient(socketPath: string): Promise<NbdReader> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    try {
      return await NbdReader.open(socketPath);
    } catch (cause) {
      if (performance.now() > deadline)
        throw new CollectiveError('local-io', 'qemu-nbd did not start within 20 s.', { cause });
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
