/**
 * The keys of a running session, outside the agent: so that a restarted agent serves with nobody at the keyboard
 * (DESIGN §7). A 0600 file on tmpfs where the machine has one, reached through the link HOME/run/session.json; erased at
 * logout. It is never on the disk where a tmpfs exists.
 */
import { lstat, readlink, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, EPOCH_SECRET_BYTES, type EpochSecret } from '@collective/shared';
import { isErrno, readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';
import type { Home } from '../home.js';

/** What a session holds; seeds are 32 bytes. */
export type SessionKeys = {
  readonly account: string;
  readonly deviceSeed: Buffer;
  readonly personSecret: Buffer;
  /** Seconds since 1970: when the person logged in. */
  readonly since: number;
  /** Secrets of the key epochs that the profile lists, so that a restarted agent has them without it. */
  readonly ring: readonly EpochSecret[];
  /** The person is on this machine only for now (temporary-home.ts); absent: it is theirs. */
  readonly stay?: 'now';
};

export async function saveSession(home: Home, keys: SessionKeys): Promise<void> {
  const text = JSON.stringify({
    format: 1,
    account: keys.account,
    deviceSeed: keys.deviceSeed.toString('base64url'),
    personSecret: keys.personSecret.toString('base64url'),
    since: keys.since,
    ring: keys.ring.map(({ epoch, secret }) => ({ epoch, secret: secret.toString('base64url') })),
    ...(keys.stay === undefined ? {} : { stay: keys.stay }),
  });
  const target = join(home.sessionDirectory, 'session.json');
  await writeDurably(target, text);
  if (target === home.sessionFile) return;
  if ((await readlink(home.sessionFile).catch(() => undefined)) === target) return;
  await removeIfThere(home.sessionFile);
  await symlink(target, home.sessionFile);
}

/** The session that was left by an earlier agent, or undefined. A file that is not ours or not 0600 is refused. */
export async function loadSession(home: Home): Promise<SessionKeys | undefined> {
  const bytes = await readIfThere(home.sessionFile);
  if (bytes === undefined) return undefined;
  const found = await lstat(await sessionPath(home));
  if (found.uid !== process.getuid?.() || (found.mode & 0o077) !== 0) {
    throw new CollectiveError(
      'not-allowed',
      `The session file ${home.sessionFile} can be read by others: log out and in again.`,
    );
  }
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (typeof value !== 'object' || value === null) return undefined;
    const { account, deviceSeed, personSecret, since, ring, stay } = value as Record<string, unknown>;
    if (
      typeof account !== 'string' ||
      typeof deviceSeed !== 'string' ||
      typeof personSecret !== 'string' ||
      typeof since !== 'number'
    )
      return undefined;
    const keys = {
      account,
      deviceSeed: Buffer.from(deviceSeed, 'base64url'),
      personSecret: Buffer.from(personSecret, 'base64url'),
      since,
      ring: readRing(ring),
      ...(stay === 'now' ? { stay: 'now' as const } : {}),
    };
    return keys.deviceSeed.length === 32 && keys.personSecret.length === 32 ? keys : undefined;
  } catch {
    // A torn file is no session: the person logs in again.
    return undefined;
  }
}

/** What the file says of the ring; nothing when an agent of before there were epochs wrote it. */
function readRing(value: unknown): EpochSecret[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null) return [];
    const { epoch, secret } = entry as Record<string, unknown>;
    if (typeof epoch !== 'number' || typeof secret !== 'string') return [];
    const bytes = Buffer.from(secret, 'base64url');
    return bytes.length === EPOCH_SECRET_BYTES ? [{ epoch, secret: bytes }] : [];
  });
}

/** Overwrites and removes the keys. Idempotent. */
export async function eraseSession(home: Home): Promise<void> {
  const path = await sessionPath(home);
  const bytes = await readIfThere(path);
  if (bytes !== undefined) {
    await writeFile(path, Buffer.alloc(bytes.length));
    await unlink(path);
  }
  await removeIfThere(home.sessionFile);
}

async function sessionPath(home: Home): Promise<string> {
  try {
    return await readlink(home.sessionFile);
  } catch (error) {
    if (isErrno(error, 'EINVAL', 'ENOENT')) return home.sessionFile;
    throw error;
  }
}
