/**
 * The server's side of the newstyle fixed handshake: options in, option replies out, until the client has chosen an
 * export or left.
 *
 * It is fed with whatever the socket brings, keeps at most one option, and never throws on what a client sends. What may
 * not be answered in the protocol (bad magic, unknown client flags, an option too large, an unknown name in
 * EXPORT_NAME) closes the connection.
 */
import {
  BASE_ALLOCATION,
  BASE_ALLOCATION_ID,
  HANDSHAKE_FLAG,
  INFO,
  INIT_MAGIC,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
} from './nbd-protocol.js';
import { NBD_LIMITS } from './nbd-limits.js';
import type { NbdExport } from './nbd-export.js';
import { decodeExportName, decodeInfoRequest, decodeMetaContextRequest } from './option-data.js';

/** Who runs a handshake. */
export interface HandshakeHost {
  exportNames(): readonly string[];
  findExport(name: string): NbdExport | undefined;
  /** Sends; the buffer is not used afterwards. */
  send(bytes: Buffer): void;
  /** The handshake has ended well; what follows in the stream is requests. */
  enterTransmission(negotiated: Negotiated): void;
  /** The connection must be closed, after what was sent has left. */
  leave(): void;
  /** A pause (`isWaiting`) is over: feed on. */
  proceed(): void;
}

export type Negotiated = {
  readonly nbdExport: NbdExport;
  readonly structuredReplies: boolean;
  /** The client may ask for block status of base:allocation. */
  readonly allocationContext: boolean;
};

const CLIENT_FLAGS_BYTES = 4;
const OPTION_HEADER_BYTES = 16;
const OLD_ZEROES_BYTES = 124;

export class Handshake {
  readonly #host: HandshakeHost;
  /** The piece being collected: client flags, an option's header, or its data. */
  #piece = Buffer.alloc(CLIENT_FLAGS_BYTES);
  #filled = 0;
  #state: 'flags' | 'header' | 'data' | 'waiting' | 'over' = 'flags';
  #option = 0;
  #optionCount = 0;
  #noZeroes = false;
  #structuredReplies = false;
  /** The export whose base:allocation was chosen. */
  #allocationExport: string | undefined;

  constructor(host: HandshakeHost) {
    this.#host = host;
  }

  start(): void {
    const greeting = Buffer.alloc(18);
    INIT_MAGIC.copy(greeting, 0);
    OPTION_MAGIC.copy(greeting, 8);
    greeting.writeUInt16BE(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes, 16);
    this.#host.send(greeting);
  }

  get isWaiting(): boolean {
    return this.#state === 'waiting';
  }

  /** Takes what it can of `chunk[start, end)` and returns the new start; the rest belongs to what comes next. */
  feed(chunk: Buffer, start: number, end: number): number {
    let position = start;
    while (this.#state === 'flags' || this.#state === 'header' || this.#state === 'data') {
      const taken = Math.min(this.#piece.length - this.#filled, end - position);
      chunk.copy(this.#piece, this.#filled, position, position + taken);
      this.#filled += taken;
      position += taken;
      if (this.#filled < this.#piece.length) return position;
      this.#pieceIsWhole();
    }
    return position;
  }

  #pieceIsWhole(): void {
    const piece = this.#piece;
    switch (this.#state) {
      case 'flags':
        return this.#clientFlags(piece.readUInt32BE(0));
      case 'header':
        return this.#optionHeader(piece);
      case 'data':
        return this.#optionData(piece);
      default:
        return;
    }
  }

  #collect(state: 'header' | 'data', byteLength: number): void {
    this.#state = state;
    this.#piece = Buffer.alloc(byteLength);
    this.#filled = 0;
  }

  #clientFlags(flags: number): void {
    const known = HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes;
    if ((flags & ~known) !== 0) return this.#leave();
    this.#noZeroes = (flags & HANDSHAKE_FLAG.noZeroes) !== 0;
    this.#collect('header', OPTION_HEADER_BYTES);
  }

  #optionHeader(header: Buffer): void {
    if (header.compare(OPTION_MAGIC, 0, 8, 0, 8) !== 0) return this.#leave();
    this.#option = header.readUInt32BE(8);
    const dataBytes = header.readUInt32BE(12);
    this.#optionCount += 1;
    if (this.#optionCount > NBD_LIMITS.optionsMax) return this.#leave();
    if (dataBytes > NBD_LIMITS.optionBytesMax) {
      if (this.#option !== OPTION.exportName) this.#reply(OPTION_REPLY.tooBig);
      return this.#leave();
    }
    this.#collect('data', dataBytes);
  }

  #optionData(data: Buffer): void {
    this.#collect('header', OPTION_HEADER_BYTES);
    switch (this.#option) {
      case OPTION.exportName:
        return this.#exportName(data);
      case OPTION.abort:
        this.#reply(OPTION_REPLY.ack);
        return this.#leave();
      case OPTION.list:
        return this.#list(data);
      case OPTION.info:
      case OPTION.go:
        return this.#infoOrGo(data);
      case OPTION.structuredReply:
        if (data.length !== 0) return this.#reply(OPTION_REPLY.invalid);
        this.#structuredReplies = true;
        return this.#reply(OPTION_REPLY.ack);
      case OPTION.listMetaContext:
      case OPTION.setMetaContext:
        return this.#metaContext(data);
      default:
        return this.#reply(OPTION_REPLY.unsupported);
    }
  }

  #exportName(data: Buffer): void {
    const name = decodeExportName(data);
    const nbdExport = name === undefined ? undefined : this.#host.findExport(name);
    if (nbdExport === undefined) return this.#leave();
    this.#admit(nbdExport, () => {
      const reply = Buffer.alloc(10 + (this.#noZeroes ? 0 : OLD_ZEROES_BYTES));
      reply.writeBigUInt64BE(BigInt(nbdExport.device.byteLength), 0);
      reply.writeUInt16BE(nbdExport.transmissionFlags({ structuredReplies: this.#structuredReplies }), 8);
      this.#host.send(reply);
      this.#enter(nbdExport);
    });
  }

  #list(data: Buffer): void {
    if (data.length !== 0) return this.#reply(OPTION_REPLY.invalid);
    for (const name of this.#host.exportNames()) {
      const bytes = Buffer.from(name);
      const payload = Buffer.alloc(4 + bytes.length);
      payload.writeUInt32BE(bytes.length, 0);
      bytes.copy(payload, 4);
      this.#reply(OPTION_REPLY.server, payload);
    }
    this.#reply(OPTION_REPLY.ack);
  }

  #infoOrGo(data: Buffer): void {
    const option = this.#option;
    const request = decodeInfoRequest(data);
    if (request === undefined) return this.#reply(OPTION_REPLY.invalid);
    const nbdExport = this.#host.findExport(request.exportName);
    if (nbdExport === undefined) return this.#reply(OPTION_REPLY.unknown, Buffer.from('no such export'));
    const answer = (): void => {
      this.#infos(nbdExport, request.infoTypes);
      this.#reply(OPTION_REPLY.ack);
    };
    if (option === OPTION.info) return answer();
    this.#admit(nbdExport, () => {
      this.#option = option;
      answer();
      this.#enter(nbdExport);
    });
  }

  #infos(nbdExport: NbdExport, infoTypes: readonly number[]): void {
    const size = Buffer.alloc(12);
    size.writeUInt16BE(INFO.export, 0);
    size.writeBigUInt64BE(BigInt(nbdExport.device.byteLength), 2);
    size.writeUInt16BE(nbdExport.transmissionFlags({ structuredReplies: this.#structuredReplies }), 10);
    this.#reply(OPTION_REPLY.info, size);
    const blocks = Buffer.alloc(14);
    blocks.writeUInt16BE(INFO.blockSize, 0);
    blocks.writeUInt32BE(1, 2);
    blocks.writeUInt32BE(nbdExport.preferredBlockBytes, 6);
    blocks.writeUInt32BE(NBD_LIMITS.requestBytesMax, 10);
    this.#reply(OPTION_REPLY.info, blocks);
    if (infoTypes.includes(INFO.name)) this.#textInfo(INFO.name, nbdExport.name);
    if (infoTypes.includes(INFO.description) && nbdExport.description !== '') {
      this.#textInfo(INFO.description, nbdExport.description);
    }
  }

  #textInfo(infoType: number, text: string): void {
    const bytes = Buffer.from(text);
    const payload = Buffer.alloc(2 + bytes.length);
    payload.writeUInt16BE(infoType, 0);
    bytes.copy(payload, 2);
    this.#reply(OPTION_REPLY.info, payload);
  }

  #metaContext(data: Buffer): void {
    const isSet = this.#option === OPTION.setMetaContext;
    if (isSet) this.#allocationExport = undefined;
    const request = decodeMetaContextRequest(data);
    if (request === undefined || !this.#structuredReplies) return this.#reply(OPTION_REPLY.invalid);
    if (this.#host.findExport(request.exportName) === undefined) return this.#reply(OPTION_REPLY.unknown);
    const matches = isSet
      ? request.queries.includes(BASE_ALLOCATION)
      : request.queries.length === 0 || request.queries.some((query) => query === 'base:' || query === BASE_ALLOCATION);
    if (matches) {
      if (isSet) this.#allocationExport = request.exportName;
      const payload = Buffer.alloc(4 + BASE_ALLOCATION.length);
      payload.writeUInt32BE(isSet ? BASE_ALLOCATION_ID : 0, 0);
      payload.write(BASE_ALLOCATION, 4, 'latin1');
      this.#reply(OPTION_REPLY.metaContext, payload);
    }
    this.#reply(OPTION_REPLY.ack);
  }

  #admit(nbdExport: NbdExport, then: () => void): void {
    this.#state = 'waiting';
    const host = this.#host;
    void nbdExport.admit().then(() => {
      if (this.#state !== 'waiting') return;
      then();
      host.proceed();
    });
  }

  #enter(nbdExport: NbdExport): void {
    this.#state = 'over';
    this.#host.enterTransmission({
      nbdExport,
      structuredReplies: this.#structuredReplies,
      allocationContext:
        this.#structuredReplies &&
        this.#allocationExport !== undefined &&
        this.#host.findExport(this.#allocationExport) === nbdExport,
    });
  }

  #reply(replyType: number, payload: Buffer = Buffer.alloc(0)): void {
    const reply = Buffer.alloc(20 + payload.length);
    reply.writeUInt32BE(OPTION_REPLY_MAGIC_HIGH, 0);
    reply.writeUInt32BE(OPTION_REPLY_MAGIC_LOW, 4);
    reply.writeUInt32BE(this.#option, 8);
    reply.writeUInt32BE(replyType, 12);
    reply.writeUInt32BE(payload.length, 16);
    payload.copy(reply, 20);
    this.#host.send(reply);
  }

  #leave(): void {
    this.#state = 'over';
    this.#host.leave();
  }
}
