/** What an overlay does when the local disk is full or fails. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasCode, type ErrorCode } from '@collective/shared';
import { FaultyFileSystem } from '../../storage/faulty-file-system.double.js';
import { LateDevice } from './late-device.double.js';
import { Overlay } from './overlay.js';

const DISK_BYTES = 1 << 20;
const withCode = (code: ErrorCode) => (error: unknown) => hasCode(error, code);

let folder: string;
let fileSystem: FaultyFileSystem;
let below: LateDevice;
let overlay: Overlay;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'overlay-faults-'));
  fileSystem = new FaultyFileSystem();
  below = new LateDevice(Buffer.alloc(DISK_BYTES, 1));
  overlay = await Overlay.open(fileSystem, join(folder, 'overlay'), below);
});
afterEach(async () => {
  fileSystem.fault = undefined;
  await overlay.close().catch(() => {});
  await rm(folder, { recursive: true });
});

const write = async (tag: number, byteOffset: number): Promise<void> => {
  const bytes = Buffer.alloc(4096, tag);
  if (!overlay.tryWrite(bytes, byteOffset)) await overlay.write(bytes, byteOffset);
  overlay.publishWrites();
};
const byteAt = async (byteOffset: number): Promise<number | undefined> => {
  const bytes = Buffer.alloc(1);
  await overlay.read(bytes, byteOffset);
  return bytes[0];
};

describe('Overlay on a disk that fails', () => {
  it('a full disk refuses the write, nothing of it is seen, and after room was made it goes on', async () => {
    fileSystem.fault = { pathEnd: '/data', call: 'write', code: 'disk-full' };
    await expect(write(2, 4096)).rejects.toSatisfy(withCode('disk-full'));
    await expect(overlay.trim(4096, 4096)).rejects.toSatisfy(withCode('disk-full'));
    expect(await byteAt(4096)).toBe(1);
    fileSystem.fault = undefined;
    await write(2, 4096);
    expect(await byteAt(4096)).toBe(2);
  });

  it('a live map that cannot be written fails publishing, and the next one brings the bits after all', async () => {
    fileSystem.fault = { pathEnd: '/live', call: 'write', code: 'disk-full' };
    await expect(write(2, 4096)).rejects.toSatisfy(withCode('disk-full'));
    fileSystem.fault = undefined;
    overlay.publishWrites();
    await overlay.abandon();
    overlay = await Overlay.open(fileSystem, join(folder, 'overlay'), below);
    expect(await byteAt(4096)).toBe(2);
  });

  it('a durable map without room fails the flush, and a later flush makes up for it', async () => {
    await write(2, 4096);
    fileSystem.fault = { pathEnd: '/durable', call: 'write', code: 'disk-full' };
    await expect(overlay.flush()).rejects.toSatisfy(withCode('disk-full'));
    fileSystem.fault = undefined;
    await overlay.flush();
    await overlay.abandon();
    fileSystem.bootId = () => Promise.resolve('another-boot');
    overlay = await Overlay.open(fileSystem, join(folder, 'overlay'), below);
    expect(await byteAt(4096)).toBe(2);
  });

  it('after a failed fdatasync flushes, writes and opening fail until the machine restarts: no later success may hide the loss', async () => {
    await write(2, 4096);
    await overlay.flush();
    await write(3, 8192);
    fileSystem.fault = { pathEnd: '/data', call: 'sync', code: 'local-io' };
    await expect(overlay.flush()).rejects.toSatisfy(withCode('local-io'));
    fileSystem.fault = undefined;
    await expect(overlay.flush()).rejects.toSatisfy(withCode('local-io'));
    await expect(write(4, 0)).rejects.toSatisfy(withCode('local-io'));
    await expect(overlay.close()).rejects.toSatisfy(withCode('local-io'));
    await expect(Overlay.open(fileSystem, join(folder, 'overlay'), below)).rejects.toSatisfy(withCode('local-io'));
    fileSystem.bootId = () => Promise.resolve('another-boot');
    overlay = await Overlay.open(fileSystem, join(folder, 'overlay'), below);
    expect(await byteAt(4096)).toBe(2);
    expect(await byteAt(8192)).toBe(1); // its data may be lost, and its bit was never made durable
    await write(5, 0);
    await overlay.flush();
  });

  it('an overlay whose layer is cut short or has a strange header is refused and the lock is let go', async () => {
    await overlay.close();
    const [layerId] = await fileSystem.list(join(folder, 'overlay', 'layers'));
    const path = join(folder, 'overlay', 'layers', layerId ?? '', 'durable');
    const file = await fileSystem.open(path, 'write');
    await file.write(Buffer.from('X'), 0);
    for (let attempt = 0; attempt < 2; attempt += 1) {
      await expect(Overlay.open(fileSystem, join(folder, 'overlay'), below)).rejects.toSatisfy(withCode('malformed'));
    }
    await file.write(Buffer.from('C'), 0);
    await file.setByteLength(100);
    await expect(Overlay.open(fileSystem, join(folder, 'overlay'), below)).rejects.toSatisfy(withCode('malformed'));
    await file.close();
  });

  /** What was seen: a sector of the file of sums could not be read, and the whole disk, which does without that file, could not be opened. */
  it('a file of sums that cannot be read is not believed, and the disk is opened without it', async () => {
    await write(2, 4096);
    const layerId = await overlay.seal();
    await write(3, 8192);
    await overlay.close();
    fileSystem.fault = { pathEnd: '/sums', call: 'read', code: 'local-io' };
    overlay = await Overlay.open(fileSystem, join(folder, 'overlay'), below);
    expect([await byteAt(4096), await byteAt(8192)]).toEqual([2, 3]);
    expect(overlay.isSummed(layerId, 0)).toBe(false);
  });
});
