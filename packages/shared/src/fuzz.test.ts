/**
 * Every decoder of the golden table against what is not its format: the only outcomes are a value or a CollectiveError
 * with a code of the format. fast-check prints the seed of a failure.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CollectiveError, type ErrorCode } from './errors.js';
import { GOLDEN_EXAMPLES, type GoldenExample } from './testing/golden-examples.js';

const FORMAT_CODES: readonly ErrorCode[] = ['malformed', 'too-large', 'unknown-format'];

const BINARY = /^(?:map-page|changed-pairs|chunk-batch|boot-trace|use-record|disk-use|snapshot-object)-/;

type Outcome = 'value' | ErrorCode;

const outcomeOf = (example: GoldenExample, bytes: Buffer): Outcome => {
  try {
    example.decode(bytes);
    // In a binary format one value has one form: whatever is accepted is what would be written.
    if (BINARY.test(example.path) && !example.reencode(bytes).equals(bytes)) throw new Error('accepted another form');
    return 'value';
  } catch (error) {
    if (!(error instanceof CollectiveError)) throw error;
    if (!FORMAT_CODES.includes(error.code) && !example.codes.includes(error.code)) throw error;
    return error.code;
  }
};

const flipped = (bytes: Buffer, bit: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return copy;
};

describe.each(GOLDEN_EXAMPLES)('decoder of $path', (example) => {
  const valid = example.write();

  it('refuses valid input cut at every length', () => {
    for (let length = 0; length < valid.length; length += 1) {
      // A join link without its last part is another valid link.
      if (outcomeOf(example, valid.subarray(0, length)) !== 'value') continue;
      expect(example.path).toBe('join-link-v1/link.txt');
    }
  });

  it('refuses a byte more than valid input, unless it is white space', () => {
    for (const byte of [0, 0x41, 0xff]) {
      expect(outcomeOf(example, Buffer.concat([valid, Buffer.from([byte])]))).not.toBe('value');
    }
  });

  it('gives a value or a typed error for valid input with one bit flipped', () => {
    // Signed files take 100 µs a flip; a stride that is no multiple of 8 still reaches every bit position.
    const stride = valid.length > 1_000 ? 7 : 1;
    for (let bit = 0; bit < valid.length * 8; bit += stride) outcomeOf(example, flipped(valid, bit));
  });

  it('gives a value or a typed error for valid input with a run of bytes replaced, removed or repeated', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: valid.length }),
        fc.nat({ max: 64 }),
        fc.uint8Array({ maxLength: 64 }),
        (at, removed, inserted) => {
          outcomeOf(example, Buffer.concat([valid.subarray(0, at), inserted, valid.subarray(at + removed)]));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('gives a value or a typed error for arbitrary bytes, also behind a valid beginning', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat({ max: Math.min(64, valid.length) }), (bytes, kept) => {
        outcomeOf(example, Buffer.concat([valid.subarray(0, kept), bytes]));
      }),
      { numRuns: 500 },
    );
  });

  it('refuses 512 KiB of one byte without reading far', () => {
    for (const byte of [0x00, 0x5b, 0x7b, 0x22, 0xff]) {
      expect(outcomeOf(example, Buffer.alloc(524_288, byte))).not.toBe('value');
    }
  });
});

// Chunks are named by what they hold, envelopes are signed: no bit of them is free.
const PROTECTED =
  /^(?:chunk-v1\/|(?:version|snapshot)-v1\/manifest|trust-v1\/[12]|heads-v1\/heads|device-certificate-v1|profile-v1\/profile|private-trace-v1)/;

describe.each(GOLDEN_EXAMPLES.filter(({ path }) => PROTECTED.test(path)))('content of $path', (example) => {
  it('is refused with any bit of it flipped', () => {
    const valid = example.write();
    for (let bit = 0; bit < valid.length * 8; bit += valid.length > 1_000 ? 7 : 1) {
      expect(outcomeOf(example, flipped(valid, bit)), `bit ${bit}`).not.toBe('value');
    }
  });
});
