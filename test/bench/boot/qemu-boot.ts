/**
 * Boots the benchmark's appliance in the same QEMU as ours (the transceiver's own arguments: machine, processor, devices),
 * with the disks on any block device of QEMU's: the competitors' half of the boot benchmark.
 */
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { DiskDescription, MachineDescription } from '@collective/shared';
import { qemuArguments, sessionPaths } from '@collective/transceiver';
import { Child, runOrThrow } from '../../support/child.js';

/** The recipe's output: the machine, its disks, and the raw files of those that have one. */
export type BootImages = {
  readonly machine: MachineDescription;
  readonly disks: readonly Pick<DiskDescription, 'name' | 'bus' | 'diskBytes'>[];
  readonly system: string;
  readonly user: string;
};

/** A -blockdev object without its node name. */
export type BlockNode = Readonly<Record<string, unknown>>;

const BOOT_TIMEOUT_MS = 900_000;
export const LOGIN_PROMPT = /login:/;

/** The arguments of ours, with other block nodes in the place of the NBD clients, and running at once. */
const argumentsWith = (own: readonly string[], nodes: ReadonlyMap<string, BlockNode>): string[] =>
  own
    .filter((word) => word !== '-S')
    .map((word, at, words) => {
      if (words[at - 1] !== '-blockdev') return word;
      const name = (JSON.parse(word) as { 'node-name'?: string })['node-name'] ?? '';
      const node = nodes.get(name);
      return node === undefined ? word : JSON.stringify({ 'node-name': name, ...node });
    });

/** Reads the serial console from its socket until the pattern is there. */
const serialShows = async (socketPath: string, pattern: RegExp, qemu: Child): Promise<void> => {
  const deadline = performance.now() + BOOT_TIMEOUT_MS;
  let text = '';
  while (performance.now() < deadline && qemu.running) {
    const found = await new Promise<boolean>((resolve) => {
      const socket = net.connect(socketPath);
      socket.setEncoding('utf8');
      socket.on('data', (more: string) => {
        text = (text + more).slice(-4096);
        if (!pattern.test(text)) return;
        socket.destroy();
        resolve(true);
      });
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(false));
    });
    if (found) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`no ${String(pattern)} on the serial console\n${text.slice(-500)}\n${qemu.stderr.slice(-500)}`);
};

/**
 * Seconds from the start of QEMU to the login prompt on the serial console. Disks that `nodes` does not name are local: the user
 * disk on a fresh overlay, the others empty.
 */
export const bootToLogin = async (
  images: BootImages,
  given: Readonly<Record<string, BlockNode>>,
  /** Called with the clock stopped. */
  moments: { readonly beforeStart?: () => Promise<void>; readonly atLogin?: () => Promise<void> } = {},
): Promise<number> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bb-'));
  try {
    await mkdir(sessionPaths(folder).own, { recursive: true });
    const nodes = new Map<string, BlockNode>();
    for (const disk of images.disks)
      nodes.set(`disk-${disk.name}`, given[disk.name] ?? (await localNode(images, disk, folder)));
    const own = qemuArguments(images.machine, {
      machine: 'be9c',
      folder,
      disks: images.disks,
      uuid: '00000000-0000-4000-8000-000000000001',
      macAddress: '52:54:00:00:00:01',
      generationId: '00000000-0000-4000-8000-000000000002',
      accelerator: 'tcg',
      restrictNetwork: true,
    });
    await moments.beforeStart?.();
    const startedAt = performance.now();
    await using qemu = new Child('qemu', 'qemu-system-x86_64', argumentsWith(own, nodes));
    await serialShows(sessionPaths(folder).serial, LOGIN_PROMPT, qemu);
    const seconds = (performance.now() - startedAt) / 1000;
    await moments.atLogin?.();
    await qemu.stop('SIGKILL');
    return seconds;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const localNode = async (
  images: BootImages,
  disk: { readonly name: string; readonly diskBytes: number },
  folder: string,
): Promise<BlockNode> => {
  const file = path.join(folder, disk.name);
  if (disk.name === 'user') {
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', images.user, file]);
    return { driver: 'qcow2', file: { driver: 'file', filename: file } };
  }
  await writeFile(file, '');
  await truncate(file, disk.diskBytes);
  return { driver: 'raw', file: { driver: 'file', filename: file } };
};
