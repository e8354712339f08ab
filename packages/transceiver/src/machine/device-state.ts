/**
 * The state of a machine's devices and processors, without its memory: QEMU's own migration stream with x-ignore-shared (0.3–6 MB).
 * It travels over unix sockets in the machine's folder: QEMU may start no program and is handed no file.
 */
import { createHash } from 'node:crypto';
import { rm, type FileHandle } from 'node:fs/promises';
import net from 'node:net';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError, type Digest } from '@collective/shared';
import type { ImageCipher } from './image-cipher.js';
import { letQemuConnect } from './launcher.js';
import type { BlockCipher } from '../storage/block-cipher.js';
import type { QemuUser } from './qemu-user.js';
import type { SessionPaths } from './machine-session.js';
import { field, type QmpClient } from './qmp-client.js';
import { connectUnix } from './unix-socket.js';

/** A display's memory is in it, 16 MiB a display; QEMU is hostile. */
const STATE_BYTES_MAX = 256 << 20;
const PIECE_BYTES = 1 << 20;
const LOOK_INTERVAL_MS = 5;
const TIMEOUT_MS = 60_000;

export type DeviceState = { readonly byteLength: number; readonly digest: Digest };

type Talk = { readonly qmp: Pick<QmpClient, 'execute'>; readonly paths: SessionPaths; readonly signal: AbortSignal };

/** From a QEMU that is stopped to the file, encrypted with `cipher`; the digest is of what lies in the file. QEMU can go on afterwards. Errors: `local-io`, `disk-full`, the signal's reason. */
export async function saveDeviceState(
  { qmp, paths, signal }: Talk,
  options: { readonly user: QemuUser | undefined; readonly file: FileHandle; readonly cipher: ImageCipher | undefined },
): Promise<DeviceState> {
  await rm(paths.stateOut, { force: true });
  const server = net.createServer();
  server.listen(paths.stateOut);
  await once(server, 'listening');
  try {
    await letQemuConnect(paths.stateOut, options.user);
    await ignoreMemory(qmp);
    const connected: Promise<net.Socket[]> = once(server, 'connection', { signal });
    connected.catch(() => undefined);
    await qmp.execute('migrate', { uri: `unix:${paths.stateOut}` });
    const received = connected.then(async ([socket]) => {
      if (socket === undefined) throw new CollectiveError('local-io', 'QEMU did not connect');
      try {
        return await receive(socket, options.file, options.cipher?.stream());
      } finally {
        socket.destroy();
      }
    });
    let unreceived: unknown;
    received.catch((error: unknown) => (unreceived = error));
    await untilDone(qmp, signal).catch((error: unknown) => {
      // QEMU knows only that nobody reads any more, not that the disk is full.
      throw unreceived ?? error;
    });
    return await received;
  } finally {
    server.close();
    await rm(paths.stateOut, { force: true });
  }
}

/** From the file to a QEMU that was started for it. It is stopped afterwards. Errors: `local-io`, the signal's reason. */
export async function loadDeviceState({ qmp, paths, signal }: Talk, state: Buffer): Promise<void> {
  await ignoreMemory(qmp);
  await qmp.execute('migrate-incoming', { uri: `unix:${paths.stateIn}` });
  const socket = await connectUnix(paths.stateIn, { waitMs: 5_000, signal });
  socket.on('error', () => undefined); // QEMU says what was wrong, or ends
  socket.end(state);
  try {
    await untilDone(qmp, signal);
  } finally {
    socket.destroy();
  }
}

const ignoreMemory = async (qmp: Talk['qmp']): Promise<void> =>
  void (await qmp.execute('migrate-set-capabilities', {
    capabilities: [{ capability: 'x-ignore-shared', state: true }],
  }));

async function receive(socket: net.Socket, file: FileHandle, cipher: BlockCipher | undefined): Promise<DeviceState> {
  const hash = createHash('sha256');
  let byteLength = 0;
  for await (const data of socket as AsyncIterable<Buffer>) {
    cipher?.update(data, data);
    if (byteLength + data.length > STATE_BYTES_MAX)
      throw new CollectiveError('too-large', `The devices' state has more than ${STATE_BYTES_MAX} bytes`);
    for (let at = 0; at < data.length; at += PIECE_BYTES) {
      const piece = data.subarray(at, at + PIECE_BYTES);
      for (let done = 0; done < piece.length;)
        done += (await file.write(piece, done, piece.length - done, byteLength + at + done)).bytesWritten;
    }
    hash.update(data);
    byteLength += data.length;
  }
  return { byteLength, digest: hash.digest('hex') as Digest };
}

async function untilDone(qmp: Talk['qmp'], signal: AbortSignal): Promise<void> {
  const giveUpAt = performance.now() + TIMEOUT_MS;
  for (;;) {
    signal.throwIfAborted();
    const answer = await qmp.execute('query-migrate');
    const status = field(answer, 'status');
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled')
      throw new CollectiveError(
        'local-io',
        `QEMU: the state could not be moved: ${String(field(answer, 'error-desc') ?? status)}`,
      );
    if (performance.now() > giveUpAt)
      throw new CollectiveError(
        'local-io',
        `QEMU: the state was not moved within ${TIMEOUT_MS} ms (${String(status)})`,
      );
    await delay(LOOK_INTERVAL_MS, undefined, { signal });
  }
}

/** After a supervisor died while QEMU gave its state away: ends that, so that QEMU can go on. */
export async function endUnfinishedMove(qmp: Talk['qmp']): Promise<void> {
  const giveUpAt = performance.now() + TIMEOUT_MS;
  while (performance.now() < giveUpAt) {
    const status = field(await qmp.execute('query-migrate'), 'status');
    if (status === undefined || ['none', 'completed', 'failed', 'cancelled'].includes(String(status))) return;
    await qmp.execute('migrate_cancel');
    await delay(LOOK_INTERVAL_MS);
  }
}
