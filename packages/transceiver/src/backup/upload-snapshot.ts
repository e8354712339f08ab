/**
 * Sends the object of a packed snapshot: opens the upload or goes on with it, part by part from where the server is. An
 * upload that may hold parts of another object (nonces are random: packing again makes other bytes) is abandoned first.
 * It does not retry: who calls it does, and every call goes on where the last one ended.
 */
import { open } from 'node:fs/promises';
import { CollectiveError, hasCode, type SnapshotUploadState } from '@collective/shared';
import { signalOf, type BackupClient } from './backup-person.js';
import { localFailure } from './local-failure.js';
import type { SnapshotName } from './snapshot-trust.js';
import type { LineMeter, UploadGate } from './upload-gate.js';

export type UploadOptions = {
  readonly client: Pick<BackupClient, 'call'>;
  readonly subscription: string;
  readonly snapshot: { readonly number: number; readonly parent: SnapshotName | null; readonly lease: number };
  /** The object's file and length; 0: the snapshot adds nothing. */
  readonly path: string;
  readonly objectBytes: number;
  /** The upload that holds parts of this very object. */
  readonly known: string | null;
  /** Durable before the first part is sent. */
  readonly remember: (upload: string) => Promise<void>;
  readonly gate: UploadGate;
  readonly line: LineMeter;
  readonly nowMs: () => number;
  readonly signal: AbortSignal;
  readonly onPart?: ((sentBytes: number) => void | Promise<void>) | undefined;
};

/**
 * The upload, when the server has all of the object. Errors: `conflict` (data: the head), `lease-lost`, `lease-held`,
 * `not-found`, `disk-full` (the server's), those of the network; `local-io`.
 */
export async function uploadObject(options: UploadOptions): Promise<string> {
  const { objectBytes, signal } = options;
  const { upload, receivedBytes } = await ownUpload(options);
  if (objectBytes === 0) return upload;
  const file = await open(options.path, 'r').catch((error: unknown) => {
    throw localFailure(error, options.path);
  });
  try {
    if ((await file.stat()).size !== objectBytes)
      throw cutOff(`${options.path} does not have the ${String(objectBytes)} bytes that it should.`);
    for (let at = receivedBytes; at < objectBytes;) {
      await options.gate.pass(signal);
      const { gate, line } = options;
      const partBytes = gate.isOpen ? line.partBytes : line.smallPartBytes;
      const part = Buffer.allocUnsafe(Math.min(partBytes, objectBytes - at));
      const { bytesRead } = await file.read(part, 0, part.length, at);
      if (bytesRead !== part.length) throw cutOff(`${options.path} ends at byte ${String(at)}.`);
      at = await sendPart(upload, { part, at }, options);
      if (at > objectBytes) throw new CollectiveError('wrong-offset', 'The upload has more than the object.');
      await options.onPart?.(at);
    }
  } finally {
    await file.close();
  }
  return upload;
}

/** Where the next part begins. */
async function sendPart(
  upload: string,
  { part, at }: { readonly part: Buffer; readonly at: number },
  { client, subscription, line, nowMs, signal }: UploadOptions,
): Promise<number> {
  const startedAtMs = nowMs();
  try {
    const { receivedBytes } = await client.call('uploadSnapshotPart', {
      params: { subscription, upload },
      query: { offset: at },
      body: part,
      ...signalOf(signal),
    });
    line.sent(part.length, nowMs() - startedAtMs);
    return receivedBytes;
  } catch (error) {
    // An answer got lost: the server has more, or after its power cut less, than was thought.
    const receivedBytes = hasCode(error, 'wrong-offset') ? error.data['receivedBytes'] : undefined;
    if (typeof receivedBytes !== 'number') throw error;
    return receivedBytes;
  }
}

async function ownUpload(options: UploadOptions): Promise<SnapshotUploadState> {
  const { client, subscription, snapshot, known, objectBytes, signal } = options;
  const ask = async (): Promise<SnapshotUploadState> =>
    client.call('openSnapshotUpload', { params: { subscription }, body: snapshot, ...signalOf(signal) });
  let state = await ask();
  const isOther = state.upload !== known && state.receivedBytes > 0;
  if (isOther || state.receivedBytes > objectBytes) {
    const params = { subscription, upload: state.upload };
    await client.call('abandonSnapshotUpload', { params, ...signalOf(signal) });
    state = await ask();
  }
  if (state.upload !== known) await options.remember(state.upload);
  return state;
}

const cutOff = (message: string): CollectiveError =>
  new CollectiveError('local-io', message, { data: { local: true } });
