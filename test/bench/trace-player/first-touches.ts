/**
 * From a recording to the blocks that a guest's reads asked for, and first touched, with the time and the size in which they travel. A pure
 * function. What the guest reads back of its own writes touches nothing, nor does a block that is all zero; block status and hints
 * touch nothing either.
 */
import { COMMAND, type RequestRecordingFile } from '@collective/transceiver';
import type { FirstTouch } from './t-star.js';

/** What is known of a disk's ground. */
export type TouchedDisk = {
  readonly name: string;
  readonly blockBytes: number;
  /** The size of the block's chunk; undefined for a block that does not travel. */
  readonly chunkBytes: (blockIndex: number) => number | undefined;
};

const SECTOR_BYTES = 512;

/** Which sectors a guest has written. */
class WrittenSectors {
  readonly #written: Uint8Array;

  constructor(diskBytes: number) {
    this.#written = new Uint8Array(Math.ceil(diskBytes / SECTOR_BYTES));
  }

  mark(byteOffset: number, byteLength: number): void {
    this.#written.fill(1, byteOffset / SECTOR_BYTES, (byteOffset + byteLength) / SECTOR_BYTES);
  }

  holdsAll(byteOffset: number, byteEnd: number): boolean {
    const missing = this.#written.subarray(byteOffset / SECTOR_BYTES, Math.ceil(byteEnd / SECTOR_BYTES)).indexOf(0);
    return missing < 0;
  }
}

/** A block that a read asked for, once for each read that did. */
export type GroundRead = { readonly disk: TouchedDisk; readonly block: number; readonly atUs: number };

/** What reads asked for of the disks' ground, in order. A disk of the recording that is not among `disks` has no ground. */
export function* groundReads(
  recording: RequestRecordingFile,
  disks: readonly TouchedDisk[],
): Generator<GroundRead, void, undefined> {
  const ofName = new Map(disks.map((disk) => [disk.name, disk]));
  const ground = recording.disks.map(({ name, diskBytes }) => ({
    disk: ofName.get(name),
    written: new WrittenSectors(diskBytes),
  }));
  for (const { disk: index, command, byteOffset, byteLength, arrivalUs, failed } of recording.requests) {
    const { disk, written } = ground[index] ?? {};
    if (disk === undefined || written === undefined || failed || byteLength === 0) continue;
    if (command === COMMAND.write || command === COMMAND.trim || command === COMMAND.writeZeroes) {
      written.mark(byteOffset, byteLength);
      continue;
    }
    if (command !== COMMAND.read) continue;
    const end = byteOffset + byteLength;
    for (let block = Math.floor(byteOffset / disk.blockBytes); block * disk.blockBytes < end; block += 1) {
      const from = Math.max(byteOffset, block * disk.blockBytes);
      if (written.holdsAll(from, Math.min(end, (block + 1) * disk.blockBytes))) continue;
      yield { disk, block, atUs: arrivalUs };
    }
  }
}

/** First touches of all disks together, in order. */
export const firstTouches = (recording: RequestRecordingFile, disks: readonly TouchedDisk[]): FirstTouch[] => {
  const touched = new Map(disks.map((disk) => [disk, new Set<number>()]));
  const touches: FirstTouch[] = [];
  for (const { disk, block, atUs } of groundReads(recording, disks)) {
    const blocks = touched.get(disk);
    if (blocks === undefined || blocks.has(block)) continue;
    blocks.add(block);
    const chunkBytes = disk.chunkBytes(block);
    if (chunkBytes !== undefined) touches.push({ atUs, chunkBytes });
  }
  return touches;
};
