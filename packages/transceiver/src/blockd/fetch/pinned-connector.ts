/**
 * TLS to exactly one key. Where the join link names the SHA-256 of the server's public key, that and nothing else
 * decides: no certificate authority, no host name, no date. There is no "accept anyway".
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { TLSSocket } from 'node:tls';
import { CollectiveError } from '@collective/shared';
import { buildConnector } from 'undici';

/** `pin`: SHA-256 of the SubjectPublicKeyInfo, base64url. Errors while connecting: `wrong-server`. */
export const pinnedConnector = (
  pin: string,
  options: { readonly connectTimeoutMs: number },
): buildConnector.connector => {
  const expected = Buffer.from(pin, 'base64url');
  // No cached sessions: a resumed one shows no certificate.
  const connect = buildConnector({
    rejectUnauthorized: false,
    maxCachedSessions: 0,
    timeout: options.connectTimeoutMs,
  });
  return (connectOptions, callback) => {
    connect(connectOptions, (...result) => {
      const [error, socket] = result;
      if (error !== null) return callback(error, null);
      if (socket instanceof TLSSocket) {
        const certificate = socket.getPeerX509Certificate();
        const key = certificate?.publicKey.export({ type: 'spki', format: 'der' });
        const found = key === undefined ? undefined : createHash('sha256').update(key).digest();
        if (found === undefined || found.length !== expected.length || !timingSafeEqual(found, expected)) {
          socket.destroy();
          return callback(
            new CollectiveError(
              'wrong-server',
              `the server at ${connectOptions.hostname} shows key ${found?.toString('base64url') ?? 'none'}, expected ${pin}`,
            ),
            null,
          );
        }
      }
      callback(null, socket);
    });
  };
};
