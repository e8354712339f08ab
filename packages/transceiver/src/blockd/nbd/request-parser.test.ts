import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NBD_LIMITS } from './nbd-limits.js';
import { COMMAND } from './nbd-protocol.js';
import { requestBytes } from './raw-client.double.js';
import { RequestParser, type RequestSink } from './request-parser.js';

/** Writes down what it gets; refuses writes beyond 1 MiB of disk, as a device of that size would. */
class NotingSink implements RequestSink {
  readonly notes: string[] = [];
  canTake = true;
  takeMax = Number.POSITIVE_INFINITY;
  payloadBytes = 0;

  request(command: number, flags: number, high: number, low: number, byteOffset: number, byteLength: number): void {
    this.#note(`${command} ${flags} ${high}:${low} ${byteOffset}+${byteLength}`);
  }

  admitWrite(_flags: number, high: number, low: number, byteOffset: number, byteLength: number): boolean {
    if (byteOffset + byteLength <= 1 << 20 && byteLength <= NBD_LIMITS.requestBytesMax) return true;
    this.#note(`refused ${high}:${low}`);
    return false;
  }

  write(flags: number, high: number, low: number, byteOffset: number, payload: Buffer): void {
    this.payloadBytes += payload.length;
    this.#note(`1 ${flags} ${high}:${low} ${byteOffset}+${payload.toString('hex')}`);
  }

  brokenStream(): void {
    this.#note('broken');
  }

  #note(text: string): void {
    this.notes.push(text);
    this.takeMax -= 1;
    this.canTake = this.takeMax > 0;
  }
}

const request = fc.oneof(
  fc.record({
    command: fc.constantFrom(0, 2, 3, 4, 5, 6, 7, 99),
    flags: fc.integer({ min: 0, max: 65_535 }),
    cookie: fc.nat(),
    byteOffset: fc.nat(),
    byteLength: fc.nat(),
  }),
  fc
    .record({
      flags: fc.integer({ min: 0, max: 1 }),
      cookie: fc.nat(),
      byteOffset: fc.integer({ min: 0, max: (1 << 20) + 500 }),
      payload: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    })
    .map((write) => ({ command: COMMAND.write, ...write })),
);

/** Feeds `stream` in pieces; a sink that stops is let go on until all is taken. */
const feedInPieces = (parser: RequestParser, sink: NotingSink, stream: Buffer, cuts: readonly number[]): void => {
  const ends = [...new Set([...cuts.map((cut) => cut % (stream.length + 1)), stream.length])].sort((a, b) => a - b);
  let start = 0;
  for (const end of ends) {
    // The receive buffer is used again: what the parser kept must not change with it.
    const chunk = Buffer.from(stream.subarray(start, end));
    let position = 0;
    while (position < chunk.length) {
      position = parser.feed(chunk, position, chunk.length);
      sink.takeMax = 3;
      sink.canTake = true;
    }
    chunk.fill(0xee);
    start = end;
  }
};

describe('RequestParser', () => {
  it('finds the same requests however the stream is cut and whenever the sink stops', () => {
    fc.assert(
      fc.property(fc.array(request, { maxLength: 30 }), fc.array(fc.nat(), { maxLength: 40 }), (requests, cuts) => {
        const stream = Buffer.concat(requests.map(requestBytes));
        const whole = new NotingSink();
        expect(new RequestParser(whole).feed(stream, 0, stream.length)).toBe(stream.length);
        const cut = new NotingSink();
        feedInPieces(new RequestParser(cut), cut, stream, cuts);
        expect(cut.notes).toEqual(whole.notes);
        expect(whole.notes).toHaveLength(requests.length);
      }),
    );
  });

  it('never throws on any bytes, and after bad magic takes nothing', () => {
    fc.assert(
      fc.property(
        fc.array(request, { maxLength: 5 }),
        fc.uint8Array({ maxLength: 400 }),
        fc.array(fc.nat()),
        (before, bytes, cuts) => {
          const stream = Buffer.concat([...before.map(requestBytes), Buffer.alloc(4), bytes]);
          const sink = new NotingSink();
          feedInPieces(new RequestParser(sink), sink, stream, cuts);
          expect(sink.notes.slice(before.length)).toEqual(
            stream.length - Buffer.concat(before.map(requestBytes)).length >= 28 ? ['broken'] : [],
          );
        },
      ),
    );
  });

  it('bits flipped anywhere in a good stream cost at most what the sink admits', () => {
    fc.assert(
      fc.property(
        fc.array(request, { minLength: 1, maxLength: 10 }),
        fc.array(fc.nat(), { minLength: 1, maxLength: 8 }),
        fc.array(fc.nat()),
        (requests, flips, cuts) => {
          const stream = Buffer.concat(requests.map(requestBytes));
          for (const flip of flips) {
            const at = (flip >>> 3) % stream.length;
            stream[at] = (stream[at] ?? 0) ^ (1 << (flip & 7));
          }
          const sink = new NotingSink();
          const parser = new RequestParser(sink);
          feedInPieces(parser, sink, stream, cuts);
          expect(sink.payloadBytes).toBeLessThanOrEqual(stream.length);
          expect(parser.payloadRest?.length ?? 0).toBeLessThanOrEqual(1 << 20);
        },
      ),
    );
  });

  it('a refused write is drained, and the request behind it is found', () => {
    const sink = new NotingSink();
    const bad = requestBytes({
      command: COMMAND.write,
      cookie: 1,
      byteOffset: 2 << 20,
      payload: Buffer.alloc(100_000, 0x25),
    });
    const stream = Buffer.concat([bad, requestBytes({ command: COMMAND.flush, cookie: 2 })]);
    feedInPieces(new RequestParser(sink), sink, stream, [10, 28, 5_000, 100_028]);
    expect(sink.notes).toEqual(['refused 0:1', '3 0 0:2 0+0']);
  });

  it('a write longer than may be drained breaks the stream', () => {
    const sink = new NotingSink();
    const stream = requestBytes({ command: COMMAND.write, byteLength: NBD_LIMITS.drainBytesMax + 1 });
    new RequestParser(sink).feed(stream, 0, stream.length);
    expect(sink.notes).toEqual(['broken']);
  });
});
