/** The cache is closed while it gives space back. */
import { expect, it } from 'vitest';
import type { RandomFile } from '../../storage/file-system.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { eventually, settle } from '../testing/eventually.js';
import { temporaryFolder } from '../testing/local-cache.js';
import { ManualClock } from '../testing/manual-clock.js';
import { testDisk } from '../testing/test-disk.js';
import { requestFor } from '../testing/test-stores.js';
import { CacheWriter } from './cache-writer.js';

const BLOCK = 65_536;

/** The real disk, where holes are punched only when `proceed` says so. */
class SlowPunchFileSystem extends LocalFileSystem {
  readonly waiting: (() => void)[] = [];
  readonly closedPaths: string[] = [];

  override async open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
    const file = await super.open(path, mode);
    const zero = file.zero.bind(file);
    const close = file.close.bind(file);
    Object.defineProperty(file, 'zeroIsFast', { value: true }); // also where koffi is missing
    file.zero = async (byteOffset, byteLength, options) => {
      await new Promise<void>((resolve) => this.waiting.push(resolve));
      expect(this.closedPaths).not.toContain(path);
      await zero(byteOffset, byteLength, options);
    };
    file.close = async () => {
      this.closedPaths.push(path);
      await close();
    };
    return file;
  }
}

/**
 * What was seen: giving back took longer than the second between two looks at the space, the next look began beside it, and closing waited
 * for that one only. The first went on with the descriptor of a closed file, which by then may be that of a layer: punched out there.
 */
it('is not closed before all space that was being given back has been, however long that took', async () => {
  await using temporary = await temporaryFolder();
  const fileSystem = new SlowPunchFileSystem();
  const clock = new ManualClock();
  let freeBytes = 1 << 30;
  const writer = await CacheWriter.open(fileSystem, temporary.folder, {
    cacheBytesMax: 64 * BLOCK,
    reserveBytes: 1 << 20,
    clock,
    nowMs: () => clock.nowMs(),
    freeBytes: () => Promise.resolve(freeBytes),
  });
  const disk = testDisk({ diskBytes: 16 * BLOCK, blockBytes: BLOCK, noZeroes: true });
  for (const [digest, block] of disk.blocks) expect(await writer.fill(requestFor(digest), block)).toBe(true);
  freeBytes = (1 << 20) - 4 * BLOCK;
  clock.advance(1_000);
  await eventually('the first hole', () => fileSystem.waiting.length === 1);
  freeBytes = 1 << 30;
  clock.advance(1_000);
  await settle();
  let isClosed = false;
  const closing = writer.close().then(() => (isClosed = true));
  for (let turn = 0; turn < 20; turn += 1) await settle();
  expect(isClosed).toBe(false);
  while (!isClosed) {
    for (const proceed of fileSystem.waiting.splice(0)) proceed();
    await settle();
  }
  await closing;
});
