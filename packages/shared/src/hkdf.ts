/** HKDF-SHA-256 (RFC 5869) with an empty salt: every key of docs/formats/keys.md below the first, 32 bytes unless it says otherwise. */
import { hkdfSync } from 'node:crypto';

export const hkdf = (secret: Uint8Array, info: string, byteLength: number): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, new Uint8Array(0), Buffer.from(info, 'ascii'), byteLength));

export const hkdf32 = (secret: Uint8Array, info: string): Buffer => hkdf(secret, info, 32);
