/** HKDF-SHA-256 (RFC 5869) with an empty salt, 32 bytes out: every key of docs/formats/keys.md below the first. */
import { hkdfSync } from 'node:crypto';

export const hkdf32 = (secret: Uint8Array, info: string): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, new Uint8Array(0), Buffer.from(info, 'ascii'), 32));
