/**
 * An emulated line whose capacity changes while it runs, as a process of its own (swinging-link.ts). A forwarder in the manner of
 * shared/tools/link.mjs, which cannot: towards the clients a capacity, a delay and one bounded first-in-first-out queue that all connections share;
 * away from them only the delay. What is in the queue when the capacity falls stays in it, as in a router.
 *
 * Each of the ports leads to a server of its own, so that two downloads can be told apart on one line. It sends what arrived for each of them, four times
 * a second. Not emulated, as there: loss, TCP's handshake and slow start.
 */
import net, { type AddressInfo } from 'node:net';
import { nowOfMachineMs } from './machine-clock.js';

export type SwingingLinkAsked = { readonly bitsPerSecond: number };
export type SwingingLinkSays =
  | { readonly ports: readonly number[] }
  | { readonly atMs: number; readonly bitsPerSecond: number; readonly bytes: readonly number[] };

const [roundTripMs = 0, ...toPorts] = process.argv.slice(2).map(Number);
const SAMPLE_MS = 250;
/** A router's buffer: 250 ms of the line, 64 KiB at the least and a thousand packets of Ethernet at most. */
const QUEUE_MS = 250;
const QUEUE_BYTES_MIN = 65_536;
const QUEUE_BYTES_MAX = 1_500_000;
/** On a slow line, slices of one Ethernet frame, so that connections interleave as packets do. */
const FRAME_BYTES = 1_448;
const SLICE_MS = 0.5;

type Slice = { readonly bytes: Buffer; readonly target: net.Socket; readonly download: number };

/** The way to the clients. */
class Line {
  readonly arrived = toPorts.map(() => 0);
  #bytesPerMs = 1_000;
  readonly #queue: Slice[] = [];
  #head = 0;
  #queuedBytes = 0;
  /** The slice at the head has been under way for so many of its bytes, up to `#atMs`. */
  #sentOfHead = 0;
  #atMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  readonly #waiting = new Set<net.Socket>();

  set bitsPerSecond(value: number) {
    this.#advance();
    this.#bytesPerMs = value / 8_000;
  }

  get bitsPerSecond(): number {
    return this.#bytesPerMs * 8_000;
  }

  /** `source` is not read from while the queue is full. */
  send(source: net.Socket, target: net.Socket, bytes: Buffer, download: number): void {
    this.#advance();
    const sliceBytes = Math.max(FRAME_BYTES, Math.min(65_536, Math.floor(this.#bytesPerMs * SLICE_MS)));
    for (let at = 0; at < bytes.length; at += sliceBytes)
      this.#queue.push({ bytes: bytes.subarray(at, at + sliceBytes), target, download });
    this.#queuedBytes += bytes.length;
    const bytesMax = Math.min(QUEUE_BYTES_MAX, Math.max(QUEUE_BYTES_MIN, this.#bytesPerMs * QUEUE_MS));
    if (this.#queuedBytes > bytesMax) {
      source.pause();
      this.#waiting.add(source);
    }
    this.#wait();
  }

  /** What has left by now goes on its way. */
  #advance(): void {
    const nowMs = performance.now();
    // A timer of Node's fires up to 1 ms late; what is due within 0.5 ms goes now.
    let budget = this.#sentOfHead + (nowMs + 0.5 - this.#atMs) * this.#bytesPerMs;
    for (let slice = this.#queue[this.#head]; slice !== undefined; slice = this.#queue[this.#head]) {
      if (budget < slice.bytes.length) break;
      budget -= slice.bytes.length;
      this.#head += 1;
      this.#queuedBytes -= slice.bytes.length;
      this.#deliver(slice);
    }
    if (this.#head === this.#queue.length) {
      this.#queue.length = 0;
      this.#head = 0;
      budget = 0; // an idle line saves nothing up
    } else if (this.#head > 4_096) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    this.#sentOfHead = budget;
    this.#atMs = nowMs + (this.#queue.length === 0 ? 0 : 0.5);
    if (this.#queuedBytes > QUEUE_BYTES_MIN / 2) return;
    for (const source of this.#waiting) source.resume();
    this.#waiting.clear();
  }

  #deliver({ bytes, target, download }: Slice): void {
    setTimeout(() => {
      this.arrived[download] = (this.arrived[download] ?? 0) + bytes.length;
      if (!target.destroyed) target.write(bytes);
    }, roundTripMs / 2);
  }

  #wait(): void {
    const slice = this.#queue[this.#head];
    if (slice === undefined || this.#timer !== undefined) return;
    const afterMs = (slice.bytes.length - this.#sentOfHead) / this.#bytesPerMs;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#advance();
      this.#wait();
    }, afterMs);
  }
}

const line = new Line();
const listen = async (toPort: number, download: number): Promise<number> => {
  const server = net.createServer((client) => {
    const origin = net.connect(toPort, '127.0.0.1');
    for (const socket of [client, origin]) socket.setNoDelay(true).on('error', () => undefined);
    client.on('data', (bytes: Buffer) => setTimeout(() => origin.writable && origin.write(bytes), roundTripMs / 2));
    origin.on('data', (bytes: Buffer) => line.send(origin, client, bytes, download));
    client.on('close', () => origin.destroy());
    origin.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
};

const say = (message: SwingingLinkSays): void => void process.send?.(message);
process.on('message', (message) => {
  line.bitsPerSecond = (message as SwingingLinkAsked).bitsPerSecond;
});
process.on('disconnect', () => process.exit(0));
say({ ports: await Promise.all(toPorts.map(listen)) });
setInterval(() => {
  say({ atMs: nowOfMachineMs(), bitsPerSecond: line.bitsPerSecond, bytes: [...line.arrived] });
}, SAMPLE_MS);
