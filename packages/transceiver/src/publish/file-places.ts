/**
 * Where what lay in blocks of an older disk lies in a new one, by path and offset (docs/formats/trace.md). Pure functions.
 *
 * An update renames files: a path that is not there any more is followed to the one new path that differs from it in numbers only. One that is still there
 * gives way to such a path with later numbers: Debian keeps the kernel of before beside a new one.
 */
import type { FilePlaces } from '@collective/shared';
import type { DiskFile, FilePiece } from './ext4-files.js';

/** Parts of files that are followed: sixteen files of 4 KiB in every block of the longest trace, several times. Those beyond count as gone. */
export const PARTS_MAX = 2 ** 20;

/** Of those of `blocks` in which files lie. */
export const filePlaces = (
  from: readonly DiskFile[],
  to: readonly DiskFile[],
  of: { readonly blocks: readonly number[]; readonly blockBytes: number },
): FilePlaces => {
  const { blockBytes } = of;
  const wanted = [...of.blocks].sort((one, other) => one - other);
  const places = new Map<number, Set<number>>();
  const successorOf = successors(from, to);
  let partsLeft = PARTS_MAX;
  for (const file of from) {
    const successor = successorOf(file.path);
    for (const piece of file.pieces) {
      const diskEnd = piece.diskOffset + piece.byteLength;
      for (let at = firstAtLeast(wanted, Math.floor(piece.diskOffset / blockBytes)); at < wanted.length; at += 1) {
        const block = wanted[at] ?? 0;
        const begin = Math.max(piece.diskOffset, block * blockBytes);
        const end = Math.min(diskEnd, (block + 1) * blockBytes);
        if (begin >= end || partsLeft <= 0) break;
        partsLeft -= 1;
        const found = places.get(block) ?? new Set();
        places.set(block, found);
        const inFile = piece.fileOffset - piece.diskOffset;
        partsLeft -= addBlocks(found, successor, { begin: begin + inFile, end: end + inFile, blockBytes, partsLeft });
      }
    }
  }
  return new Map([...places].map(([block, found]) => [block, [...found].sort((one, other) => one - other)]));
};

/** Adds the blocks where a part of a file lies; how many pieces of it were looked at. */
const addBlocks = (
  found: Set<number>,
  file: DiskFile | undefined,
  part: { readonly begin: number; readonly end: number; readonly blockBytes: number; readonly partsLeft: number },
): number => {
  let looks = 0;
  const pieces = file?.pieces ?? [];
  for (let at = lastNotAfter(pieces, part.begin); looks < part.partsLeft; at += 1) {
    const piece = pieces[at];
    if (piece === undefined || piece.fileOffset >= part.end) break;
    looks += 1;
    const begin = Math.max(part.begin, piece.fileOffset);
    const end = Math.min(part.end, piece.fileOffset + piece.byteLength);
    if (begin >= end) continue;
    const onDisk = piece.diskOffset - piece.fileOffset;
    const last = Math.floor((end - 1 + onDisk) / part.blockBytes);
    for (let block = Math.floor((begin + onDisk) / part.blockBytes); block <= last; block += 1) found.add(block);
  }
  return looks;
};

const successors = (from: readonly DiskFile[], to: readonly DiskFile[]): ((path: string) => DiskFile | undefined) => {
  const before = new Set(from.map(({ path }) => path));
  const now = new Map(to.map((file) => [file.path, file]));
  const added = to.filter(({ path }) => !before.has(path));
  const [byFolder, byAll] = [onlyOnes(added, withoutNumbersOfFolders), onlyOnes(added, withoutNumbers)];
  return (path) => {
    const kept = now.get(path);
    // crc7.ko and crc8.ko of one folder are like each other, too.
    const renamed = byFolder.get(withoutNumbersOfFolders(path)) ?? byAll.get(withoutNumbers(path));
    return kept === undefined || (renamed !== undefined && isLater(renamed.path, path)) ? renamed : kept;
  };
};

/** By what is left of their paths; what several have in common is nobody's. */
const onlyOnes = (files: readonly DiskFile[], keyOf: (path: string) => string): ReadonlyMap<string, DiskFile> => {
  const found = new Map<string, DiskFile>();
  const shared = new Set<string>();
  for (const file of files) {
    const key = keyOf(file.path);
    if (found.has(key)) shared.add(key);
    found.set(key, file);
  }
  for (const key of shared) found.delete(key);
  return found;
};

const withoutNumbers = (path: string): string => path.replace(/\d+/g, '#');
const withoutNumbersOfFolders = (path: string): string => {
  const nameAt = path.lastIndexOf('/') + 1;
  return withoutNumbers(path.slice(0, nameAt)) + path.slice(nameAt);
};

/** Of two paths that differ in numbers only. */
const isLater = (one: string, other: string): boolean => {
  const theirs = numbersOf(other);
  for (const [at, number] of numbersOf(one).entries()) if (number !== theirs[at]) return number > (theirs[at] ?? 0);
  return false;
};
const numbersOf = (path: string): number[] => (path.match(/\d+/g) ?? []).map(Number);

/** Where in an ascending list the first number that is not below `bound` is. */
const firstAtLeast = (sorted: readonly number[], bound: number): number => {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] ?? 0) < bound) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** Which of a file's pieces, ascending, is the last that begins at or before an offset. */
const lastNotAfter = (pieces: readonly FilePiece[], fileOffset: number): number => {
  let [low, high] = [0, pieces.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((pieces[middle]?.fileOffset ?? 0) <= fileOffset) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
};
