/** The foreign programs and firmware that a machine needs, where they are, and what to do when they are not there. */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { CollectiveError } from '@collective/shared';

/** Program → Debian package. */
const PACKAGES = {
  'qemu-system-x86_64': 'qemu-system-x86',
  prlimit: 'util-linux',
  setpriv: 'util-linux',
} as const;

/** Pairs of code and empty variables, best first: Debian and Ubuntu, Fedora, Arch. */
const UEFI_FIRMWARE = [
  { code: '/usr/share/OVMF/OVMF_CODE_4M.fd', vars: '/usr/share/OVMF/OVMF_VARS_4M.fd' },
  { code: '/usr/share/OVMF/OVMF_CODE.fd', vars: '/usr/share/OVMF/OVMF_VARS.fd' },
  { code: '/usr/share/edk2/ovmf/OVMF_CODE.fd', vars: '/usr/share/edk2/ovmf/OVMF_VARS.fd' },
  { code: '/usr/share/edk2/x64/OVMF_CODE.4m.fd', vars: '/usr/share/edk2/x64/OVMF_VARS.4m.fd' },
] as const;

export type UefiFirmware = { readonly code: string; readonly vars: string };

/** Absolute path of the program on `searchPath` (default: $PATH and the system's folders). Errors: `missing-program` with the package to install. */
export async function findProgram(
  name: keyof typeof PACKAGES,
  searchPath = process.env['PATH'] ?? '',
): Promise<string> {
  for (const folder of new Set([...searchPath.split(delimiter), '/usr/bin', '/bin', '/usr/sbin'])) {
    if (folder === '' || !(await isThere(join(folder, name), constants.X_OK))) continue;
    return join(folder, name);
  }
  throw missing(name, PACKAGES[name]);
}

/** `7.2.22` of the QEMU that would be started. Errors: `missing-program`, `local-io`. */
export async function qemuVersion(): Promise<string> {
  const program = await findProgram('qemu-system-x86_64');
  const { stdout } = await promisify(execFile)(program, ['--version'], { timeout: 30_000 }).catch((cause: unknown) => {
    throw new CollectiveError('local-io', `${program} does not say its version`, { cause });
  });
  const version = /version (\d+\.\d+\.\d+)/.exec(stdout)?.[1];
  if (version === undefined)
    throw new CollectiveError('local-io', `${program} says no version: ${stdout.slice(0, 200)}`);
  return version;
}

/** Errors: `missing-program` with the package to install. */
export async function findUefiFirmware(candidates: readonly UefiFirmware[] = UEFI_FIRMWARE): Promise<UefiFirmware> {
  for (const firmware of candidates) {
    if ((await isThere(firmware.code, constants.R_OK)) && (await isThere(firmware.vars, constants.R_OK)))
      return firmware;
  }
  throw missing('The UEFI firmware', 'ovmf');
}

const isThere = (path: string, mode: number): Promise<boolean> =>
  access(path, mode).then(
    () => true,
    () => false,
  );

const missing = (what: string, debianPackage: string): CollectiveError =>
  new CollectiveError('missing-program', `${what} is not installed. On Debian: sudo apt-get install ${debianPackage}`, {
    data: { what, debianPackage },
  });
