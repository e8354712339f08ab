/**
 * One client's socket: bytes in, in order, with back pressure; bytes out, at once where the socket takes them.
 *
 * With koffi the socket is read into one buffer that is used again and again, and replies go out by a plain send(2), which
 * saves a stream's objects per batch; what the socket does not take is left to libuv. Without koffi it is an ordinary
 * net.Socket. Both ways deliver the same bytes to the same handler.
 */
import net from 'node:net';
import { ERRNO, syscalls } from '../syscalls.js';
import { NBD_LIMITS } from './nbd-limits.js';

export interface ConnectionHandler {
  /** Takes what it can of `chunk[start, end)` (borrowed) and returns the new start; less than `end` pauses the connection. */
  feed(chunk: Buffer, start: number, end: number): number;
  /** What had arrived was fed: replies may go out. */
  batchEnded(): void;
  /** Something that was queued has left. */
  sent(): void;
  /** The client sends no more. */
  clientEnded(): void;
  /** The socket is closed; nothing is sent or received any more. */
  closed(): void;
}

/** How often one wake-up looks for more requests before the event loop goes on. */
const RECEIVE_ROUNDS = 8;
const SEND_BUFFER_BYTES = 1 << 20;

const descriptorOf = (socket: net.Socket): number | undefined => {
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null) return undefined;
  const fd: unknown = Reflect.get(handle, 'fd');
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
};

export class Connection {
  readonly #handler: ConnectionHandler;
  readonly #socket: net.Socket;
  /** Ours, and open until the socket is closed; undefined without koffi. */
  readonly #fd: number | undefined;
  #chunk: Buffer;
  #start = 0;
  #end = 0;
  #isPaused = false;
  #isFeeding = false;
  #isClosed = false;
  #isEnded = false;
  #unsentBytes = 0;

  /** Takes over a socket of a server with `pauseOnConnect` and `allowHalfOpen`. Call `open` when ready for events. */
  constructor(accepted: net.Socket, handler: ConnectionHandler) {
    this.#handler = handler;
    const accepting = syscalls === undefined ? undefined : descriptorOf(accepted);
    const fd = syscalls === undefined || accepting === undefined ? -1 : syscalls.duplicate(accepting);
    if (fd < 0 || syscalls === undefined) {
      this.#fd = undefined;
      this.#chunk = Buffer.alloc(0);
      this.#socket = accepted;
    } else {
      this.#fd = fd;
      this.#chunk = Buffer.allocUnsafeSlow(NBD_LIMITS.receiveBytes);
      syscalls.setSendBuffer(fd, SEND_BUFFER_BYTES);
      const onread = { buffer: this.#chunk, callback: (byteLength: number): boolean => this.#received(byteLength) };
      const settings = { fd, allowHalfOpen: true, readable: true, writable: true, onread };
      this.#socket = new net.Socket(settings);
      accepted.destroy();
    }
  }

  open(): void {
    const socket = this.#socket;
    socket.on('error', () => {}); // 'close' follows and says it
    socket.on('end', () => this.#handler.clientEnded());
    socket.on('close', () => {
      this.#isClosed = true;
      this.#handler.closed();
    });
    if (this.#fd === undefined) {
      socket.on('data', (chunk: Buffer) => {
        this.#chunk = chunk;
        if (!this.#deliver(0, chunk.length)) socket.pause();
      });
    }
    socket.resume();
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Bytes that were given to `send` and have not left. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  clientIsGone(): boolean {
    if (this.#isOver) return true;
    return this.#fd !== undefined && syscalls !== undefined && syscalls.peerGone(this.#fd);
  }

  /** Goes on feeding after a pause. */
  resume(): void {
    if (!this.#isPaused || this.#isFeeding || this.#isClosed) return;
    this.#isPaused = false;
    if (this.#deliver(this.#start, this.#end)) this.#socket.resume();
  }

  /**
   * Sends the first `byteLength` bytes of `bytes`, which belong to the connection until `released` is called (possibly
   * before this returns, and also when the connection is lost).
   */
  send(bytes: Buffer, byteLength: number, released: () => void): void {
    let sentBytes = 0;
    if (this.#isOver) return released();
    if (this.#fd !== undefined && this.#unsentBytes === 0 && syscalls !== undefined) {
      const count = syscalls.send(this.#fd, bytes, byteLength);
      if (count === byteLength) return released();
      if (count > 0) sentBytes = count;
      else if (count !== -ERRNO.EAGAIN) {
        released();
        return this.destroy();
      }
    }
    const rest = bytes.subarray(sentBytes, byteLength);
    this.#unsentBytes += rest.length;
    this.#socket.write(rest, () => {
      this.#unsentBytes -= rest.length;
      released();
      this.#handler.sent();
    });
  }

  /** Closes after everything queued has left. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#socket.end(() => this.#socket.destroy());
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /**
   * The descriptor is closed as soon as the socket is destroyed, which is before its 'close' event: from then on its number may be that
   * of another client's socket, so it must not be touched.
   */
  get #isOver(): boolean {
    return this.#isClosed || this.#socket.destroyed;
  }

  /** One delivery by libuv into the shared buffer, and whatever else has arrived since. */
  #received(byteLength: number): boolean {
    if (!this.#deliver(0, byteLength)) return false;
    for (let round = 0; round < RECEIVE_ROUNDS; round += 1) {
      if (this.#fd === undefined || syscalls === undefined || this.#isOver) return false;
      const count = syscalls.receive(this.#fd, this.#chunk);
      if (count <= 0) break; // nothing there, or an end that libuv will find
      if (!this.#deliver(0, count)) return false;
    }
    return true;
  }

  /** True when all was taken. */
  #deliver(start: number, end: number): boolean {
    this.#isFeeding = true;
    this.#start = this.#handler.feed(this.#chunk, start, end);
    this.#end = end;
    this.#isPaused = this.#start < end;
    this.#handler.batchEnded();
    this.#isFeeding = false;
    return !this.#isPaused;
  }
}
