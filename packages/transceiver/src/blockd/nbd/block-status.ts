/** The payload of a BLOCK_STATUS reply for base:allocation: context id u32 · descriptors x (length u32 · flags u32). */
import type { BlockDevice } from '../block-device.js';
import { NBD_LIMITS } from './nbd-limits.js';
import { ALLOCATION, BASE_ALLOCATION_ID } from './nbd-protocol.js';

/**
 * Covers a prefix of the range (at least its first extent), with at most `extentsMax` descriptors. The disk is looked at
 * piece by piece up to a limit, so that one request over a whole disk does not hold up all others; the client asks on.
 */
export const blockStatusPayload = (
  device: BlockDevice,
  byteOffset: number,
  byteLength: number,
  extentsMax: number,
): Buffer => {
  const lengths: number[] = [];
  const flags: number[] = [];
  let done = 0;
  let isFull = false;
  for (let piece = 0; piece < NBD_LIMITS.extentPiecesMax && done < byteLength && !isFull; piece += 1) {
    const pieceBytes = Math.min(NBD_LIMITS.extentPieceBytes, byteLength - done);
    for (const extent of device.extents(byteOffset + done, pieceBytes)) {
      const flag = extent.kind === 'hole' ? ALLOCATION.hole | ALLOCATION.zero : 0;
      const last = lengths.length - 1;
      if (last >= 0 && flags[last] === flag) lengths[last] = (lengths[last] ?? 0) + extent.byteLength;
      else if (lengths.length < extentsMax) {
        lengths.push(extent.byteLength);
        flags.push(flag);
      } else {
        isFull = true;
        break;
      }
    }
    done += pieceBytes;
  }
  const payload = Buffer.alloc(4 + 8 * lengths.length);
  payload.writeUInt32BE(BASE_ALLOCATION_ID, 0);
  lengths.forEach((length, index) => {
    payload.writeUInt32BE(length, 4 + 8 * index);
    payload.writeUInt32BE(flags[index] ?? 0, 8 + 8 * index);
  });
  return payload;
};
