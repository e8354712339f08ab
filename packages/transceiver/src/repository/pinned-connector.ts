/**
 * TLS to a repository: the server's key is the one in the join link, or its certificate is a public one. There is no
 * "accept anyway". With a pin the certificate's chain, name and dates do not count: only the SHA-256 of its public key
 * (SubjectPublicKeyInfo) does (DESIGN §6).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { buildConnector } from 'undici';
import { CollectiveError } from '@collective/shared';

export type RepositoryAddress = {
  /** `https://HOST[:PORT]`, or `http://` for loopback. */
  readonly origin: string;
  /** SHA-256 of the server certificate's SubjectPublicKeyInfo, base64url; absent for a public certificate. */
  readonly pin?: string;
};

export const CONNECT_TIMEOUT_MS = 10_000;
const RECEIVE_BYTES = 64 << 10;

/**
 * Node gives each read of a socket a new buffer of 64 KiB, however little comes: at 11 MB/s in small packets that is 300 MB/s of garbage, which V8
 * collects ten times a second, with all its threads (docs/PERFORMANCE.md). So all connections read into one buffer, and what came is copied out.
 */
const received = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
const onread = {
  buffer: received,
  callback(this: Socket, byteLength: number): boolean {
    return this.push(Buffer.from(received.subarray(0, byteLength)));
  },
};
const SETTINGS = { timeout: CONNECT_TIMEOUT_MS, onread } as const;

/** How undici connects to this server. A wrong key ends the connection with `wrong-server` before a byte is sent. */
export function pinnedConnector(address: RepositoryAddress): buildConnector.connector {
  const { pin } = address;
  if (pin === undefined) return buildConnector(SETTINGS);
  // No session cache: a resumed session may come without the certificate that is to be compared.
  const connect = buildConnector({ ...SETTINGS, rejectUnauthorized: false, maxCachedSessions: 0 });
  return (options, callback) => {
    connect(options, (...result) => {
      const [error, socket] = result;
      if (error !== null) {
        callback(error, null);
        return;
      }
      const found = socket instanceof TLSSocket ? keyDigest(socket) : undefined;
      if (found !== undefined && isSame(found, pin)) {
        callback(null, socket);
        return;
      }
      socket.destroy();
      const shown = found === undefined ? 'none' : found.toString('base64url');
      callback(
        new CollectiveError(
          'wrong-server',
          `${address.origin} shows the TLS key ${shown}, the join link names ${pin}.`,
          {
            data: { origin: address.origin },
          },
        ),
        null,
      );
    });
  };
}

function keyDigest(socket: TLSSocket): Buffer | undefined {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return undefined;
  return createHash('sha256')
    .update(certificate.publicKey.export({ type: 'spki', format: 'der' }))
    .digest();
}

function isSame(found: Buffer, pin: string): boolean {
  const expected = Buffer.from(pin, 'base64url');
  return expected.length === found.length && timingSafeEqual(expected, found);
}
