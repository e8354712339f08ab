/**
 * Where the files of a disk lie: its ext4 file systems (plain, or in MBR or GPT partitions) are read, paths and extents only, never content. Other file systems,
 * and files without extents (ext2, ext3, inline data), are passed over.
 *
 * A disk is hostile input: every structure is read through DiskReader, which ends what goes on too long; a directory is walked once; counts are bounded. What
 * is broken is passed over or ends the walk, and a wrong answer is no more than a bad hint (docs/formats/trace.md).
 * Layout: https://docs.kernel.org/filesystems/ext4/
 */
import { CollectiveError, hasCode } from '@collective/shared';
import type { DiskReader } from './disk-reader.js';

/** So much of a file lies at one place, in bytes. */
export type FilePiece = { readonly fileOffset: number; readonly diskOffset: number; readonly byteLength: number };
export type DiskFile = {
  /** From the root of its file system, without a slash before it; with the number of the partition where the disk has several file systems. */
  readonly path: string;
  readonly pieces: readonly FilePiece[];
};

export const FILES_MAX = 2 ** 18;
export const PIECES_MAX = 2 ** 20;
export const PATH_BYTES_MAX = 4096;
const SECTOR_BYTES = 512;
const GPT_ENTRIES_MAX = 128;

/** Files and directories of all ext4 file systems of the disk; none where there is none. Errors: `too-large`, those of the reader but for `malformed`. */
export async function ext4Files(disk: DiskReader): Promise<DiskFile[]> {
  const files: DiskFile[] = [];
  for (const [at, byteOffset] of (await partitionOffsets(disk)).entries()) {
    const fileSystem = await Ext4.open(disk, byteOffset);
    if (fileSystem !== undefined) await new Walk(fileSystem, `${String(at)}/`, files).run();
  }
  return files;
}

/** Where a file system may begin: the disk itself, and its partitions. */
async function partitionOffsets(disk: DiskReader): Promise<number[]> {
  const offsets = [0];
  const head = await orElse(disk.read(0, 2 * SECTOR_BYTES), undefined);
  if (head?.readUInt16LE(510) !== 0xaa55) return offsets;
  if (head.toString('latin1', SECTOR_BYTES, SECTOR_BYTES + 8) === 'EFI PART') {
    const table = Number(head.readBigUInt64LE(SECTOR_BYTES + 72)) * SECTOR_BYTES;
    const count = Math.min(head.readUInt32LE(SECTOR_BYTES + 80), GPT_ENTRIES_MAX);
    const entryBytes = head.readUInt32LE(SECTOR_BYTES + 84);
    if (entryBytes < 128 || entryBytes > 4096) return offsets;
    for (let at = 0; at < count; at += 1) {
      const entry = await orElse(disk.read(table + at * entryBytes, 48), undefined);
      if (entry?.subarray(0, 16).some((byte) => byte !== 0) === true)
        offsets.push(Number(entry.readBigUInt64LE(32)) * SECTOR_BYTES);
    }
  } else
    for (let slot = 446; slot < 510; slot += 16)
      if (head.readUInt8(slot + 4) !== 0) offsets.push(head.readUInt32LE(slot + 8) * SECTOR_BYTES);
  return offsets;
}

const MAGIC = 0xef53;
/** What changes nothing of where files lie, or only where a flag of the inode says so: filetype, recover, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold. */
const KNOWN_INCOMPATIBLE =
  0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;
const HAS_64BIT = 0x80;
const USES_EXTENTS = 0x80000;
const ROOT_INODE = 2;
const DIRECTORY = 4;
const REGULAR = 8;
const EXTENT_MAGIC = 0xf30a;
const EXTENT_DEPTH_MAX = 5;

type Inode = { readonly kind: number; readonly bytes: Buffer };

class Ext4 {
  readonly blockBytes: number;
  readonly #disk: DiskReader;
  readonly #byteOffset: number;
  readonly #super: Buffer;
  readonly #descriptorBytes: number;

  private constructor(disk: DiskReader, byteOffset: number, superblock: Buffer) {
    this.#disk = disk;
    this.#byteOffset = byteOffset;
    this.#super = superblock;
    this.blockBytes = 1024 << superblock.readUInt32LE(0x18);
    const has64 = (superblock.readUInt32LE(0x60) & HAS_64BIT) !== 0;
    this.#descriptorBytes = has64 ? superblock.readUInt16LE(0xfe) : 32;
  }

  /** Undefined: there is none that is understood. */
  static async open(disk: DiskReader, byteOffset: number): Promise<Ext4 | undefined> {
    const superblock = await orElse(disk.read(byteOffset + 1024, 1024), undefined);
    if (superblock?.readUInt16LE(0x38) !== MAGIC) return undefined;
    const isUnderstood =
      superblock.readUInt32LE(0x18) <= 2 && // blocks of 1 to 4 KiB
      superblock.readUInt32LE(0x4c) >= 1 &&
      superblock.readUInt32LE(0x28) > 0 &&
      superblock.readUInt16LE(0x58) >= 128 &&
      (superblock.readUInt32LE(0x60) & ~KNOWN_INCOMPATIBLE) === 0;
    if (!isUnderstood) return undefined;
    const opened = new Ext4(disk, byteOffset, superblock);
    return opened.#descriptorBytes >= 32 ? opened : undefined;
  }

  /** Undefined: it cannot be read. */
  async inode(number: number): Promise<Inode | undefined> {
    const perGroup = this.#super.readUInt32LE(0x28);
    if (number < 1 || number > this.#super.readUInt32LE(0x0)) return undefined;
    const group = Math.floor((number - 1) / perGroup);
    const descriptors = (this.#super.readUInt32LE(0x14) + 1) * this.blockBytes;
    const descriptor = await this.#read(descriptors + group * this.#descriptorBytes, this.#descriptorBytes);
    if (descriptor === undefined) return undefined;
    const high = this.#descriptorBytes >= 64 ? descriptor.readUInt32LE(0x28) : 0;
    const table = high * 2 ** 32 + descriptor.readUInt32LE(0x8);
    const inodeBytes = this.#super.readUInt16LE(0x58);
    const bytes = await this.#read(table * this.blockBytes + ((number - 1) % perGroup) * inodeBytes, 128);
    return bytes === undefined ? undefined : { kind: bytes.readUInt16LE(0) >> 12, bytes };
  }

  /** Of a file with extents, at most `piecesMax`; of another one none. */
  async pieces({ bytes }: Inode, piecesMax: number): Promise<FilePiece[]> {
    const pieces: FilePiece[] = [];
    if ((bytes.readUInt32LE(0x20) & USES_EXTENTS) === 0) return pieces;
    await this.#addPieces(pieces, { node: bytes.subarray(0x28, 0x28 + 60), depthMax: EXTENT_DEPTH_MAX, piecesMax });
    return pieces;
  }

  async read(piece: FilePiece, byteOffset: number): Promise<Buffer | undefined> {
    return orElse(this.#disk.read(piece.diskOffset + byteOffset, this.blockBytes), undefined);
  }

  async #addPieces(
    pieces: FilePiece[],
    of: { readonly node: Buffer; readonly depthMax: number; readonly piecesMax: number },
  ): Promise<void> {
    const { node, depthMax, piecesMax } = of;
    const depth = node.readUInt16LE(6);
    // Every step down is one deeper: no tree is walked for ever.
    if (node.readUInt16LE(0) !== EXTENT_MAGIC || depth > depthMax) return;
    const count = Math.min(node.readUInt16LE(2), Math.floor((node.length - 12) / 12));
    for (let at = 12; at < 12 + count * 12 && pieces.length < piecesMax; at += 12) {
      if (depth === 0) {
        const blocks = node.readUInt16LE(at + 4);
        if (blocks === 0 || blocks > 0x8000) continue; // nothing is written there yet
        pieces.push({
          fileOffset: node.readUInt32LE(at) * this.blockBytes,
          diskOffset: this.#byteOffset + this.#blockNumber(node, { high: at + 6, low: at + 8 }) * this.blockBytes,
          byteLength: blocks * this.blockBytes,
        });
        continue;
      }
      const below = this.#blockNumber(node, { high: at + 8, low: at + 4 });
      const child = await this.#read(below * this.blockBytes, this.blockBytes);
      if (child !== undefined) await this.#addPieces(pieces, { node: child, depthMax: depth - 1, piecesMax });
    }
  }

  #blockNumber(node: Buffer, at: { readonly high: number; readonly low: number }): number {
    return node.readUInt16LE(at.high) * 2 ** 32 + node.readUInt32LE(at.low);
  }

  #read(byteOffset: number, byteLength: number): Promise<Buffer | undefined> {
    return orElse(this.#disk.read(this.#byteOffset + byteOffset, byteLength), undefined);
  }
}

type Entry = { readonly inode: number; readonly path: string };

class Walk {
  readonly #fileSystem: Ext4;
  readonly #files: DiskFile[];
  readonly #waiting: Entry[];
  readonly #walked = new Set<number>();
  #pieceCount = 0;

  /** Adds to `files`. */
  constructor(fileSystem: Ext4, prefix: string, files: DiskFile[]) {
    this.#fileSystem = fileSystem;
    this.#files = files;
    this.#waiting = [{ inode: ROOT_INODE, path: prefix }];
    this.#pieceCount = files.reduce((sum, { pieces }) => sum + pieces.length, 0);
  }

  async run(): Promise<void> {
    for (let entry = this.#waiting.pop(); entry !== undefined; entry = this.#waiting.pop()) await this.#take(entry);
  }

  async #take({ inode: number, path }: Entry): Promise<void> {
    const inode = await this.#fileSystem.inode(number);
    if (inode === undefined || (inode.kind !== DIRECTORY && inode.kind !== REGULAR)) return;
    const pieces = await this.#fileSystem.pieces(inode, PIECES_MAX - this.#pieceCount + 1);
    this.#pieceCount += pieces.length;
    this.#files.push({ path, pieces });
    if (this.#pieceCount > PIECES_MAX) throw tooMany('pieces of files');
    if (inode.kind !== DIRECTORY || this.#walked.has(number)) return;
    this.#walked.add(number);
    const prefix = path.endsWith('/') ? path : `${path}/`;
    const { blockBytes } = this.#fileSystem;
    for (const piece of pieces)
      for (let at = 0; at < piece.byteLength; at += blockBytes) {
        const block = await this.#fileSystem.read(piece, at);
        if (block !== undefined) this.#addEntries(block, prefix);
      }
  }

  /** The inner blocks of an indexed directory look like empty ones. */
  #addEntries(block: Buffer, prefix: string): void {
    for (let at = 0; at + 8 <= block.length;) {
      const inode = block.readUInt32LE(at);
      const recordBytes = block.readUInt16LE(at + 4);
      const nameBytes = block.readUInt8(at + 6);
      if (recordBytes < 8 + nameBytes || at + recordBytes > block.length) return;
      const name = block.toString('latin1', at + 8, at + 8 + nameBytes);
      at += recordBytes;
      if (inode === 0 || name === '' || name === '.' || name === '..') continue;
      const path = prefix + name;
      if (path.length > PATH_BYTES_MAX) continue;
      if (this.#files.length + this.#waiting.length >= FILES_MAX) throw tooMany('files');
      this.#waiting.push({ inode, path });
    }
  }
}

const tooMany = (what: string): CollectiveError =>
  new CollectiveError('too-large', `the disk has more ${what} than are looked at`);

/** A structure that points out of the disk is as one that is not there. */
const orElse = async <T, E>(work: Promise<T>, otherwise: E): Promise<T | E> =>
  work.catch((error: unknown) => {
    if (hasCode(error, 'malformed')) return otherwise;
    throw error;
  });
