/**
 * The machine's serial port: one connection to QEMU, the last output kept, any number of clients. It outlives a restart of QEMU
 * (a guest that reboots): `connect` again, and clients see the next boot in the same stream.
 *
 * A client that does not read is dropped at a limit; one that types faster than the guest reads is not read from.
 */
import type { Duplex } from 'node:stream';
import type { Socket } from 'node:net';
import { EventEmitter } from 'node:events';
import { connectUnix } from '../machine/unix-socket.js';

export const CONSOLE_TAIL_BYTES_MAX = 256 << 10;
const CLIENT_UNSENT_BYTES_MAX = 1 << 20;
const CONNECT_WAIT_MS = 5_000;

export class SerialConsole extends EventEmitter<{ output: [data: Buffer] }> {
  readonly #clients = new Set<Duplex>();
  #port: Socket | undefined;
  #parts: Buffer[] = [];
  #partsBytes = 0;
  #closed = false;

  /** Connects to QEMU's socket; the connection before, if any, has ended. */
  async connect(path: string, signal?: AbortSignal): Promise<void> {
    const port = await connectUnix(path, { waitMs: CONNECT_WAIT_MS, ...(signal === undefined ? {} : { signal }) });
    this.#port?.destroy();
    this.#port = port;
    port.on('error', () => undefined); // QEMU ended: `close` follows
    port.on('data', (data: Buffer) => this.#keep(data));
    port.on('drain', () => {
      for (const client of this.#clients) client.resume();
    });
    port.once('close', () => {
      if (this.#port === port) this.#port = undefined;
      for (const client of this.#clients) client.resume();
    });
  }

  /** The last output, at most CONSOLE_TAIL_BYTES_MAX. */
  tail(bytesMax = CONSOLE_TAIL_BYTES_MAX): Buffer {
    const all = Buffer.concat(this.#parts);
    return all.subarray(Math.max(0, all.length - bytesMax));
  }

  /** Writes the tail to the client, then everything that comes; what the client sends is typed. Ends with the client or `close`. */
  attach(client: Duplex, tailBytes: number): void {
    if (tailBytes > 0) client.write(this.tail(tailBytes));
    if (this.#closed) {
      client.end(); // the last words of a machine that is over
      return;
    }
    this.#clients.add(client);
    client.on('data', (data: Buffer) => {
      if (this.#port !== undefined && !this.#port.write(data)) client.pause();
    });
    client.on('error', () => undefined);
    client.once('end', () => client.destroy());
    client.once('close', () => this.#clients.delete(client));
    client.resume();
  }

  /** Types something. */
  write(data: Buffer): void {
    this.#port?.write(data);
  }

  /** Ends the connection to QEMU and all clients. */
  close(): void {
    this.#closed = true;
    this.#port?.destroy();
    for (const client of this.#clients) client.end();
    this.#clients.clear();
  }

  #keep(data: Buffer): void {
    this.#parts.push(data);
    this.#partsBytes += data.length;
    // A guest may print byte by byte: glue the pieces together once in a while, and let go of what is too old.
    if (this.#parts.length > 1024 || this.#partsBytes > 2 * CONSOLE_TAIL_BYTES_MAX) {
      const kept = Buffer.from(this.tail());
      this.#parts = [kept];
      this.#partsBytes = kept.length;
    }
    for (const client of this.#clients) {
      if (client.writableLength > CLIENT_UNSENT_BYTES_MAX) client.destroy();
      else client.write(data);
    }
    this.emit('output', data);
  }
}
