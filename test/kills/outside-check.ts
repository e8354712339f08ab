/**
 * What a stopped guest left on its disks, judged from outside by programs that are not ours and by what the disks were made
 * from: e2fsck, debugfs and md5sums of the packages, what fio writes sector by sector, fio itself.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { run, runOrThrow } from '../support/child.js';
import { FIO_PATTERN_BYTES, fioSeedBytes } from './workload.js';

export const SECTOR_BYTES = 512;
const PARTITION_OFFSET = 1 << 20;
const FIO_BLOCK_BYTES_MAX = 32_768;
const FIO_MARK = fioSeedBytes(0).subarray(0, 4);

/** Fails with what e2fsck says when the file system is not clean. `offset`: of a partition, in bytes. */
export const fileSystemIsClean = async (file: string, offset = 0): Promise<void> => {
  const { code, stdout, stderr } = await run('/sbin/e2fsck', ['-fn', `${file}?offset=${offset}`]);
  if (code !== 0) throw new Error(`e2fsck of ${path.basename(file)} ended with ${code}\n${stdout}\n${stderr}`);
};

/** The packages of the shelf that dpkg in the image takes for installed. */
const installedPackages = async (root: string, shelfContents: string): Promise<Set<string>> => {
  const shelf = new Set(shelfContents.split('\n').map((line) => line.split('  ')[0] ?? ''));
  const status = await readFile(path.join(root, 'var/lib/dpkg/status'), 'utf8');
  const installed = status
    .split('\n\n')
    .filter((entry) => /^Status: install ok installed$/m.test(entry))
    .map((entry) => /^Package: (.*)$/m.exec(entry)?.[1] ?? '');
  const broken = status.split('\n\n').filter((entry) => /^Status: .* (half-|unpacked|triggers-)/m.test(entry));
  if (broken.length > 0) throw new Error(`half-installed packages:\n${broken.join('\n\n')}`);
  return new Set(installed.filter((name) => shelf.has(name)));
};

/** Debian's folders of old lie in /usr. */
const merged = (file: string): string => file.replace(/^\/(bin|sbin|lib|lib32|lib64|libx32)\//, '/usr/$1/');

/**
 * Every file of every package that is installed from the shelf has the bytes that its .deb has. Gives what was compared.
 * `image`: the disk with the partition at 1 MiB.
 */
export const installedFilesAreRight = async (
  image: string,
  shelfContents: string,
): Promise<{ readonly packages: number; readonly files: number }> => {
  const root = `${image}.files`;
  await mkdir(root);
  try {
    // debugfs reports what it could not read on stderr and ends with 0.
    const { stderr } = await runOrThrow(
      '/sbin/debugfs',
      ['-R', `rdump / ${root}`, `${image}?offset=${PARTITION_OFFSET}`],
      {
        timeoutMs: 600_000,
      },
    );
    const installed = await installedPackages(root, shelfContents);
    const wrong: string[] = [];
    let files = 0;
    for (const line of shelfContents.split('\n')) {
      const [name = '', md5 = '', ...rest] = line.split('  ');
      if (!installed.has(name)) continue;
      const file = rest.join('  ');
      files += 1;
      const bytes = await readFile(path.join(root, merged(file))).catch(() => undefined);
      if (bytes === undefined) wrong.push(`${name}: ${file} is missing`);
      else if (createHash('md5').update(bytes).digest('hex') !== md5) wrong.push(`${name}: ${file} differs`);
    }
    if (wrong.length > 0)
      throw new Error(`${wrong.length} of ${files} files: ${wrong.slice(0, 20).join('; ')}\n${stderr.slice(0, 2_000)}`);
    return { packages: installed.size, files };
  } finally {
    await rm(root, { recursive: true, force: true });
  }
};

/** Whether a sector is whole and was written for this place by a pass of fio (workload.ts says what those write). */
export const isFioSector = (sector: Buffer, offset: number): boolean => {
  const pattern = sector.subarray(0, FIO_PATTERN_BYTES);
  const blockOffset = Number(pattern.readBigUInt64LE(8));
  return (
    pattern.subarray(0, 4).equals(FIO_MARK) &&
    blockOffset <= offset &&
    offset < blockOffset + FIO_BLOCK_BYTES_MAX &&
    sector.equals(Buffer.alloc(SECTOR_BYTES, pattern))
  );
};

/** Every sector is one that fio wrote there, or what the disk began as (`undefined`: zeroes). Gives how many of each. */
export const sectorsAreWhole = async (
  file: string,
  began: Buffer | undefined,
): Promise<{ readonly written: number; readonly untouched: number }> => {
  const zero = Buffer.alloc(SECTOR_BYTES);
  const piece = Buffer.alloc(1 << 20);
  await using handle = await open(file);
  const tally = { written: 0, untouched: 0 };
  const wrong: number[] = [];
  for (let at = 0; ;) {
    const { bytesRead } = await handle.read(piece, 0, piece.length, at);
    if (bytesRead === 0) break;
    for (let inPiece = 0; inPiece < bytesRead; inPiece += SECTOR_BYTES) {
      const offset = at + inPiece;
      const sector = piece.subarray(inPiece, inPiece + SECTOR_BYTES);
      if (sector.equals(began?.subarray(offset, offset + SECTOR_BYTES) ?? zero)) tally.untouched += 1;
      else if (isFioSector(sector, offset)) tally.written += 1;
      else wrong.push(offset);
    }
    at += bytesRead;
  }
  if (wrong.length > 0)
    throw new Error(
      `${wrong.length} sectors of ${path.basename(file)} are neither: at ${wrong.slice(0, 10).join(', ')}`,
    );
  return tally;
};
