/**
 * Bounds the memory that request bodies, and long answers that are read whole, take together: a body is buffered whole
 * before it is checked, so each request reserves what it announces (or the route's maximum, if it announces nothing) until
 * it is answered or gone.
 */
import { type IncomingMessage, type ServerResponse } from 'node:http';
import { CollectiveError } from '@collective/shared';

export class BodyBudget {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Errors: `too-large` for a body over `bodyBytesMax`, `rate-limited` when too much is under way. */
  admit(request: IncomingMessage, response: ServerResponse, bodyBytesMax: number): void {
    const announced = request.headers['content-length'];
    const isChunked = request.headers['transfer-encoding'] !== undefined;
    const bodyBytes = isChunked ? bodyBytesMax : Number(announced ?? 0);
    if (bodyBytes > bodyBytesMax) {
      throw new CollectiveError('too-large', `The body has ${bodyBytes} bytes; at most ${bodyBytesMax} are allowed`);
    }
    if (bodyBytes > 0) this.reserve(response, bodyBytes);
  }

  /** For an answer that is read into memory whole. Errors: `rate-limited`. */
  reserve(response: ServerResponse, bodyBytes: number): void {
    // One request is always admitted, so that no body that a route allows is refused for ever.
    if (this.#bytes > 0 && this.#bytes + bodyBytes > this.#bytesMax) {
      throw new CollectiveError('rate-limited', 'The server is busy with other transfers; try again in a moment');
    }
    this.#bytes += bodyBytes;
    response.once('close', () => {
      this.#bytes -= bodyBytes;
    });
  }
}
