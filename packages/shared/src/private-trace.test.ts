import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { privateBlockDigest } from './digest.js';
import { deriveEpochKeys, type EpochKeys } from './person-keys.js';
import { encodePrivateChunk } from './private-chunk.js';
import {
  decodeTraceChunk,
  encodeTraceChunk,
  namePrivateTrace,
  openPrivateTrace,
  PRIVATE_TRACE_BYTES_MAX,
  PRIVATE_TRACE_TOUCHES_MAX,
  privateTraceKey,
  sealPrivateTrace,
  USER_DISK,
} from './private-trace.js';
import { type BootTrace, encodeBootTrace } from './trace.js';

const traceOf = (count: number): BootTrace => ({
  ...USER_DISK,
  blockBytes: 16_384,
  touches: Array.from({ length: count }, (_none, at) => ({ blockIndex: 3 * at, afterMs: at, phase: 0, chunkBytes: 0 })),
});
const key = privateTraceKey(Buffer.alloc(64, 1));
const epoch = deriveEpochKeys(Buffer.alloc(32, 1));
const keysOf = (): EpochKeys => epoch;

describe('the box of a private trace', () => {
  it('gives back the longest trace that there is, in no more bytes than are stated', () => {
    const trace = traceOf(PRIVATE_TRACE_TOUCHES_MAX);
    const box = sealPrivateTrace(key, trace);
    expect(box.length).toBe(PRIVATE_TRACE_BYTES_MAX);
    expect(openPrivateTrace(key, box)).toEqual(trace);
  });

  it('opens with no other disk key', () => {
    const other = privateTraceKey(Buffer.alloc(64, 2));
    expect(() => openPrivateTrace(other, sealPrivateTrace(key, traceOf(3)))).toThrow(/another key/);
  });

  it.each<[string, BootTrace, string]>([
    ['too many touches', traceOf(PRIVATE_TRACE_TOUCHES_MAX + 1), 'too-large'],
    ['the trace of a version', { ...traceOf(3), version: 1 }, 'malformed'],
    ['the trace of a published disk', { ...traceOf(3), root: 'ab'.repeat(32) as Digest }, 'malformed'],
  ])('takes %s neither in nor out', (_what, trace, code) => {
    const plain = encodeBootTrace(trace);
    const digest = privateBlockDigest(epoch.blockNameKey, plain);
    const chunk = encodePrivateChunk(plain, { key: epoch.chunkKey, epoch: 1, digest });
    expect(() => sealPrivateTrace(key, trace)).toThrow(expect.objectContaining({ code }));
    expect(() => decodeTraceChunk(chunk, { digest, keysOf })).toThrow(expect.objectContaining({ code }));
  });

  it('that is longer than one can be is refused before it is opened', () => {
    const box = Buffer.alloc(PRIVATE_TRACE_BYTES_MAX + 1);
    expect(() => openPrivateTrace(key, box)).toThrow(expect.objectContaining({ code: 'too-large' }));
  });
});

describe('the chunk of a private trace', () => {
  it('has one name for the same touches under one key, and other bytes each time', () => {
    const named = namePrivateTrace(epoch.blockNameKey, traceOf(3));
    expect(namePrivateTrace(epoch.blockNameKey, traceOf(3))).toEqual(named);
    const [first, second] = [1, 2].map(() => encodeTraceChunk(named, { epoch: 1, ...epoch }));
    expect(first).not.toEqual(second);
    expect(decodeTraceChunk(first ?? Buffer.alloc(0), { digest: named.digest, keysOf })).toEqual(traceOf(3));
  });

  it('is not accepted under another name', () => {
    const [one, two] = [3, 4].map((count) => namePrivateTrace(epoch.blockNameKey, traceOf(count)));
    if (one === undefined || two === undefined) throw new Error('two traces');
    const chunk = encodeTraceChunk(one, { epoch: 1, ...epoch });
    expect(() => decodeTraceChunk(chunk, { digest: two.digest, keysOf })).toThrow(
      expect.objectContaining({ code: 'digest-mismatch' }),
    );
  });
});
