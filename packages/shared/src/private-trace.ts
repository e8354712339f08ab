/**
 * The boot trace of a user disk (docs/formats/trace.md, "Private trace"): of the disk in whatever state, so it names neither a version nor a root, and a
 * person's own, so it is nowhere in the clear. Two closed forms: a box under a key that the disk key gives, on a transceiver; a private chunk, with a snapshot.
 */
import { type Digest } from './brands.js';
import { checkStoredChunk } from './chunk.js';
import { digestFromBytes, DIGEST_BYTES, privateBlockDigest } from './digest.js';
import { CollectiveError } from './errors.js';
import { hkdf32 } from './hkdf.js';
import { type EpochKeys } from './person-keys.js';
import { decodePrivateChunk, encodePrivateChunk } from './private-chunk.js';
import { BOX_OVERHEAD_BYTES, unwrap, wrap } from './secret-box.js';
import { type BootTrace, decodeBootTrace, encodeBootTrace, traceBytes } from './trace.js';

/** 64 MiB in blocks of 16 KiB: what a boot and a login read of a person's files, and little enough to go with a snapshot. */
export const PRIVATE_TRACE_TOUCHES_MAX = 4_096;
/** Of the box. */
export const PRIVATE_TRACE_BYTES_MAX = BOX_OVERHEAD_BYTES + traceBytes(PRIVATE_TRACE_TOUCHES_MAX);
/** What the trace of a user disk has in the place of a version and its root. */
export const USER_DISK = { version: 0, root: digestFromBytes(Buffer.alloc(DIGEST_BYTES)) } as const;

/** The key of the box, 32 bytes; `diskKey` 64 bytes. */
export const privateTraceKey = (diskKey: Uint8Array): Buffer => hkdf32(diskKey, 'collective private trace v1');

/** Random nonce: never twice the same bytes. Errors: `too-large`. */
export const sealPrivateTrace = (key: Uint8Array, trace: BootTrace): Buffer => wrap(key, encodeChecked(trace));

/** Errors: `digest-mismatch` (changed, or another key), `malformed`, `unknown-format`, `too-large`. */
export const openPrivateTrace = (key: Uint8Array, box: Uint8Array): BootTrace => {
  if (box.length > PRIVATE_TRACE_BYTES_MAX) throw tooLarge(`${box.length} bytes, at most ${PRIVATE_TRACE_BYTES_MAX}`);
  return decodeChecked(unboxed(key, box));
};

/** Its name and its plain bytes; the same touches have the same name under one key. Errors: `too-large`. */
export const namePrivateTrace = (
  nameKey: Uint8Array,
  trace: BootTrace,
): { readonly digest: Digest; readonly plain: Buffer } => {
  const plain = encodeChecked(trace);
  return { digest: privateBlockDigest(nameKey, plain), plain };
};

/** The private chunk of what `namePrivateTrace` gave. */
export const encodeTraceChunk = (
  { digest, plain }: ReturnType<typeof namePrivateTrace>,
  { epoch, chunkKey }: { readonly epoch: number; readonly chunkKey: Uint8Array },
): Buffer => encodePrivateChunk(plain, { key: chunkKey, epoch, digest });

/** `keysOf`: of the epoch that the chunk names. Errors: those of decodePrivateChunk, of decodeBootTrace and of `keysOf`. */
export const decodeTraceChunk = (
  chunk: Uint8Array,
  { digest, keysOf }: { readonly digest: Digest; readonly keysOf: (epoch: number) => EpochKeys },
): BootTrace => {
  const { epoch, plainBytes, cipher } = checkStoredChunk(chunk);
  if (cipher === 'none') throw malformed('it is not encrypted');
  if (plainBytes > traceBytes(PRIVATE_TRACE_TOUCHES_MAX)) throw tooLarge(`${plainBytes} bytes`);
  const { chunkKey, blockNameKey } = keysOf(epoch);
  return decodeChecked(decodePrivateChunk(chunk, { key: chunkKey, nameKey: blockNameKey, epoch, digest, plainBytes }));
};

const encodeChecked = (trace: BootTrace): Buffer => encodeBootTrace(checked(trace));
const decodeChecked = (bytes: Uint8Array): BootTrace => checked(decodeBootTrace(bytes));

const checked = (trace: BootTrace): BootTrace => {
  if (trace.version !== USER_DISK.version || trace.root !== USER_DISK.root)
    throw malformed(`it names version ${trace.version} and the root ${trace.root}`);
  if (trace.touches.length > PRIVATE_TRACE_TOUCHES_MAX)
    throw tooLarge(`${trace.touches.length} touches, at most ${PRIVATE_TRACE_TOUCHES_MAX}`);
  return trace;
};

const unboxed = (key: Uint8Array, box: Uint8Array): Buffer => {
  try {
    return unwrap(key, box);
  } catch (cause) {
    throw new CollectiveError('digest-mismatch', 'private trace: it was changed, or sealed with another key', {
      cause,
    });
  }
};

const malformed = (what: string): CollectiveError => new CollectiveError('malformed', `private trace: ${what}`);
const tooLarge = (what: string): CollectiveError => new CollectiveError('too-large', `private trace: ${what}`);
