/**
 * What a person would use instead, on the same raw file: a local disk with a qcow2 overlay, nbdkit's curl plugin with its cow
 * and cache filters, and QEMU's own http driver, the last two through the emulated link.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Child, runOrThrow } from '../../support/child.js';
import { freePort, Link, type LinkProfile } from '../../support/link.js';
import { bootToLogin, type BootImages } from './qemu-boot.js';

export type BootFigures = { readonly seconds: number; readonly downBytes: number };

export const RANGE_SERVER = new URL('./range-server.js', import.meta.url).pathname;

export const withFolder = async <T>(work: (folder: string) => Promise<T>): Promise<T> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-bench-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

/** qcow2 overlay in `folder` over `backing` (a file name or a json: description). */
export const overlayOver = async (
  folder: string,
  backing: string,
  backingFormat: string,
  diskBytes = 2 ** 31,
): Promise<Readonly<Record<string, unknown>>> => {
  const file = path.join(folder, 'overlay.qcow2');
  // -u: the backing image is not opened here, or QEMU's http driver would fetch before the clock runs.
  await runOrThrow('qemu-img', [
    'create',
    '-q',
    '-u',
    '-f',
    'qcow2',
    '-F',
    backingFormat,
    '-b',
    backing,
    file,
    String(diskBytes),
  ]);
  return { driver: 'qcow2', file: { driver: 'file', filename: file } };
};

export const bootLocal = async (images: BootImages): Promise<BootFigures> =>
  await withFolder(async (folder) => ({
    seconds: await bootToLogin(images, { system: await overlayOver(folder, images.system, 'raw') }),
    downBytes: 0,
  }));

/** The system disk's raw file on a web server behind a link of its own; `folder` goes afterwards. */
export const throughLink = async <T>(
  images: BootImages,
  profile: LinkProfile,
  work: (url: string, folder: string) => Promise<T>,
): Promise<{ readonly result: T; readonly downBytes: number }> =>
  await withFolder(async (folder) => {
    const port = await freePort();
    await using server = new Child('range server', process.execPath, [RANGE_SERVER, images.system, String(port)]);
    await server.waitFor(/serving/);
    const link = await Link.open({ toPort: port, profile });
    try {
      const result = await work(`http://127.0.0.1:${link.port}/system.raw`, folder);
      return { result, downBytes: (await link.close()).downBytes };
    } finally {
      await link[Symbol.asyncDispose]();
    }
  });

/** nbdkit's arguments for a disk from the web, kept where it was fetched once and written to. */
export const curlPluginWords = (url: string): string[] => [
  ...['--filter=cow', '--filter=cache', 'curl', `url=${url}`],
  ...['cache-on-read=true', 'cache-min-block-size=64K'],
];

/** nbdkit with these words on a unix socket in `folder`, until the work is done. */
export const withNbdkit = async <T>(
  folder: string,
  words: readonly string[],
  work: (node: Readonly<Record<string, unknown>>) => Promise<T>,
): Promise<T> => {
  const socket = path.join(folder, 'nbd.sock');
  await using nbdkit = new Child('nbdkit', 'nbdkit', ['--foreground', '--unix', socket, ...words]);
  await runOrThrow('bash', ['-c', `for i in $(seq 100); do [ -S "$0" ] && exit 0; sleep 0.05; done; exit 1`, socket]);
  const result = await work({ driver: 'nbd', server: { type: 'unix', path: socket } });
  await nbdkit.stop();
  return result;
};

export const bootNbdkit = async (images: BootImages, profile: LinkProfile): Promise<BootFigures> => {
  const { result: seconds, downBytes } = await throughLink(images, profile, async (url, folder) =>
    withNbdkit(folder, curlPluginWords(url), (node) => bootToLogin(images, { system: node })),
  );
  return { seconds, downBytes };
};

export const bootQemuHttp = async (images: BootImages, profile: LinkProfile): Promise<BootFigures> => {
  const { result: seconds, downBytes } = await throughLink(images, profile, async (url, folder) =>
    bootToLogin(images, {
      system: await overlayOver(
        folder,
        `json:${JSON.stringify({ driver: 'raw', file: { driver: 'http', url } })}`,
        'raw',
      ),
    }),
  );
  return { seconds, downBytes };
};
