/** Every maximum of the NBD server, in one place. Bytes unless the name says otherwise. */
export const NBD_LIMITS = {
  /** Largest READ and WRITE (and CACHE hint that is passed on); the protocol's usual ceiling, offered as maximum block size. */
  requestBytesMax: 32 << 20,
  /** What a refused WRITE may still send and have thrown away; a longer one closes the connection. */
  drainBytesMax: 64 << 20,
  /** Largest option in the handshake; a longer one closes the connection. */
  optionBytesMax: 64 << 10,
  /** Options in one handshake, so that it ends. */
  optionsMax: 128,
  /** Export names and meta context queries, by the protocol. */
  nameBytesMax: 4096,
  /** Meta context queries in one option. */
  queriesMax: 32,
  /** Replies that one handshake may have queued unread. */
  handshakeReplyBytesMax: 256 << 10,
  /** A connection that has not finished its handshake by then is closed. */
  handshakeMs: 30_000,
  /** Connections to one server; a further one is closed at once. */
  connectionsMax: 32,
  /** Requests of one connection that wait for something. */
  inFlightRequestsMax: 256,
  /** Payload of those: when more is in flight the next request is not looked at (so twice this is possible). */
  inFlightBytesMax: 32 << 20,
  /** Replies that the client has not taken: when more is queued the next request is not looked at. */
  unsentBytesMax: 512 << 10,
  /** Requests handled in one go before other connections and timers get their turn. */
  batchRequestsMax: 512,
  /** Reads up to this are answered from an arena; it holds a few of the longest. */
  arenaReadBytesMax: 64 << 10,
  arenaBytes: 4 * ((64 << 10) + 64),
  /** Arenas kept for the next need. */
  sparePoolArenasMax: 16,
  /** What one call receives from the socket. */
  receiveBytes: 256 << 10,
  /** Block status: descriptors in one reply, and the piece and total of the disk that one request looks at. */
  extentsMax: 1024,
  extentPieceBytes: 32 << 20,
  extentPiecesMax: 32,
  /** At `close`, sessions get this long to answer what is under way and clients to take it. */
  closeMs: 2_000,
  /** A reconnecting client waits this long for a former connection that does not read, before that one is closed. */
  formerConnectionMs: 2_000,
} as const;
