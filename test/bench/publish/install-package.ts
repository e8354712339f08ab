/**
 * Installs one small Debian package inside the appliance, as its administrator would: the guest boots from a writable copy
 * of the system disk, dpkg runs in it, and it shuts down cleanly. The package comes on a disk of its own, because the
 * guest has no network here.
 */
import { chmod, copyFile, mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Child, runOrThrow } from '../../support/child.js';

const BOOT_TIMEOUT_MS = 300_000;
const COMMAND_TIMEOUT_MS = 120_000;
const ROOT_PASSWORD = 'collective'; // of the recipe (images/debian-server/appliance.json, notes)

/** Changes `system` (a raw file) in place. `user` is only read. */
export const installPackage = async (options: {
  readonly system: string;
  readonly user: string;
  readonly packageName: string;
}): Promise<{ readonly debBytes: number }> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'install-'));
  try {
    const deb = await downloadPackage(folder, options.packageName);
    const payload = path.join(folder, 'payload');
    await mkdir(payload);
    await copyFile(deb.path, path.join(payload, 'package.deb'));
    const packageDisk = path.join(folder, 'package.img');
    await writeFile(packageDisk, '');
    await truncate(packageDisk, 16 << 20);
    await runOrThrow('mke2fs', ['-q', '-t', 'ext4', '-d', payload, packageDisk]);
    const user = path.join(folder, 'user.qcow2');
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', path.resolve(options.user), user]);
    const ephemeral = path.join(folder, 'ephemeral.raw');
    await writeFile(ephemeral, '');
    await truncate(ephemeral, 2 << 30);
    await inGuest([
      ['system', 'raw', options.system],
      ['user', 'qcow2', user],
      ['ephemeral', 'raw', ephemeral],
      ['package', 'raw', packageDisk],
    ]);
    return { debBytes: deb.bytes };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const downloadPackage = async (
  folder: string,
  name: string,
): Promise<{ readonly path: string; readonly bytes: number }> => {
  const downloads = path.join(folder, 'downloads');
  await mkdir(downloads);
  await chmod(folder, 0o755);
  await runOrThrow('apt-get', ['download', '-q', name], { cwd: downloads });
  const file = (await readdir(downloads)).find((found) => found.endsWith('.deb'));
  if (file === undefined) throw new Error(`apt-get download ${name} brought nothing`);
  const found = path.join(downloads, file);
  return { path: found, bytes: (await stat(found)).size };
};

const inGuest = async (disks: readonly (readonly [string, 'raw' | 'qcow2', string])[]): Promise<void> => {
  const drives = disks.flatMap(([name, format, file]) => [
    '-drive',
    `if=none,id=${name},format=${format},file=${file},cache=unsafe`,
    '-device',
    `virtio-blk-pci,drive=${name},serial=${name}`,
  ]);
  await using qemu = new Child('qemu', 'qemu-system-x86_64', [
    ...[
      '-nodefaults',
      '-no-user-config',
      '-machine',
      'q35',
      '-accel',
      'tcg,thread=single',
      '-cpu',
      'max',
      '-smp',
      '2',
      '-m',
      '1024',
    ],
    ...['-display', 'none', '-serial', 'stdio', '-no-reboot', ...drives],
  ]);
  const type = (text: string): void => void qemu.process.stdin?.write(`${text}\n`);
  await qemu.waitFor(/login: $/, BOOT_TIMEOUT_MS);
  type('root');
  await qemu.waitFor(/Password: $/, COMMAND_TIMEOUT_MS);
  type(ROOT_PASSWORD);
  await qemu.waitFor(/# (?:\u001b\[[0-9;?]*[a-z])*$/i, COMMAND_TIMEOUT_MS);
  type(
    'mount -o ro /dev/disk/by-id/virtio-package /mnt && dpkg -i /mnt/package.deb && umount /mnt && echo installed-$((40 + 2))',
  );
  await qemu.waitFor(/installed-42/, COMMAND_TIMEOUT_MS);
  type('systemctl poweroff');
  const timer = setTimeout(() => qemu.kill(), COMMAND_TIMEOUT_MS);
  const { code } = await qemu.exit();
  clearTimeout(timer);
  if (code !== 0) throw new Error(`the guest did not shut down cleanly (${String(code)})\n${qemu.stdout.slice(-1000)}`);
};
