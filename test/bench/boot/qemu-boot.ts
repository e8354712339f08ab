/**
 * Boots the benchmark's appliance in a QEMU of the same shape as ours (machine, processor, devices), with the system
 * disk on any block device of QEMU's: the competitors' half of the boot benchmark.
 */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Child, runOrThrow } from '../../support/child.js';

export type BootImages = { readonly system: string; readonly user: string; readonly ephemeralBytes: number; readonly memoryBytes: number; readonly cpus: number };

const BOOT_TIMEOUT_MS = 900_000;
export const LOGIN_PROMPT = /login:/;

/** Processor model of the guests, the same in all variants and in ours. */
export const BENCH_CPU = 'max';

/** Seconds from the start of QEMU to the login prompt on the serial console. `system` is a -blockdev object without its node name. */
export const bootToLogin = async (images: BootImages, system: Readonly<Record<string, unknown>>): Promise<number> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-bench-'));
  try {
    const user = path.join(folder, 'user.qcow2');
    const ephemeral = path.join(folder, 'ephemeral.raw');
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', images.user, user]);
    await writeFile(ephemeral, '');
    await truncate(ephemeral, images.ephemeralBytes);
    const disk = (name: string, blockdev: Readonly<Record<string, unknown>>): string[] => [
      ...['-blockdev', JSON.stringify({ 'node-name': name, ...blockdev })],
      ...['-device', `virtio-blk-pci,drive=${name},serial=${name},rerror=stop,werror=stop`],
    ];
    const startedAt = performance.now();
    await using qemu = new Child('qemu', 'qemu-system-x86_64', [
      ...['-nodefaults', '-no-user-config', '-machine', 'pc-q35-7.2', '-accel', 'tcg,thread=multi', '-cpu', BENCH_CPU],
      ...['-smp', String(images.cpus), '-m', `${images.memoryBytes >> 20}M`, '-action', 'reboot=shutdown'],
      ...['-vga', 'std', '-display', 'none', '-serial', 'stdio', '-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
      ...['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-pci,netdev=net'],
      ...disk('system', system),
      ...disk('user', { driver: 'qcow2', file: { driver: 'file', filename: user } }),
      ...disk('ephemeral', { driver: 'raw', file: { driver: 'file', filename: ephemeral } }),
    ]);
    await qemu.waitFor(LOGIN_PROMPT, BOOT_TIMEOUT_MS);
    const seconds = (performance.now() - startedAt) / 1000;
    await qemu.stop('SIGKILL');
    return seconds;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
