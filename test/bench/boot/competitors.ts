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

const withFolder = async <T>(work: (folder: string) => Promise<T>): Promise<T> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-bench-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

/** qcow2 overlay in `folder` over `backing` (a file name or a json: description). */
const overlayOver = async (
  folder: string,
  backing: string,
  backingFormat: string,
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
    String(2 ** 31),
  ]);
  return { driver: 'qcow2', file: { driver: 'file', filename: file } };
};

export const bootLocal = async (images: BootImages): Promise<BootFigures> =>
  await withFolder(async (folder) => ({
    seconds: await bootToLogin(images, { system: await overlayOver(folder, images.system, 'raw') }),
    downBytes: 0,
  }));

const throughLink = async (
  images: BootImages,
  profile: LinkProfile,
  boot: (url: string, folder: string) => Promise<number>,
): Promise<BootFigures> =>
  await withFolder(async (folder) => {
    const port = await freePort();
    await using server = new Child('range server', process.execPath, [RANGE_SERVER, images.system, String(port)]);
    await server.waitFor(/serving/);
    const link = await Link.open({ toPort: port, profile });
    try {
      const seconds = await boot(`http://127.0.0.1:${link.port}/system.raw`, folder);
      return { seconds, downBytes: (await link.close()).downBytes };
    } finally {
      await link[Symbol.asyncDispose]();
    }
  });

/** nbdkit's arguments for a disk from the web, kept where it was fetched once and written to. */
export const curlPluginWords = (url: string): string[] => [
  ...['--filter=cow', '--filter=cache', 'curl', `url=${url}`],
  ...['cache-on-read=true', 'cache-min-block-size=64K'],
];

export const bootNbdkit = async (images: BootImages, profile: LinkProfile): Promise<BootFigures> =>
  await throughLink(images, profile, async (url, folder) => {
    const socket = path.join(folder, 'nbd.sock');
    await using nbdkit = new Child('nbdkit', 'nbdkit', ['--foreground', '--unix', socket, ...curlPluginWords(url)]);
    await runOrThrow('bash', ['-c', `for i in $(seq 100); do [ -S "$0" ] && exit 0; sleep 0.05; done; exit 1`, socket]);
    const seconds = await bootToLogin(images, { system: { driver: 'nbd', server: { type: 'unix', path: socket } } });
    await nbdkit.stop();
    return seconds;
  });

export const bootQemuHttp = async (images: BootImages, profile: LinkProfile): Promise<BootFigures> =>
  await throughLink(images, profile, async (url, folder) =>
    bootToLogin(images, {
      system: await overlayOver(
        folder,
        `json:${JSON.stringify({ driver: 'raw', file: { driver: 'http', url } })}`,
        'raw',
      ),
    }),
  );
