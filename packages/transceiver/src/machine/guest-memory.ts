/**
 * The guest's memory from outside: QEMU holds it as a file without a name (memfd), which whoever may look into the process can open
 * (/proc/PID/fd). Copied to a sparse file when the machine is suspended, and back when it is resumed; only what is not zero is
 * written, so that neither file is larger than what the guest has used.
 *
 * QEMU is hostile once a guest ran in it: whatever it shows is a regular file of the right size, and is only read.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, type Digest } from '@collective/shared';
import type { ImageCipher } from './image-cipher.js';
import { isAlive, type ProcessIdentity } from './process-identity.js';

const PIECE_BYTES = 1 << 20;
const PAGE_BYTES = 4_096;
/** A sync of a large memory waits for the medium at the end, which was idle while it was copied: it is told along the way. */
const WRITE_BACK_BYTES = 16 << 20;
const ZERO_PIECE = Buffer.alloc(PIECE_BYTES);
const ZERO_PAGE = ZERO_PIECE.subarray(0, PAGE_BYTES);
/** The memfd of `memory-backend-memfd` (qemu-arguments.ts). */
const MEMORY_NAME = '/memfd:memory-backend-memfd';

/** The memory of a QEMU, open until the caller closes it, even when QEMU ends. Errors: `local-io`. */
export async function openGuestMemory(
  qemu: ProcessIdentity,
  options: { readonly memoryBytes: number; readonly access: 'read' | 'write' },
): Promise<FileHandle> {
  const folder = `/proc/${qemu.pid}/fd`;
  const flags = options.access === 'read' ? constants.O_RDONLY : constants.O_RDWR;
  for (const name of await readdir(folder).catch(() => [])) {
    const path = join(folder, name);
    if (!(await readlink(path).catch(() => '')).startsWith(MEMORY_NAME)) continue;
    const file = await open(path, flags | constants.O_NONBLOCK);
    const found = await file.stat();
    // The number may have become another process's before it was opened, not after.
    if (found.isFile() && found.size === options.memoryBytes && (await isAlive(qemu))) return file;
    await file.close();
  }
  throw new CollectiveError(
    'local-io',
    `QEMU ${qemu.pid} has no memory that can be read; it was started by older software`,
  );
}

/**
 * Copies `byteLength` bytes to a file that is empty, or zero, up to there. Gives the SHA-256 of all pieces of 1 MiB that are not
 * zero, each after its number (u64, little-endian). `encrypt`: `to` gets pages that are not zero encrypted; `decrypt`: `from` has them so. The
 * digest is of what is, or becomes, encrypted. Errors: `disk-full`, `local-io`, the signal's reason.
 */
export async function copyMemory(
  from: FileHandle,
  to: FileHandle,
  options: {
    readonly byteLength: number;
    readonly encrypt?: ImageCipher | undefined;
    readonly decrypt?: ImageCipher | undefined;
    /** The caller syncs `to` afterwards: what was copied is on its way to the medium meanwhile. */
    readonly isSyncedSoon?: boolean;
    readonly signal?: AbortSignal;
  },
): Promise<Digest> {
  const { byteLength, encrypt, decrypt, isSyncedSoon = false, signal } = options;
  const writeBack = isSyncedSoon ? new WriteBack(to) : undefined;
  const hash = createHash('sha256');
  const number = Buffer.alloc(8);
  const piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
  for (let at = 0; at < byteLength; at += PIECE_BYTES) {
    signal?.throwIfAborted();
    const bytes = piece.subarray(0, Math.min(PIECE_BYTES, byteLength - at));
    await readWhole(from, bytes, at);
    if (bytes.equals(ZERO_PIECE.subarray(0, bytes.length))) continue;
    const runs = [...usedRuns(bytes)];
    for (const { start, end } of runs) encrypt?.apply(bytes.subarray(start, end), at + start);
    number.writeBigUInt64LE(BigInt(at / PIECE_BYTES));
    hash.update(number).update(bytes);
    for (const { start, end } of runs) decrypt?.apply(bytes.subarray(start, end), at + start);
    for (const { start, end } of runs) {
      await writeWhole(to, bytes.subarray(start, end), at + start);
      writeBack?.wrote(end - start);
    }
  }
  await writeBack?.end();
  return hash.digest('hex') as Digest;
}

/** Syncs what was written now and then while more is being written; one sync at a time. An error of one is told once, so it is kept. */
class WriteBack {
  readonly #file: FileHandle;
  #bytes = 0;
  #sync: Promise<void> | undefined;
  #failure: unknown;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  wrote(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < WRITE_BACK_BYTES || this.#sync !== undefined) return;
    this.#bytes = 0;
    this.#sync = this.#file
      .datasync()
      .catch((error: unknown) => (this.#failure ??= error))
      .then(() => (this.#sync = undefined));
  }

  async end(): Promise<void> {
    await this.#sync;
    if (this.#failure !== undefined) throw this.#failure as Error;
  }
}

/** Runs of pages that are not zero. */
function* usedRuns(bytes: Buffer): Generator<{ readonly start: number; readonly end: number }> {
  let start: number | undefined;
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) {
    const page = bytes.subarray(at, at + PAGE_BYTES);
    const isZero = page.equals(page.length === PAGE_BYTES ? ZERO_PAGE : ZERO_PAGE.subarray(0, page.length));
    if (!isZero) start ??= at;
    else if (start !== undefined) {
      yield { start, end: at };
      start = undefined;
    }
  }
  if (start !== undefined) yield { start, end: bytes.length };
}

async function readWhole(file: FileHandle, target: Buffer, at: number): Promise<void> {
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await file.read(target, done, target.length - done, at + done);
    if (bytesRead === 0) throw new CollectiveError('local-io', `The memory ends at ${at + done}`);
    done += bytesRead;
  }
}

async function writeWhole(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}
