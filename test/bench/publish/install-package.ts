/**
 * Installs Debian packages inside the appliance, as its administrator would: the guest boots from a writable copy of the
 * system disk, dpkg runs in it, and it shuts down cleanly. The packages come on a disk of their own, because the guest has
 * no network here.
 */
import { chmod, copyFile, mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Child, runOrThrow } from '../../support/child.js';

const BOOT_TIMEOUT_MS = 300_000;
const COMMAND_TIMEOUT_MS = 120_000;
/** A kernel has thousands of files. */
const INSTALL_TIMEOUT_MS = 1_200_000;
const ROOT_PASSWORD = 'collective'; // of the recipe (images/debian-server/appliance.json, notes)

/** Changes `system` (a raw file) in place. `user` is only read. `andThen`: a shell command that follows in the guest. */
export const installPackages = async (options: {
  readonly system: string;
  readonly user: string;
  readonly packageNames: readonly string[];
  readonly andThen?: string;
}): Promise<{ readonly debBytes: number }> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'install-'));
  try {
    const debs = await downloadPackages(folder, options.packageNames);
    const payload = path.join(folder, 'payload');
    await mkdir(payload);
    for (const [at, deb] of debs.paths.entries()) await copyFile(deb, path.join(payload, `${at}.deb`));
    const packageDisk = path.join(folder, 'package.img');
    await writeFile(packageDisk, '');
    await truncate(packageDisk, (Math.ceil(debs.bytes / 2 ** 20) + 16) * 2 ** 20);
    await runOrThrow('mke2fs', ['-q', '-t', 'ext4', '-d', payload, packageDisk]);
    const user = path.join(folder, 'user.qcow2');
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', path.resolve(options.user), user]);
    const ephemeral = path.join(folder, 'ephemeral.raw');
    await writeFile(ephemeral, '');
    await truncate(ephemeral, 2 << 30);
    const disks = [
      ['system', 'raw', options.system],
      ['user', 'qcow2', user],
      ['ephemeral', 'raw', ephemeral],
      ['package', 'raw', packageDisk],
    ] as const;
    await inGuest(disks, options.andThen ?? 'true');
    return { debBytes: debs.bytes };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const downloadPackages = async (
  folder: string,
  names: readonly string[],
): Promise<{ readonly paths: readonly string[]; readonly bytes: number }> => {
  const downloads = path.join(folder, 'downloads');
  await mkdir(downloads);
  await chmod(folder, 0o755);
  await runOrThrow('apt-get', ['download', '-q', ...names], { cwd: downloads });
  const paths = (await readdir(downloads))
    .filter((found) => found.endsWith('.deb'))
    .map((found) => path.join(downloads, found));
  if (paths.length !== names.length)
    throw new Error(`apt-get download ${names.join(' ')} brought ${paths.length} packages`);
  const sizes = await Promise.all(paths.map(async (deb) => (await stat(deb)).size));
  return { paths, bytes: sizes.reduce((sum, bytes) => sum + bytes, 0) };
};

const inGuest = async (
  disks: readonly (readonly [string, 'raw' | 'qcow2', string])[],
  andThen: string,
): Promise<void> => {
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
    `mount -o ro /dev/disk/by-id/virtio-package /mnt && dpkg -i /mnt/*.deb && umount /mnt && ( ${andThen} ) && echo installed-$((40 + 2))`,
  );
  await qemu.waitFor(/installed-42/, INSTALL_TIMEOUT_MS);
  type('systemctl poweroff');
  const timer = setTimeout(() => qemu.kill(), COMMAND_TIMEOUT_MS);
  const { code } = await qemu.exit();
  clearTimeout(timer);
  if (code !== 0) throw new Error(`the guest did not shut down cleanly (${String(code)})\n${qemu.stdout.slice(-1000)}`);
};
