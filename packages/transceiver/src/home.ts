/**
 * The person's home on this machine: where everything lies, in one place.
 *
 * ```
 * HOME                   --home DIR | COLLECTIVE_HOME | ~/.local/share/collective                       0700
 *   device.json          account, repository, device key under the password (docs/formats/keys.md)      0600
 *   seen.json            what this machine has seen of the repository: nothing older is accepted        0600
 *   seen-profile.json    the newest profile that it has seen: nothing older is accepted                0600
 *   device-locked-*.json devices of before a reset: they open what it locked (collective unlock)       0600
 *   hoard.json           versions that are kept whole (agent/hoard-file.ts)                                0600
 *   settings.json        what the person has set for this machine (agent/settings-file.ts)                     0600
 *   only-for-now.json    somebody is here only for now, or is being removed (agent/temporary-home.ts)            0600
 *   agent.lock           held by the one agent of this home (storage/local-lock.ts)                     0600
 *   trust/<n>            trust files as they came, from 1 to the newest that is held
 *   objects/             level: manifests, map pages, heads, profile (each checked again when it is read)
 *   cache/               blockd: the public block cache
 *   machines/            supervisor and blockd: one folder a subscription, with its overlays
 *   uploads/             publishes that were interrupted and can be continued
 *   exports/             maps and throw-away overlays of exports and boot tests; emptied when an agent starts
 *   log/                 agent.log and those of the other processes, bounded
 *   run/                 unix sockets: agent.sock, supervisor.sock, blockd.sock; session.json and disk-keys/ (or links to tmpfs)
 * ```
 *
 * A unix socket's path has at most 107 bytes. When HOME is too deep for that, `runDirectory` is a short symbolic link to
 * HOME/run in the person's runtime directory ($XDG_RUNTIME_DIR, else /dev/shm), named by a hash of HOME.
 */
import { createHash } from 'node:crypto';
import { access, chmod, constants, lstat, mkdir, readdir, readlink, realpath, symlink, unlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { CollectiveError } from '@collective/shared/errors';
import { isErrno } from './storage/durable-file.js';

/** Linux: `sun_path` has 108 bytes with the terminating zero. */
export const SOCKET_PATH_BYTES_MAX = 107;
/** What the longest socket name below run/ may take: `/m-<12 hex>/<name>.sock` of the machines fits well. */
const SOCKET_NAME_BYTES_MAX = 48;

export type Home = {
  readonly directory: string;
  /** HOME/run, or a short link to it: the only way sockets are named. */
  readonly runDirectory: string;
  readonly agentSocket: string;
  readonly supervisorSocket: string;
  readonly blockdSocket: string;
  readonly deviceFile: string;
  readonly seenFile: string;
  readonly seenProfileFile: string;
  readonly settingsFile: string;
  readonly hoardFile: string;
  readonly agentLock: string;
  readonly trustDirectory: string;
  readonly objectsDirectory: string;
  readonly cacheDirectory: string;
  readonly machinesDirectory: string;
  readonly uploadsDirectory: string;
  readonly exportsDirectory: string;
  readonly logDirectory: string;
  readonly agentLog: string;
  /** Always HOME/run/session.json; a link to tmpfs where there is one. */
  readonly sessionFile: string;
  /** Always HOME/run/disk-keys; a link to tmpfs where there is one (supervisor/disk-keys.ts). */
  readonly diskKeysFolder: string;
  /** On tmpfs where there is one, else HOME/run. */
  readonly sessionDirectory: string;
};

/** The home's folder by option, environment or custom, absolute; nothing is created. */
export function homeDirectory(option: string | undefined, environment: NodeJS.ProcessEnv = process.env): string {
  const named = option ?? environment['COLLECTIVE_HOME'];
  if (named === '')
    throw new CollectiveError(
      'usage',
      'The home directory is an empty name: give --home DIR or unset COLLECTIVE_HOME.',
    );
  return resolve(named ?? join(homedir(), '.local', 'share', 'collective'));
}

/** Creates what is missing of the home (0700) and says where everything is. Errors: `local-io`, `not-allowed` (somebody else's folder). */
export async function openHome(directory: string, environment: NodeJS.ProcessEnv = process.env): Promise<Home> {
  await makePrivate(directory);
  const real = await realpath(directory);
  const inHome = (name: string): string => join(real, name);
  for (const name of ['run', 'trust', 'objects', 'cache', 'machines', 'uploads', 'log'])
    await makePrivate(inHome(name));
  const nameOfHome = createHash('sha256').update(real).digest('hex').slice(0, 12);
  const runtime = await runtimeDirectory(environment);
  const runDirectory = await shortRunDirectory(inHome('run'), runtime, nameOfHome);
  const sessionDirectory = runtime === undefined ? inHome('run') : join(runtime, `s-${nameOfHome}`);
  if (runtime !== undefined) await makePrivate(sessionDirectory);
  return {
    directory: real,
    runDirectory,
    agentSocket: join(runDirectory, 'agent.sock'),
    supervisorSocket: join(runDirectory, 'supervisor.sock'),
    blockdSocket: join(runDirectory, 'blockd.sock'),
    deviceFile: inHome('device.json'),
    seenFile: inHome('seen.json'),
    seenProfileFile: inHome('seen-profile.json'),
    settingsFile: inHome('settings.json'),
    hoardFile: inHome('hoard.json'),
    agentLock: inHome('agent.lock'),
    trustDirectory: inHome('trust'),
    objectsDirectory: inHome('objects'),
    cacheDirectory: inHome('cache'),
    machinesDirectory: inHome('machines'),
    uploadsDirectory: inHome('uploads'),
    exportsDirectory: inHome('exports'),
    logDirectory: inHome('log'),
    agentLog: join(inHome('log'), 'agent.log'),
    sessionFile: join(inHome('run'), 'session.json'),
    diskKeysFolder: join(inHome('run'), 'disk-keys'),
    sessionDirectory,
  };
}

/** A folder that is ours and 0700, made when it is missing. */
async function makePrivate(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const found = await lstat(await realpath(directory));
    if (!found.isDirectory()) throw new CollectiveError('local-io', `${directory} is not a folder.`);
    if (found.uid !== process.getuid?.()) {
      throw new CollectiveError(
        'not-allowed',
        `${directory} belongs to user ${String(found.uid)}: choose another folder with --home DIR.`,
      );
    }
    if ((found.mode & 0o077) !== 0) {
      // Never close a folder that is something else, such as /tmp or a person's own: only an empty one, or a home.
      const inside = await readdir(directory);
      if (inside.length > 0 && !inside.includes('agent.lock')) {
        throw new CollectiveError(
          'usage',
          `${directory} holds other things (${inside.slice(0, 3).join(', ')}…): choose an empty folder with --home DIR.`,
        );
      }
      await chmod(directory, 0o700);
    }
  } catch (error) {
    if (error instanceof CollectiveError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new CollectiveError('local-io', `The folder ${directory} cannot be used: ${reason}`, { cause: error });
  }
}

/** A folder on tmpfs that only this user can enter, or undefined when the machine has none. */
async function runtimeDirectory(environment: NodeJS.ProcessEnv): Promise<string | undefined> {
  const uid = process.getuid?.() ?? 0;
  const xdg = environment['XDG_RUNTIME_DIR'];
  const candidates = [...(xdg ? [join(xdg, 'collective')] : []), `/dev/shm/collective-${String(uid)}`];
  for (const candidate of candidates) {
    try {
      await mkdir(candidate, { mode: 0o700 }).catch((error: unknown) => {
        if (!isErrno(error, 'EEXIST')) throw error;
      });
      // Another user may have made the name first: only a real folder of ours that nobody else can enter will do.
      const found = await lstat(candidate);
      if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o077) !== 0) continue;
      await access(candidate, constants.W_OK | constants.X_OK);
      return candidate;
    } catch {
      continue;
    }
  }
  return undefined;
}

async function shortRunDirectory(run: string, runtime: string | undefined, nameOfHome: string): Promise<string> {
  const fits = (directory: string): boolean =>
    Buffer.byteLength(directory) + SOCKET_NAME_BYTES_MAX <= SOCKET_PATH_BYTES_MAX;
  if (fits(run)) return run;
  const link = runtime === undefined ? undefined : join(runtime, `r-${nameOfHome}`);
  if (link === undefined || !fits(link)) {
    throw new CollectiveError(
      'usage',
      `The home's path is too long for unix sockets: ${run} has ${String(Buffer.byteLength(run))} bytes, at most ${String(
        SOCKET_PATH_BYTES_MAX - SOCKET_NAME_BYTES_MAX,
      )} work, and there is no runtime directory for a short link. Choose a shorter --home DIR.`,
    );
  }
  const target = await readlink(link).catch(() => undefined);
  if (target !== run) {
    if (target !== undefined) await unlink(link);
    await symlink(run, link).catch((error: unknown) => {
      if (!isErrno(error, 'EEXIST')) throw error;
    });
  }
  return link;
}
