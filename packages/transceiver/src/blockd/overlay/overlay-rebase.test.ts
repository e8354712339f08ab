/** Layers become a committed state, and are looked at through views, while something still reads them. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasCode, sha256 } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import type { RandomFile } from '../../storage/file-system.js';
import { settle } from '../testing/eventually.js';
import { LateDevice } from './late-device.double.js';
import { Overlay } from './overlay.js';

/** The real disk; while `isSlow`, reads of layers' data have to wait, and wait for `proceed`. */
class SlowFileSystem extends LocalFileSystem {
  isSlow = false;
  readonly #waiting: (() => void)[] = [];

  get waitingCount(): number {
    return this.#waiting.length;
  }

  proceed(): void {
    this.isSlow = false;
    for (const proceed of this.#waiting.splice(0)) proceed();
  }

  override async open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
    const file = await super.open(path, mode);
    if (!path.endsWith('/data')) return file;
    const tryRead = file.tryRead.bind(file);
    const read = file.read.bind(file);
    file.tryRead = (target, byteOffset) => !this.isSlow && tryRead(target, byteOffset);
    file.read = async (target, byteOffset) => {
      if (this.isSlow) await new Promise<void>((resolve) => this.#waiting.push(resolve));
      await read(target, byteOffset);
    };
    return file;
  }
}

let folder: string;
let fileSystem: SlowFileSystem;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'overlay-rebase-'));
  fileSystem = new SlowFileSystem();
});
afterEach(() => rm(folder, { recursive: true }));

const BASE = sha256(Buffer.from('a base file'));
const isOver = (error: unknown): boolean => hasCode(error, 'shutting-down');

describe('Overlay that is rebased', () => {
  /**
   * What was seen: a fill was reading the rest of its granule from the layer when this was taken away. Only the reads of guests were waited
   * for, so the file was closed under the fill, its descriptor became another file's, and that one's bytes were written into the granule and marked.
   */
  it('waits for the fill that reads a layer which goes', async () => {
    const below = new LateDevice(Buffer.alloc(64 << 10));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    below.isAway = true; // the layer gets a granule that it holds in part: no sum would tell
    expect(overlay.tryWrite(Buffer.alloc(2048, 1), 0)).toBe(true);
    const layerId = await overlay.seal();
    below.isAway = false;
    const committed = new LateDevice(Buffer.from(below.content).fill(1, 0, 2048));
    fileSystem.isSlow = true;
    expect(overlay.tryWrite(Buffer.alloc(512, 2), 512)).toBe(true);
    await expect.poll(() => fileSystem.waitingCount).toBeGreaterThan(0);

    let isRebased = false;
    const rebasing = overlay.rebase(layerId, { base: BASE, below: committed }).then(() => (isRebased = true));
    await expect.poll(() => overlay.sealedLayerIds).toEqual([]);
    for (let turn = 0; turn < 20; turn += 1) await settle();
    const others: RandomFile[] = [];
    for (let count = 0; count < 8; count += 1) {
      const path = join(folder, `other-${count}`);
      await writeFile(path, Buffer.alloc(4096, 0xee));
      others.push(await fileSystem.open(path, 'read'));
    }
    const wasRebased = isRebased;
    fileSystem.proceed();
    await rebasing;
    const model = Buffer.alloc(4096).fill(1, 0, 2048).fill(2, 512, 1024);
    const granule = Buffer.alloc(4096);
    await expect
      .poll(() => {
        committed.isAway = true; // so that only the layer can answer
        return overlay.tryRead(granule, 0);
      })
      .toBe(true);
    expect(granule.equals(model)).toBe(true);
    expect(wasRebased).toBe(false);
    for (const other of others) await other.close();
    await overlay.close();
  });

  it('waits for a read of the device that was below, which reads what it would have read before', async () => {
    const below = new LateDevice(Buffer.alloc(16 << 10, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    expect(overlay.tryWrite(Buffer.alloc(4096, 2), 4096)).toBe(true);
    const layerId = await overlay.seal();
    below.isAway = true;
    const early = Buffer.alloc(16 << 10);
    const reading = overlay.read(early, 0);
    const content = Buffer.alloc(16 << 10, 1).fill(2, 4096, 8192);
    const committed = new LateDevice(content);
    let isRebased = false;
    const rebasing = overlay.rebase(layerId, { base: BASE, below: committed }).then(() => (isRebased = true));
    await expect.poll(() => overlay.base).toBe(BASE);
    for (let turn = 0; turn < 20; turn += 1) await settle();
    expect(isRebased).toBe(false);
    const late = Buffer.alloc(16 << 10);
    await expect.poll(() => overlay.tryRead(late, 0)).toBe(true); // of the new device: nothing of the old one answers
    expect(late.equals(content)).toBe(true);
    below.arrive();
    await Promise.all([reading, rebasing]);
    expect(early.equals(content)).toBe(true);
    below.content.fill(0xee); // nothing reads it any more
    below.isAway = true;
    await overlay.read(late, 0);
    expect(late.equals(content)).toBe(true);
    await overlay.close();
  });

  it('refuses the layer that takes writes, one that is not there, and a base of another size, and changes nothing', async () => {
    const below = new LateDevice(Buffer.alloc(16 << 10, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    const layerId = await overlay.seal();
    const [top] = (await fileSystem.list(join(folder, 'a', 'layers'))).filter((id) => id !== layerId);
    const to = { base: BASE, below: new LateDevice(Buffer.alloc(16 << 10)) };
    for (const id of [top ?? '', '0'.repeat(32)])
      await expect(overlay.rebase(id, to)).rejects.toSatisfy((error) => hasCode(error, 'not-found'));
    const short = { base: BASE, below: new LateDevice(Buffer.alloc(8 << 10)) };
    await expect(overlay.rebase(layerId, short)).rejects.toSatisfy((error) => hasCode(error, 'bad-image'));
    expect([overlay.base, overlay.sealedLayerIds]).toEqual([null, [layerId]]);
    await overlay.close();
    await expect(overlay.rebase(layerId, to)).rejects.toSatisfy(isOver);
  });

  it('goes on over the old device, with its layers, when the description cannot be written', async () => {
    const below = new LateDevice(Buffer.alloc(16 << 10, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    expect(overlay.tryWrite(Buffer.alloc(4096, 2), 0)).toBe(true);
    const layerId = await overlay.seal();
    await mkdir(join(folder, 'a', 'overlay.json.new', 'in the way'), { recursive: true });
    const remove = fileSystem.remove.bind(fileSystem);
    fileSystem.remove = (path) => (path.endsWith('.new') ? Promise.resolve() : remove(path));
    const committed = new LateDevice(Buffer.alloc(16 << 10, 1).fill(2, 0, 4096));
    await expect(overlay.rebase(layerId, { base: BASE, below: committed })).rejects.toThrow();
    const bytes = Buffer.alloc(8192);
    await overlay.read(bytes, 0);
    expect(bytes.equals(Buffer.alloc(8192, 1).fill(2, 0, 4096))).toBe(true);
    expect([overlay.base, overlay.sealedLayerIds]).toEqual([null, [layerId]]);
    fileSystem.remove = remove;
    await overlay.rebase(layerId, { base: BASE, below: committed });
    expect(overlay.base).toBe(BASE);
    await overlay.close();
  });

  it('is made over the base that the caller names, and finds it again', async () => {
    const path = join(folder, 'a');
    const named: (string | null)[] = [];
    const openBelow = (base: string | null) => {
      named.push(base);
      return Promise.resolve(new LateDevice(Buffer.alloc(8192, 1)));
    };
    await (await Overlay.open(fileSystem, path, openBelow, { newBase: BASE })).close();
    await (await Overlay.open(fileSystem, path, openBelow)).close();
    expect(named).toEqual([BASE, BASE]);
  });
});

describe('view of an overlay', () => {
  const seal = async (overlay: Overlay, tag: number, byteOffset: number): Promise<string> => {
    await overlay.write(Buffer.alloc(512, tag), byteOffset);
    return overlay.seal();
  };

  it('shows the disk up to its layer, whatever is written, trimmed and sealed afterwards', async () => {
    const below = new LateDevice(Buffer.alloc(16 << 10, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    const first = await seal(overlay, 2, 512);
    const second = await seal(overlay, 3, 4096);
    await overlay.write(Buffer.alloc(8192, 9), 0);
    await overlay.trim(8192, 8192);
    const content = Buffer.alloc(16 << 10, 1).fill(2, 512, 1024);
    for (const layerId of [first, second]) {
      if (layerId === second) content.fill(3, 4096, 4608);
      const view = await overlay.openView(layerId);
      const bytes = Buffer.alloc(16 << 10);
      await view.read(bytes, 0);
      expect(bytes.equals(content)).toBe(true);
      expect(view.tryRead(bytes.fill(0), 0)).toBe(true);
      expect(bytes.equals(content)).toBe(true);
      expect(view.extents(0, 16 << 10)).toEqual([{ byteLength: 16 << 10, kind: 'data' }]);
      await expect(view.write()).rejects.toSatisfy((error) => hasCode(error, 'read-only'));
      await view.close();
      await expect(view.read(bytes, 0)).rejects.toSatisfy(isOver);
    }
    await overlay.close();
  });

  it('ends with a rebase to its own layer, goes on over one further down, and ends with its overlay', async () => {
    const below = new LateDevice(Buffer.alloc(16 << 10, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    const first = await seal(overlay, 2, 512);
    const second = await seal(overlay, 3, 4096);
    const views = [await overlay.openView(first), await overlay.openView(second)] as const;
    const content = Buffer.alloc(16 << 10, 1).fill(2, 512, 1024);
    fileSystem.isSlow = true;
    const early = Buffer.alloc(4096);
    const reading = views[0].read(early, 0);
    await expect.poll(() => fileSystem.waitingCount).toBeGreaterThan(0);
    const rebasing = overlay.rebase(first, { base: BASE, below: new LateDevice(Buffer.from(content)) });
    await expect.poll(() => overlay.sealedLayerIds).toEqual([second]);
    below.content.fill(0xee); // only what began before may read it
    fileSystem.proceed();
    await Promise.all([reading, rebasing]);
    expect(early.subarray(512, 1024).every((byte) => byte === 2)).toBe(true);
    const bytes = Buffer.alloc(16 << 10);
    expect(views[0].tryRead(bytes, 0)).toBe(false);
    await expect(views[0].read(bytes, 0)).rejects.toSatisfy(isOver);
    await views[1].read(bytes, 0);
    expect(bytes.equals(content.fill(3, 4096, 4608))).toBe(true);
    await overlay.close();
    await expect(views[1].read(bytes, 0)).rejects.toSatisfy(isOver);
    await Promise.all(views.map((view) => view.close()));
  });

  it('of a layer that is not sealed, or not there, is refused', async () => {
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), new LateDevice(Buffer.alloc(8192)));
    const [top] = await fileSystem.list(join(folder, 'a', 'layers'));
    for (const layerId of [top ?? '', 'f'.repeat(32)])
      await expect(overlay.openView(layerId)).rejects.toSatisfy((error) => hasCode(error, 'not-found'));
    await overlay.close();
    await expect(overlay.openView(top ?? '')).rejects.toSatisfy(isOver);
  });

  it('asks the device below in the background: no guest waits for it', async () => {
    const asked: unknown[] = [];
    class AskedDevice extends LateDevice {
      override read(target: Buffer, byteOffset: number, options?: object): Promise<void> {
        asked.push(options);
        return super.read(target, byteOffset);
      }
    }
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), new AskedDevice(Buffer.alloc(8192, 1)));
    const view = await overlay.openView(await overlay.seal());
    await view.read(Buffer.alloc(4096), 0);
    expect(asked).toEqual([expect.objectContaining({ isBackground: true })]);
    await view.close();
    await overlay.close();
  });
});

describe('changed blocks', () => {
  it('are those that the layers up to that one touch, by any size of block, with what is trimmed and held in part', async () => {
    const diskBytes = (20 << 20) + 512;
    const below = new LateDevice(Buffer.alloc(diskBytes, 1));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    below.isAway = true;
    await overlay.write(Buffer.alloc(512, 2), 3 * 65_536 + 512);
    await overlay.write(Buffer.alloc(200 << 10, 2), 10 * 65_536 - 4096);
    await overlay.write(Buffer.alloc(512, 2), 20 << 20);
    const first = await overlay.seal();
    await overlay.trim(17 << 20, 4096);
    const second = await overlay.seal();
    await overlay.write(Buffer.alloc(4096, 3), 0);
    expect([...(await overlay.changedBlocks(first, 65_536))]).toEqual([3, 9, 10, 11, 12, 13, 320]);
    expect([...(await overlay.changedBlocks(second, 65_536))]).toEqual([3, 9, 10, 11, 12, 13, 272, 320]);
    expect([...(await overlay.changedBlocks(second, 1 << 20))]).toEqual([0, 17, 20]);
    expect([...(await overlay.changedBlocks(first, 4096))].slice(0, 3)).toEqual([48, 159, 160]);
    expect(await overlay.changedBlocks(first, 4096)).toHaveLength(1 + 50 + 1);
    below.isAway = false;
    await overlay.close();
  });
});
