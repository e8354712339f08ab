/**
 * TLS to a repository: the server's key is the one in the join link, or its certificate is a public one. There is no
 * "accept anyway". With a pin the certificate's chain, name and dates do not count: only the SHA-256 of its public key
 * (SubjectPublicKeyInfo) does (DESIGN §6).
 */
import { createHash, timingSafeEqual } from 'node:crypto';
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

/** How undici connects to this server. A wrong key ends the connection with `wrong-server` before a byte is sent. */
export function pinnedConnector(address: RepositoryAddress): buildConnector.connector {
  const { pin } = address;
  if (pin === undefined) return buildConnector({ timeout: CONNECT_TIMEOUT_MS });
  // No session cache: a resumed session may come without the certificate that is to be compared.
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS, rejectUnauthorized: false, maxCachedSessions: 0 });
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
