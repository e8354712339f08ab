/** Whether bytes are all zero, at the speed of memcmp; data is mostly recognised by its first or last byte. */
const ZEROES = Buffer.alloc(64 << 10);

export const isZero = (bytes: Buffer): boolean => {
  if (bytes[0] !== 0 || bytes[bytes.length - 1] !== 0) return bytes.length === 0;
  for (let start = 0; start < bytes.length; start += ZEROES.length) {
    const end = Math.min(bytes.length, start + ZEROES.length);
    if (bytes.compare(ZEROES, 0, end - start, start, end) !== 0) return false;
  }
  return true;
};
