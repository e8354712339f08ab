/**
 * Boots the benchmark's appliance in the same QEMU as ours (the transceiver's own arguments: machine, processor, devices),
 * with the disks on any block device of QEMU's: the competitors' half of the boot benchmark.
 */
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { DiskDescription, MachineDescription } from '@collective/shared';
import { qemuArguments, sessionPaths, type SessionPaths } from '@collective/transceiver';
import { Child, runOrThrow } from '../../support/child.js';
import { SerialConsole } from './serial-console.js';

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

/** A guest that has come to its prompt. The caller ends it. */
export type BootedGuest = {
  readonly qemu: Child;
  readonly console: SerialConsole;
  readonly paths: SessionPaths;
  /** From the start of QEMU to the prompt. */
  readonly seconds: number;
  /** Ends QEMU if it runs still, and removes what it wrote. */
  readonly end: () => Promise<void>;
};

/**
 * Boots to `prompt` on the serial console. Disks that `nodes` does not name are local: the user disk on a fresh overlay, the others empty.
 * `beforeStart` is called before the clock runs.
 */
export const bootGuest = async (
  images: BootImages,
  given: Readonly<Record<string, BlockNode>>,
  options: { readonly prompt?: RegExp; readonly beforeStart?: () => Promise<void> } = {},
): Promise<BootedGuest> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bb-'));
  let qemu: Child | undefined;
  const end = async (): Promise<void> => {
    await qemu?.stop('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const paths = sessionPaths(folder);
    await mkdir(paths.own, { recursive: true });
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
    await options.beforeStart?.();
    const startedAt = performance.now();
    qemu = new Child('qemu', 'qemu-system-x86_64', argumentsWith(own, nodes));
    const console = await SerialConsole.open(paths.serial, qemu);
    await console.waitFor(options.prompt ?? LOGIN_PROMPT, BOOT_TIMEOUT_MS);
    return { qemu, console, paths, seconds: (performance.now() - startedAt) / 1000, end };
  } catch (error) {
    await end();
    throw error;
  }
};

/** Seconds from the start of QEMU to the login prompt on the serial console. Disks as for `bootGuest`. */
export const bootToLogin = async (
  images: BootImages,
  given: Readonly<Record<string, BlockNode>>,
  /** Called with the clock stopped. */
  moments: { readonly beforeStart?: () => Promise<void>; readonly atLogin?: () => Promise<void> } = {},
): Promise<number> => {
  const { beforeStart, atLogin } = moments;
  const { seconds, end } = await bootGuest(images, given, beforeStart === undefined ? {} : { beforeStart });
  try {
    await atLogin?.();
    return seconds;
  } finally {
    await end();
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
