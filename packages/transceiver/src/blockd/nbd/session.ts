/**
 * One client of the NBD server, from its greeting to the end of its last operation.
 *
 *   handshake ── GO ──> transmission ── DISC, end of stream, bad magic ──> ending ──> ended
 *       └───────────────────── abort, time-out, abandon ──────────────────────┘
 *
 * While ending it starts nothing; replies to what was under way still go to a client that waits for them. It is quiet when
 * the last operation is over (a successor may be let in then), and has ended when the socket is closed as well.
 */
import type net from 'node:net';
import { Connection, type ConnectionHandler } from './connection.js';
import { Handshake, type HandshakeHost, type Negotiated } from './handshake.js';
import type { ExportUser, NbdExport } from './nbd-export.js';
import { NBD_LIMITS } from './nbd-limits.js';
import { RequestParser } from './request-parser.js';
import { Transmission } from './transmission.js';

export type SessionOptions = {
  readonly exportNames: () => readonly string[];
  readonly findExport: (name: string) => NbdExport | undefined;
  readonly failed: (error: unknown) => void;
};

export class Session implements ConnectionHandler, HandshakeHost, ExportUser {
  readonly quiet: Promise<void>;
  readonly ended: Promise<void>;
  readonly #options: SessionOptions;
  readonly #connection: Connection;
  readonly #handshake: Handshake;
  readonly #handshakeTimer: NodeJS.Timeout;
  #parser: RequestParser | undefined;
  #transmission: Transmission | undefined;
  #isEnding = false;
  #isClosed = false;
  #resolveQuiet: () => void = () => {};
  #resolveEnded: () => void = () => {};

  constructor(socket: net.Socket, options: SessionOptions) {
    this.#options = options;
    this.quiet = new Promise((resolve) => (this.#resolveQuiet = resolve));
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    this.#connection = new Connection(socket, this);
    this.#handshake = new Handshake(this);
    this.#handshakeTimer = setTimeout(() => this.abandon(), NBD_LIMITS.handshakeMs);
    this.#handshakeTimer.unref();
    this.#connection.open();
    this.#handshake.start();
  }

  get isEnding(): boolean {
    return this.#isEnding;
  }

  get isPaused(): boolean {
    return this.#connection.isPaused;
  }

  clientIsGone(): boolean {
    return this.#connection.clientIsGone();
  }

  /** Starts nothing more; answers what is under way, then closes. */
  finish(): void {
    this.#isEnding = true;
    this.#transmission?.stop();
    this.#endWhenIdle();
  }

  abandon(): void {
    this.#isEnding = true;
    this.#transmission?.abandon();
    this.#connection.destroy();
  }

  // What the connection reports.

  feed(chunk: Buffer, start: number, end: number): number {
    let position = start;
    if (this.#parser === undefined) {
      position = this.#handshake.feed(chunk, position, end);
      if (this.#handshake.isWaiting) return position;
    }
    if (this.#isEnding) return end; // what still comes is not looked at
    if (this.#parser === undefined) return position;
    this.#transmission?.batchStarted();
    return this.#parser.feed(chunk, position, end);
  }

  batchEnded(): void {
    this.#transmission?.batchEnded();
  }

  sent(): void {
    this.#changed();
  }

  clientEnded(): void {
    this.finish();
  }

  closed(): void {
    clearTimeout(this.#handshakeTimer);
    this.#isClosed = true;
    this.#isEnding = true;
    this.#transmission?.abandon();
    this.#changed();
  }

  // What the handshake asks for.

  exportNames(): readonly string[] {
    return this.#options.exportNames();
  }

  findExport(name: string): NbdExport | undefined {
    return this.#options.findExport(name);
  }

  send(bytes: Buffer): void {
    if (this.#connection.unsentBytes > NBD_LIMITS.handshakeReplyBytesMax) this.abandon();
    else this.#connection.send(bytes, bytes.length, () => {});
  }

  enterTransmission(negotiated: Negotiated): void {
    clearTimeout(this.#handshakeTimer);
    this.#transmission = new Transmission(negotiated, this.#connection, {
      changed: () => this.#changed(),
      finished: () => this.finish(),
      failed: this.#options.failed,
    });
    this.#parser = new RequestParser(this.#transmission);
    negotiated.nbdExport.enter(this);
  }

  leave(): void {
    this.finish();
  }

  proceed(): void {
    this.#connection.resume();
  }

  #changed(): void {
    const transmission = this.#transmission;
    if (this.#isEnding) this.#endWhenIdle();
    else if (transmission === undefined || transmission.canTake) this.#connection.resume();
  }

  #endWhenIdle(): void {
    if (this.#transmission !== undefined && !this.#transmission.isIdle) return;
    this.#resolveQuiet();
    if (this.#isClosed) this.#resolveEnded();
    else this.#connection.end();
  }
}
