/**
 * A disk image that somebody wants to publish, in any format that qemu-img reads: what it is, whether it may be used,
 * and which parts of it hold data.
 *
 * An image is untrusted: its header can name other files of this machine (a backing file, an external data file, a
 * VMDK extent), and reading it would publish them. Whatever refers to anything but itself is refused. So is an image
 * that is cut off (its tables point behind its end) or that says it is larger than the format allows.
 */
import { open, realpath, stat } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { runProgram } from './run-program.js';

/** Limit of the manifest (docs/formats/manifest.md): 16 TiB. */
export const DISK_BYTES_MAX = 2 ** 44;
const EXTENTS_MAX = 4_000_000;

/** A part of the disk; what is not `data` reads as zeroes. */
export type ImageExtent = { readonly byteOffset: number; readonly byteLength: number; readonly data: boolean };

export type DiskImage = {
  /** Absolute, links resolved. */
  readonly path: string;
  readonly format: string;
  readonly diskBytes: number;
  /** In order, covering the disk. */
  readonly extents: readonly ImageExtent[];
  /** Bytes in extents that hold data. */
  readonly usedBytes: number;
  /** Size and change time of the file when it was looked at: an image that changes while it is published is refused. */
  readonly fileBytes: number;
  readonly changedAtMs: number;
};

/** Formats that are one file. Everything else is refused by name. */
const FORMATS = new Set([
  'raw',
  'qcow2',
  'qcow',
  'qed',
  'vdi',
  'vhdx',
  'vpc',
  'vmdk',
  'parallels',
  'bochs',
  'cloop',
  'dmg',
]);
/** Formats that `qemu-img check` knows. */
const CHECKABLE = new Set(['qcow2', 'qed', 'vdi', 'vhdx', 'vmdk', 'parallels']);

/** Looks at an image without changing it. Errors: `not-found`, `bad-image` with what is wrong, `in-use`, `missing-program`. */
export async function inspectImage(
  file: string,
  options: { readonly format?: string; readonly signal?: AbortSignal } = {},
): Promise<DiskImage> {
  const path = await realpath(file).catch(() => {
    throw new CollectiveError('not-found', `There is no file ${file}.`);
  });
  const found = await stat(path);
  if (!found.isFile()) throw new CollectiveError('bad-image', `${file} is not a file.`);
  if (found.size === 0) throw new CollectiveError('bad-image', `${file} is empty.`);
  const info = await imageInfo(path, options);
  refuseReferences(path, info);
  const { format, diskBytes } = info;
  if (diskBytes > DISK_BYTES_MAX) {
    throw new CollectiveError(
      'bad-image',
      `${path} says it has ${String(diskBytes)} bytes; a disk has at most ${String(DISK_BYTES_MAX)} (16 TiB).`,
    );
  }
  if (format === 'raw' && found.size % 512 !== 0) {
    throw new CollectiveError(
      'bad-image',
      `${path} has ${String(found.size)} bytes, which is no multiple of 512: it is cut off, or no disk image.`,
    );
  }
  if (diskBytes < 512 || diskBytes % 512 !== 0) {
    throw new CollectiveError(
      'bad-image',
      `${path} says it has ${String(diskBytes)} bytes, which is no multiple of 512.`,
    );
  }
  if (CHECKABLE.has(format)) await checkImage(path, format, options.signal);
  const extents = await imageExtents({ path, format, diskBytes, fileBytes: found.size }, options.signal);
  if (format === 'raw') await checkPartitionTable(path, diskBytes);
  const usedBytes = extents.reduce((sum, extent) => sum + (extent.data ? extent.byteLength : 0), 0);
  return { path, format, diskBytes, extents, usedBytes, fileBytes: found.size, changedAtMs: found.mtimeMs };
}

/** Throws `bad-image` when the file is no longer the one that was looked at. */
export async function assertUnchanged(image: DiskImage): Promise<void> {
  const now = await stat(image.path).catch(() => undefined);
  if (now === undefined || now.size !== image.fileBytes || now.mtimeMs !== image.changedAtMs) {
    throw new CollectiveError(
      'bad-image',
      `${image.path} changed while it was being published. Stop what writes to it and publish again.`,
    );
  }
}

type ImageInfo = {
  readonly format: string;
  readonly diskBytes: number;
  readonly value: Readonly<Record<string, unknown>>;
};

async function imageInfo(
  path: string,
  options: { readonly format?: string; readonly signal?: AbortSignal },
): Promise<ImageInfo> {
  const formatArgs = options.format === undefined ? [] : ['-f', options.format];
  const result = await runProgram('qemu-img', ['info', '--output=json', ...formatArgs, path], signalOf(options.signal));
  if (result.exitCode !== 0) throw refused(path, result.stderr);
  const value: unknown = JSON.parse(result.stdout);
  if (!isRecord(value) || typeof value['format'] !== 'string' || typeof value['virtual-size'] !== 'number') {
    throw new CollectiveError('bad-image', `${path}: qemu-img says nothing that can be understood.`);
  }
  return { format: value['format'], diskBytes: value['virtual-size'], value };
}

function refuseReferences(path: string, info: ImageInfo): void {
  const { value, format } = info;
  const refuse = (what: string): never => {
    throw new CollectiveError(
      'bad-image',
      `${path} ${what}. Make it one file first: qemu-img convert -O qcow2 ${path} NEW.qcow2`,
    );
  };
  if (!FORMATS.has(format)) refuse(`has the format "${format}", which cannot be published`);
  if (value['encrypted'] === true) refuse('is encrypted');
  const backing = value['backing-filename'] ?? value['full-backing-filename'];
  if (backing !== undefined) refuse(`refers to a backing file (${String(backing)})`);
  const specific = isRecord(value['format-specific']) ? value['format-specific'] : {};
  const data = isRecord(specific['data']) ? specific['data'] : {};
  if (data['data-file'] !== undefined) refuse(`refers to an external data file (${String(data['data-file'])})`);
  if (data['corrupt'] === true) refuse('is marked as corrupt');
  if (Array.isArray(data['extents'])) {
    for (const extent of data['extents']) {
      const name = isRecord(extent) ? extent['filename'] : undefined;
      // QEMU prints the image's own name as it was given, or relative to it.
      if (typeof name === 'string' && name !== path) refuse(`refers to another file (${name})`);
    }
  }
}

async function checkImage(path: string, format: string, signal: AbortSignal | undefined): Promise<void> {
  const result = await runProgram('qemu-img', ['check', '--output=json', '-f', format, path], signalOf(signal));
  // 0 fine, 3 leaked clusters only (harmless), 63 the format has no check.
  if (result.exitCode === 0 || result.exitCode === 3 || result.exitCode === 63) return;
  throw refused(path, result.stderr);
}

/** What `qemu-img map` says, in order; its offsets into the file must lie inside the file. */
async function imageExtents(
  image: { readonly path: string; readonly format: string; readonly diskBytes: number; readonly fileBytes: number },
  signal: AbortSignal | undefined,
): Promise<ImageExtent[]> {
  const result = await runProgram(
    'qemu-img',
    ['map', '--output=json', '-f', image.format, image.path],
    signalOf(signal),
  );
  if (result.exitCode !== 0) throw refused(image.path, result.stderr);
  const list: unknown = JSON.parse(result.stdout);
  if (!Array.isArray(list) || list.length > EXTENTS_MAX)
    throw new CollectiveError('bad-image', `${image.path} is in too many pieces.`);
  const extents: ImageExtent[] = [];
  let end = 0;
  for (const entry of list) {
    if (!isRecord(entry)) continue;
    const { start, length, zero, offset } = entry;
    if (typeof start !== 'number' || typeof length !== 'number' || start !== end) {
      throw new CollectiveError(
        'bad-image',
        `${image.path}: its parts do not follow each other at byte ${String(end)}.`,
      );
    }
    end = start + length;
    const data = zero !== true;
    if (data && typeof offset === 'number' && offset + length > roundUp(image.fileBytes, 512)) {
      throw new CollectiveError(
        'bad-image',
        `${image.path} is cut off: byte ${String(start)} of the disk should be at byte ${String(offset)} of the file, which has ${String(image.fileBytes)}.`,
      );
    }
    const last = extents.at(-1);
    if (last !== undefined && last.data === data)
      extents[extents.length - 1] = { ...last, byteLength: last.byteLength + length };
    else extents.push({ byteOffset: start, byteLength: length, data });
  }
  if (end !== image.diskBytes)
    throw new CollectiveError(
      'bad-image',
      `${image.path}: its parts end at byte ${String(end)} of ${String(image.diskBytes)}.`,
    );
  return extents;
}

/** A raw image has no header that says how long it is, but a partition table does: one that ends behind the file was cut off. */
async function checkPartitionTable(path: string, diskBytes: number): Promise<void> {
  const file = await open(path, 'r');
  try {
    const head = Buffer.alloc(1024);
    const { bytesRead } = await file.read(head, 0, 1024, 0);
    if (bytesRead < 512 || head.readUInt16LE(510) !== 0xaa55) return;
    let endBytes = 0;
    if (bytesRead === 1024 && head.toString('latin1', 512, 520) === 'EFI PART') {
      endBytes = (Number(head.readBigUInt64LE(512 + 32)) + 1) * 512;
    } else {
      for (let slot = 446; slot < 510; slot += 16) {
        // A boot sector without a table has code here; an entry counts only when its status byte is legal.
        const status = head.readUInt8(slot);
        if ((status !== 0 && status !== 0x80) || head.readUInt8(slot + 4) === 0) continue;
        endBytes = Math.max(endBytes, (head.readUInt32LE(slot + 8) + head.readUInt32LE(slot + 12)) * 512);
      }
      // The same 66 bytes of a plain file system's boot sector are code: only a believable end is taken as one.
      if (endBytes > diskBytes * 1024) return;
    }
    if (endBytes > diskBytes) {
      throw new CollectiveError(
        'bad-image',
        `${path} is cut off: its partitions end at byte ${String(endBytes)}, the file has ${String(diskBytes)}.`,
      );
    }
  } finally {
    await file.close();
  }
}

function refused(path: string, stderr: string): CollectiveError {
  const said = stderr.trim().split('\n').slice(0, 3).join('; ').slice(0, 400);
  if (/Failed to get .* lock/.test(said))
    return new CollectiveError('in-use', `${path} is in use by another program (${said}).`);
  return new CollectiveError(
    'bad-image',
    `${path} cannot be read as a disk image: ${said || 'qemu-img gives no reason'}`,
  );
}

const roundUp = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;
const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const signalOf = (signal: AbortSignal | undefined): { signal?: AbortSignal } =>
  signal === undefined ? {} : { signal };
