/**
 * The system disk of a maintained machine that is at rest, for reading: blockd serves it over its kept overlay, and says
 * which blocks the overlay touches. Nobody writes to it; what lies in the overlay is not changed.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, type Digest } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import type { ByteSource } from '../publish/image-bytes.js';
import type { PlannedDisk } from './machine-port.js';
import { published, writeMap } from './machine-spec-plan.js';

/** A block that is not in the cache is waited for; nobody is paused by it. */
const WAIT_MS = 300_000;
const BLOCKD_WAIT_MS = 30_000;
const BLOCK_NUMBER_BYTES = 4;

export type MaintainedDiskPlan = {
  readonly machine: string;
  readonly appliance: string;
  readonly version: number;
  /** As its version has it. */
  readonly disk: PlannedDisk;
  readonly overlayPath: string;
  readonly diskKey: string;
};

export type MaintainedDisk = {
  readonly source: ByteSource;
  /** Ascending; in blocks of the disk. */
  readonly touched: Uint32Array;
  close(): Promise<void>;
};

/** Whoever opens it closes it. Errors: `in-use` while the machine runs, `wrong-key`, `local-io`. */
export async function openMaintainedDisk(plan: MaintainedDiskPlan, home: Home): Promise<MaintainedDisk> {
  const { disk, machine, overlayPath, diskKey: key } = plan;
  const { description } = disk;
  const root: Digest | null = description.root;
  const session = `maintained-${randomBytes(6).toString('hex')}`;
  const folder = join(home.exportsDirectory, session);
  // A name that a killed agent has left is taken again.
  const name = createHash('sha256').update(machine).digest('hex').slice(0, 12);
  const socketPath = join(home.runDirectory, `maintained-${name}.sock`);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await rm(socketPath, { force: true });
  const client = await ControlClient.connect(home.blockdSocket, { waitMs: BLOCKD_WAIT_MS });
  const close = async (): Promise<void> => {
    await client.request('detach', { session }).catch(() => undefined);
    client.close();
    await rm(socketPath, { force: true });
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const map = root === null ? undefined : await writeMap(join(folder, 'map'), disk);
    await client.request('attach', {
      session,
      disk: description.name,
      source: published({ name: plan.appliance, version: plan.version }, description, map),
      overlay: { path: overlayPath, mode: 'persistent', key },
      waitMs: WAIT_MS,
      listen: { path: socketPath },
    });
    const path = join(folder, 'touched');
    const { blocks } = await client.request('touched-blocks', {
      session,
      disk: description.name,
      blockBytes: description.blockBytes,
      path,
    });
    const touched = numbersOf(await readFile(path), blocks);
    return { source: { kind: 'nbd', socketPath, diskBytes: description.diskBytes }, touched, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function numbersOf(bytes: Buffer, count: number): Uint32Array {
  if (bytes.length !== count * BLOCK_NUMBER_BYTES)
    throw new CollectiveError('local-io', `The block daemon named ${count} blocks and wrote ${bytes.length} bytes`);
  return Uint32Array.from({ length: count }, (_none, at) => bytes.readUInt32LE(at * BLOCK_NUMBER_BYTES));
}
