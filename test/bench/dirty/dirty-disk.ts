/**
 * The guest of the replay: writes and flushes over NBD, and for each granule the number of its newest write. So it is known to the granule
 * what a snapshot does not have: what was written after its cut.
 */
import { createCipheriv } from 'node:crypto';
import { COMMAND } from '@collective/transceiver';
import { NbdPlayerClient } from '../trace-player/nbd-player-client.js';
import { GRANULE_BYTES } from './day-model.js';

const REQUEST_BYTES_MAX = 1 << 20;
const IN_FLIGHT_MAX = 16;
const FILLER = Buffer.from('And so it goes on, line after line, as text and tables do. 0123\n');

export class DirtyDisk {
  readonly #client: NbdPlayerClient;
  readonly #seed: number;
  readonly #newest: Uint32Array;
  readonly #waiting = new Map<number, (failed: boolean) => void>();
  #lost: Error | undefined;
  #number = 0;
  /** Of writes: the newest that was sent, and the newest of which all up to it are acknowledged. */
  #sent = 0;
  readonly #unacknowledged = new Set<number>();
  writtenBytes = 0;

  private constructor(client: NbdPlayerClient, of: { readonly diskBytes: number; readonly seed: number }) {
    this.#client = client;
    this.#seed = of.seed;
    this.#newest = new Uint32Array(of.diskBytes / GRANULE_BYTES);
    client.listen(
      (number, failed) => {
        this.#waiting.get(number)?.(failed);
        this.#waiting.delete(number);
      },
      (error) => {
        this.#lost = error;
        for (const call of this.#waiting.values()) call(true);
        this.#waiting.clear();
      },
    );
  }

  static async open(
    socket: string,
    of: { readonly name: string; readonly diskBytes: number; readonly seed: number },
  ): Promise<DirtyDisk> {
    return new DirtyDisk(await NbdPlayerClient.open(socket, of.name), of);
  }

  /** Every write up to this one is acknowledged: a seal that is asked for now has it. */
  get acknowledged(): number {
    return this.#unacknowledged.size === 0 ? this.#sent : Math.min(...this.#unacknowledged) - 1;
  }

  /** Bytes of granules that were written after that write. */
  changedBytesSince(write: number): number {
    let granules = 0;
    for (const newest of this.#newest) if (newest > write) granules += 1;
    return granules * GRANULE_BYTES;
  }

  async write(byteOffset: number, byteLength: number, keep: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < byteLength; at += REQUEST_BYTES_MAX) {
      const bytes = Math.min(REQUEST_BYTES_MAX, byteLength - at);
      parts.push(this.#write(byteOffset + at, bytes, keep));
      if (parts.length % IN_FLIGHT_MAX === 0) await Promise.all(parts);
    }
    await Promise.all(parts);
  }

  async flush(): Promise<void> {
    await this.#request({ command: COMMAND.flush, flags: 0, byteOffset: 0, byteLength: 0 });
  }

  close(): void {
    this.#client.close();
  }

  async #write(byteOffset: number, byteLength: number, keep: number): Promise<void> {
    this.#sent += 1;
    const write = this.#sent;
    this.#unacknowledged.add(write);
    const first = byteOffset / GRANULE_BYTES;
    this.#newest.fill(write, first, first + byteLength / GRANULE_BYTES);
    this.writtenBytes += byteLength;
    const payload = contentOf({ byteLength, keep, seed: this.#seed, write });
    await this.#request({ command: COMMAND.write, flags: 0, byteOffset, byteLength }, payload);
    this.#unacknowledged.delete(write);
  }

  async #request(request: Parameters<NbdPlayerClient['send']>[1], payload?: Buffer): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost;
    this.#number += 1;
    const number = this.#number;
    const failed = await new Promise<boolean>((resolve) => {
      this.#waiting.set(number, resolve);
      this.#client.send(number, request, payload);
    });
    if (failed) throw this.#lost ?? new Error(`the disk refuses ${JSON.stringify(request)}`);
  }
}

/** Granules of which that part is noise and the rest text that nearly vanishes in compression; never the same twice. */
export const contentOf = (of: {
  readonly byteLength: number;
  readonly keep: number;
  readonly seed: number;
  readonly write: number;
}): Buffer => {
  const bytes = Buffer.alloc(of.byteLength, FILLER);
  const noiseBytes = Math.round(of.keep * GRANULE_BYTES);
  const nonce = Buffer.alloc(16);
  nonce.writeUInt32LE(of.seed >>> 0, 0);
  nonce.writeUInt32LE(of.write, 4);
  const granules = of.byteLength / GRANULE_BYTES;
  const noise = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), nonce).update(Buffer.alloc(granules * noiseBytes));
  for (let at = 0; at < granules; at += 1)
    noise.copy(bytes, at * GRANULE_BYTES, at * noiseBytes, (at + 1) * noiseBytes);
  return bytes;
};
