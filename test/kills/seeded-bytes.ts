/** Bytes that no compression makes smaller and no other seed has. */
import { createCipheriv } from 'node:crypto';

export const seededBytes = (seed: number, byteLength: number): Buffer => {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed >>> 0);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(byteLength));
};
