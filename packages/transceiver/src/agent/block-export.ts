/**
 * One exported disk: blockd serves it on a socket until the signal aborts, and again when blockd was restarted meanwhile.
 * Its map and overlay lie in a folder of its own that goes with it.
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { CollectiveError, hasCode } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import { isErrno } from '../storage/durable-file.js';
import type { Home } from '../home.js';
import type { ExportPlan } from './machine-port.js';
import { published, writeMap } from './machine-spec-plan.js';

/** An NBD client has no machine to be paused: it waits this long for a block. */
const WAIT_MS = 300_000;
const BLOCKD_WAIT_MS = 30_000;
const EXPORT_SESSION = 'export-';

export async function exportDisk(
  plan: ExportPlan,
  options: { readonly home: Home; readonly signal: AbortSignal; readonly onServing: () => void },
): Promise<void> {
  const { home, signal } = options;
  const { name, version } = plan;
  await freeSocket(plan.socketPath);
  const session = `${EXPORT_SESSION}${randomBytes(6).toString('hex')}`;
  const folder = join(home.exportsDirectory, session);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  try {
    const { description } = plan.disk;
    const map = description.root === null ? undefined : await writeMap(join(folder, 'map'), plan.disk);
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      const client = await ControlClient.connect(home.blockdSocket, { waitMs: BLOCKD_WAIT_MS, signal });
      try {
        if (!isFirst) await freeSocket(plan.socketPath);
        await client.request('attach', {
          session,
          disk: description.name,
          source: published({ name, version }, description, map),
          ...(plan.writable
            ? { overlay: { path: join(folder, 'overlay'), mode: 'temporary' as const, fresh: isFirst } }
            : {}),
          waitMs: WAIT_MS,
          listen: { path: plan.socketPath },
        });
        if (isFirst) options.onServing();
        await Promise.race([client.closed, aborted(signal)]);
        if (signal.aborted) await client.request('detach', { session }).catch(() => undefined);
      } catch (error) {
        // It died between two of our steps: the supervisor starts another one.
        if (!hasCode(error, 'shutting-down') || isFirst) throw error;
      } finally {
        client.close();
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
    await rm(plan.socketPath, { force: true });
  }
}

/** Removes a socket that nobody serves. Errors: `exists` for anything else that is there. */
async function freeSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > 107)
    throw new CollectiveError('usage', `${path} is too long for a unix socket (107 bytes).`);
  const found = await lstat(path).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw new CollectiveError(
      'local-io',
      `${path} cannot be used: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  });
  if (found === undefined) return;
  const isServed = found.isSocket() && (await answers(path));
  if (!found.isSocket() || isServed)
    throw new CollectiveError(
      'exists',
      `${path} exists${isServed ? ' and is served by another program' : ' and is no socket'}.`,
    );
  await rm(path);
}

const answers = async (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });

const aborted = async (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
