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
import type { ControlParams } from '../blockd/control/control-protocol.js';
import { isErrno } from '../storage/durable-file.js';
import type { Home } from '../home.js';
import type { ExportPlan, SourcePlan } from './machine-port.js';
import { newDiskKey, published, writeMap } from './machine-spec-plan.js';

/** An NBD client has no machine to be paused: it waits this long for a block. */
const WAIT_MS = 300_000;
const BLOCKD_WAIT_MS = 30_000;
const EXPORT_SESSION = 'export-';

type ExportOptions = { readonly home: Home; readonly signal: AbortSignal; readonly onServing: () => void };
/** What blockd is asked to attach, but for the session and where it listens. */
type Attachment = Omit<ControlParams<'attach'>, 'session' | 'listen' | 'waitMs'>;

/** A disk of a version; `writable`: what is written goes into an overlay that is thrown away. */
export async function exportDisk(plan: ExportPlan, options: ExportOptions): Promise<void> {
  const { name, version, disk, writable } = plan;
  const { description } = disk;
  const key = newDiskKey();
  await serve(plan.socketPath, options, async (folder) => {
    const map = description.root === null ? undefined : await writeMap(join(folder, 'map'), disk);
    const source = published({ name, version }, description, map);
    const overlay = { path: join(folder, 'overlay'), mode: 'temporary', key } as const;
    return (isFirst) => ({
      ...{ disk: description.name, source },
      ...(writable ? { overlay: { ...overlay, fresh: isFirst } } : {}),
    });
  });
}

/** A disk as it is somewhere, read-only. */
export async function exportSource(plan: SourcePlan, options: ExportOptions): Promise<void> {
  const { disk, source, diskKeys, blockKeys } = plan;
  await serve(plan.socketPath, options, () =>
    Promise.resolve(() => ({ disk, source, diskKey: diskKeys[0], blockKeys })),
  );
}

/** `prepare` is given a folder that goes with the export, and gives what is attached, the first time and after each restart of blockd. */
async function serve(
  socketPath: string,
  { home, signal, onServing }: ExportOptions,
  prepare: (folder: string) => Promise<(isFirst: boolean) => Attachment>,
): Promise<void> {
  await freeSocket(socketPath);
  const session = `${EXPORT_SESSION}${randomBytes(6).toString('hex')}`;
  const folder = join(home.exportsDirectory, session);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  try {
    const attachment = await prepare(folder);
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      const client = await ControlClient.connect(home.blockdSocket, { waitMs: BLOCKD_WAIT_MS, signal });
      try {
        if (!isFirst) await freeSocket(socketPath);
        const listen = { path: socketPath };
        await client.request('attach', { session, ...attachment(isFirst), waitMs: WAIT_MS, listen });
        if (isFirst) onServing();
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
    await rm(socketPath, { force: true });
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
