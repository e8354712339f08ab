/**
 * Starts QEMU in its first form of confinement: a fresh folder of its own, an unprivileged user, no capabilities, no way to
 * gain any, and limits that an escaped guest cannot raise. (Namespaces are another part.)
 *
 * The chain is `prlimit … setpriv … qemu …`: both programs exec(2) the next one, so the process id is QEMU's. It gets its own
 * session and writes to files, so it outlives the supervisor.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { chmod, chown, copyFile, mkdir, open, rm } from 'node:fs/promises';
import { promisify } from 'node:util';
import { CollectiveError, type MachineDescription } from '@collective/shared';
import { type MachineSession, sessionPaths, type SessionPaths } from './machine-session.js';
import { takeShortTurns } from '../work/short-turns.js';
import { findProgram, findUefiFirmware } from './programs.js';
import { qemuArguments } from './qemu-arguments.js';
import type { QemuUser } from './qemu-user.js';

/** One place for what QEMU may take; what grows when they are raised is said beside them. */
export const QEMU_LIMITS = {
  /** Largest file that it can write: its stderr and its UEFI variables. SIGXFSZ ends a QEMU that a guest made talk without end. */
  fileBytesMax: 64 << 20,
  /** Sockets, event channels, clients of the display. */
  openFilesMax: 512,
  /** Threads beside one for each virtual processor (its thread pool has at most 64). Only where the user is QEMU's alone. */
  threadsMax: 128,
  /** Address space beside the guest's memory: QEMU's code, TCG's translations (at most 1 GiB), display, thread stacks. */
  addressBytesMax: 6 * 2 ** 30,
} as const;

export type LaunchOptions = {
  readonly description: MachineDescription;
  readonly session: Omit<MachineSession, 'uefiCode'>;
  /** Undefined: as the caller, who is not root. */
  readonly user: QemuUser | undefined;
};

/**
 * Makes the folder's `q/` anew and starts QEMU, stopped (`-S`), with its sockets about to appear. Resolves when the process
 * exists. `d/` must be there already (`makeMachineFolder`). Errors: `missing-program`, `bad-machine`, `local-io`.
 */
export async function launchQemu({ description, session, user }: LaunchOptions): Promise<ChildProcess> {
  if (user === undefined && process.getuid?.() === 0)
    throw new CollectiveError('not-allowed', 'QEMU never runs as root');
  const qemu = await findProgram('qemu-system-x86_64');
  const wrapper = await confinement(description, user);
  const paths = sessionPaths(session.folder);
  await makeOwnFolder(paths, user);
  let uefiCode: string | undefined;
  if (description.firmware === 'uefi') {
    const firmware = await findUefiFirmware();
    await copyFile(firmware.vars, paths.vars, constants.COPYFILE_EXCL);
    await chmod(paths.vars, 0o600);
    await give(paths.vars, user);
    uefiCode = firmware.code;
  }
  const words = qemuArguments(description, { ...session, ...(uefiCode === undefined ? {} : { uefiCode }) });
  const stderr = await open(paths.stderr, 'ax', 0o600);
  try {
    const [program = qemu, ...rest] = [...wrapper, qemu, ...words];
    // An environment of our own: nothing that the person has set (libraries to load, sound servers) reaches QEMU.
    const child = spawn(program, rest, {
      cwd: '/',
      env: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8' },
      stdio: ['ignore', stderr.fd, stderr.fd],
      detached: true,
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (cause) =>
        reject(new CollectiveError('local-io', `${program} could not be started`, { cause })),
      );
    });
    takeShortTurns(child.pid); // what a guest waits for is done by its threads, too
    return child;
  } finally {
    await stderr.close();
  }
}

/** For a QEMU that has made its memory and whose guest has not run yet: from now on no file of it grows beyond the limit. */
export async function limitFiles(pid: number, user: QemuUser | undefined): Promise<void> {
  const bytes = QEMU_LIMITS.fileBytesMax;
  // As QEMU's user: root in a container may not change another user's limits.
  const as = user === undefined ? [] : [await findProgram('setpriv'), ...asUser(user)];
  const [program = '', ...words] = [...as, await findProgram('prlimit'), `--pid=${pid}`, `--fsize=${bytes}:${bytes}`];
  await promisify(execFile)(program, words, { cwd: '/', timeout: 30_000 });
}

const asUser = (user: QemuUser): string[] => [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'];

async function confinement(description: MachineDescription, user: QemuUser | undefined): Promise<string[]> {
  const { fileBytesMax, openFilesMax, threadsMax, addressBytesMax } = QEMU_LIMITS;
  const limit = (name: string, value: number): string => `--${name}=${value}:${value}`;
  return [
    await findProgram('prlimit'),
    limit('core', 0), // a dump would hold the guest's memory
    // Its memory is a file, too; afterwards the limit is lowered (`limitFiles`).
    limit('fsize', Math.max(fileBytesMax, description.memoryBytes)),
    limit('nofile', openFilesMax),
    limit('as', description.memoryBytes + addressBytesMax),
    // The limit counts a user's threads in all programs, so a person's own user cannot have it.
    ...(user === undefined ? [] : [limit('nproc', threadsMax + description.cpus)]),
    await findProgram('setpriv'),
    '--no-new-privs', // no setuid program helps it
    ...(user === undefined ? [] : [...asUser(user), '--inh-caps=-all', '--bounding-set=-all']),
  ];
}

/** The machine's folder with `d/`, made anew: nothing of an earlier run is left in it. The parent must be passable for `user`. */
export async function makeMachineFolder(folder: string, user: QemuUser | undefined): Promise<SessionPaths> {
  const paths = sessionPaths(folder);
  await rm(folder, { recursive: true, force: true });
  for (const made of [paths.folder, paths.disksFolder]) {
    await mkdir(made, { mode: 0o700 });
    if (user !== undefined) await openToGroup(made, user);
  }
  return paths;
}

/** Root keeps the folder (QEMU can put nothing in the place of a disk's socket); QEMU's group may pass. */
async function openToGroup(folder: string, user: QemuUser): Promise<void> {
  await chown(folder, 0, user.gid);
  await chmod(folder, 0o710);
}

/** Lets QEMU connect to a socket of ours: on Linux that takes write permission. */
export async function letQemuConnect(socketPath: string, user: QemuUser | undefined): Promise<void> {
  await chmod(socketPath, user === undefined ? 0o600 : 0o660);
  if (user !== undefined) await chown(socketPath, 0, user.gid);
}

/** QEMU's own folder is hostile ground after a run: it is removed whole and made again, never written into. */
async function makeOwnFolder(paths: SessionPaths, user: QemuUser | undefined): Promise<void> {
  await rm(paths.own, { recursive: true, force: true });
  await mkdir(paths.own, { mode: 0o700 });
  await give(paths.own, user);
}

async function give(path: string, user: QemuUser | undefined): Promise<void> {
  if (user !== undefined) await chown(path, user.uid, user.gid);
}
