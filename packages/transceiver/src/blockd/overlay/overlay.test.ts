import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasCode, sha256 } from '@collective/shared';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { LateDevice } from './late-device.double.js';
import { LayerStack } from './layer-stack.js';
import { Overlay } from './overlay.js';

/** The real disk of a machine that can be restarted (what was synced counts, as far as the maps say). */
class RestartableFileSystem extends LocalFileSystem {
  boots = 1;

  override bootId(): Promise<string> {
    return Promise.resolve(`boot-${this.boots}`);
  }
}

/** Every sector says where it belongs. */
const pattern = (byteLength: number, tag: number): Buffer => {
  const bytes = Buffer.alloc(byteLength);
  for (let at = 0; at + 8 <= byteLength; at += 8) {
    bytes.writeUInt32LE(at, at);
    bytes.writeUInt32LE(tag, at + 4);
  }
  return bytes;
};

const DISK_BYTES = 40 * 4096 + 1536; // the last granule is not whole

let folder: string;
let fileSystem: RestartableFileSystem;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'overlay-'));
  fileSystem = new RestartableFileSystem();
});
afterEach(() => rm(folder, { recursive: true }));

const readAll = async (overlay: Overlay): Promise<Buffer> => {
  const bytes = Buffer.alloc(overlay.byteLength);
  await overlay.read(bytes, 0);
  return bytes;
};

const writeNowOrLater = async (overlay: Overlay, bytes: Buffer, byteOffset: number): Promise<void> => {
  if (!overlay.tryWrite(bytes, byteOffset)) await overlay.write(bytes, byteOffset);
  overlay.publishWrites();
};

/** What a killed process leaves: everything is let go, nothing more is written. */
const kill = (overlay: Overlay): Promise<void> => overlay.abandon();

type Step =
  | {
      readonly kind: 'write';
      readonly start: number;
      readonly length: number;
      readonly tag: number;
      readonly away: boolean;
    }
  | { readonly kind: 'zero'; readonly start: number; readonly length: number; readonly keep: boolean }
  | { readonly kind: 'read'; readonly start: number; readonly length: number }
  | { readonly kind: 'flush' }
  | { readonly kind: 'reopen' }
  | { readonly kind: 'kill' }
  | { readonly kind: 'layer' }
  | { readonly kind: 'seal' };

const place = (unit: number): fc.Arbitrary<{ start: number; length: number }> =>
  fc
    .tuple(fc.integer({ min: 0, max: DISK_BYTES / unit - 1 }), fc.integer({ min: 1, max: (6 * 4096) / unit }))
    .map(([at, count]) => ({
      start: Math.floor(at) * unit,
      length: Math.min(count * unit, DISK_BYTES - Math.floor(at) * unit),
    }));
const anyPlace = fc.oneof(place(512), place(512), place(1), place(512), place(4));

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .record({ place: anyPlace, tag: fc.integer({ min: 1, max: 1e9 }), away: fc.boolean() })
      .map(({ place: p, tag, away }): Step => ({ kind: 'write', ...p, tag, away })),
  },
  {
    weight: 3,
    arbitrary: fc
      .record({ place: anyPlace, keep: fc.boolean() })
      .map(({ place: p, keep }): Step => ({ kind: 'zero', ...p, keep })),
  },
  { weight: 4, arbitrary: anyPlace.map((p): Step => ({ kind: 'read', ...p })) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step>(
      { kind: 'flush' },
      { kind: 'reopen' },
      { kind: 'kill' },
      { kind: 'layer' },
      { kind: 'seal' },
    ),
  },
);

/** Encrypted or not, it is the same disk. */
const anyKey = fc.constantFrom(
  undefined,
  Buffer.alloc(64, 'a key of sixty-four bytes, of which no two halves are the same. '),
);

describe('Overlay', () => {
  it('behaves like a buffer under any sequence of writes, zeroes, reads, kills and new layers, with a late disk below', async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), anyKey, async (steps, key) => {
        const path = join(folder, `run-${(run += 1)}`);
        const below = new LateDevice(pattern(DISK_BYTES, 0));
        below.content.fill(0, 8 * 4096, 12 * 4096);
        const model = Buffer.from(below.content);
        let overlay = await Overlay.open(fileSystem, path, below, { key });
        const late: Promise<void>[] = [];
        const settle = async (): Promise<void> => {
          below.arrive();
          await Promise.all(late.splice(0));
        };
        for (const s of steps) {
          switch (s.kind) {
            case 'write': {
              const bytes = pattern(s.length, s.tag);
              below.isAway = s.away;
              const isAligned = s.start % 512 === 0 && s.length % 512 === 0;
              const written = writeNowOrLater(overlay, bytes, s.start);
              // Whole sectors wait for nothing, even while the disk below is away.
              if (isAligned) await written;
              else {
                late.push(written);
                await settle();
              }
              bytes.copy(model, s.start);
              break;
            }
            case 'zero': {
              const zeroed = overlay.zero(s.start, s.length, { keepAllocated: s.keep });
              below.arrive();
              await zeroed;
              overlay.publishWrites();
              model.fill(0, s.start, s.start + s.length);
              break;
            }
            case 'read': {
              const target = Buffer.alloc(s.length, 0xee);
              if (!overlay.tryRead(target, s.start)) {
                const read = overlay.read(target, s.start);
                below.arrive();
                await read;
              }
              expect(target.equals(model.subarray(s.start, s.start + s.length))).toBe(true);
              break;
            }
            case 'flush':
              await overlay.flush();
              break;
            case 'kill':
              await settle();
              await kill(overlay);
              overlay = await Overlay.open(fileSystem, path, below, { key });
              break;
            case 'reopen':
              await settle();
              await overlay.close();
              fileSystem.boots += 1; // closed cleanly: a restart loses nothing
              overlay = await Overlay.open(fileSystem, path, below, { key });
              break;
            case 'seal':
              await settle();
              await overlay.seal();
              break;
            case 'layer':
              await settle();
              await overlay.close();
              await LayerStack.addLayer(fileSystem, path);
              overlay = await Overlay.open(fileSystem, path, below, { key });
              break;
            default:
              s satisfies never;
          }
        }
        await settle();
        expect((await readAll(overlay)).equals(model)).toBe(true);
        let covered = 0;
        for (const extent of overlay.extents(0, DISK_BYTES)) {
          if (extent.kind === 'hole')
            expect(model.subarray(covered, covered + extent.byteLength).every((b) => b === 0)).toBe(true);
          covered += extent.byteLength;
        }
        expect(covered).toBe(DISK_BYTES);
        await overlay.close();
        await rm(path, { recursive: true });
      }),
      { numRuns: 60 },
    );
  }, 120_000);

  it('after a restart of the machine every sector holds what was flushed or something written since', async () => {
    let run = 0;
    const write = fc.record({ place: place(512), tag: fc.integer({ min: 1, max: 1e9 }) });
    await fc.assert(
      fc.asyncProperty(
        fc.array(write, { maxLength: 30 }),
        fc.array(write, { maxLength: 30 }),
        fc.boolean(),
        anyKey,
        async (before, after, dies, key) => {
          const path = join(folder, `restart-${(run += 1)}`);
          const below = new LateDevice(pattern(DISK_BYTES, 0));
          let overlay = await Overlay.open(fileSystem, path, below, { key });
          const legal = new Map<number, Set<string>>();
          const model = Buffer.from(below.content);
          for (const { place: p, tag } of before) {
            const bytes = pattern(p.length, tag);
            await writeNowOrLater(overlay, bytes, p.start);
            bytes.copy(model, p.start);
          }
          if (dies) {
            // What a killed process wrote is as good as one's own: the flush of its successor covers it.
            await kill(overlay);
            overlay = await Overlay.open(fileSystem, path, below, { key });
          }
          await overlay.flush();
          const sectorText = (sector: number): string => model.toString('hex', sector * 512, sector * 512 + 512);
          for (let sector = 0; sector < DISK_BYTES / 512; sector += 1) legal.set(sector, new Set([sectorText(sector)]));
          for (const { place: p, tag } of after) {
            const bytes = pattern(p.length, tag);
            await writeNowOrLater(overlay, bytes, p.start);
            bytes.copy(model, p.start);
            for (let sector = p.start / 512; sector < (p.start + p.length) / 512; sector += 1)
              legal.get(sector)?.add(sectorText(sector));
          }
          await kill(overlay);
          fileSystem.boots += 1;
          const again = await Overlay.open(fileSystem, path, below, { key });
          const bytes = await readAll(again);
          for (let sector = 0; sector < DISK_BYTES / 512; sector += 1) {
            expect(legal.get(sector)?.has(bytes.toString('hex', sector * 512, sector * 512 + 512))).toBe(true);
          }
          await again.close();
          await rm(path, { recursive: true });
        },
      ),
      { numRuns: 30 },
    );
  }, 120_000);

  it('a sector is written while the disk below is away, and the rest of its granule follows when it is back', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    below.isAway = true;
    const sector = pattern(512, 5);
    expect(overlay.tryWrite(sector, 4096 + 512)).toBe(true);
    overlay.publishWrites();
    await overlay.flush(); // does not wait either
    const own = Buffer.alloc(512);
    expect(overlay.tryRead(own, 4096 + 512)).toBe(true);
    expect(own.equals(sector)).toBe(true);
    expect(overlay.tryRead(Buffer.alloc(4096), 4096)).toBe(false);
    await expect.poll(() => below.waitingCount).toBeGreaterThan(0);
    below.arrive();
    const whole = Buffer.alloc(4096);
    await expect
      .poll(() => {
        below.isAway = true;
        return overlay.tryRead(whole, 4096);
      })
      .toBe(true);
    expect(whole.subarray(0, 512).equals(below.content.subarray(4096, 4096 + 512))).toBe(true);
    expect(whole.subarray(512, 1024).equals(sector)).toBe(true);
    await overlay.close();
  });

  it('a part of a sector waits for the rest of it and keeps what a concurrent write put beside it', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    below.isAway = true;
    const first = Buffer.alloc(100, 1);
    const second = Buffer.alloc(100, 2);
    expect(overlay.tryWrite(first, 0)).toBe(false);
    const writes = Promise.all([overlay.write(first, 0), overlay.write(second, 100)]);
    below.arrive();
    await writes;
    const sector = Buffer.alloc(512);
    await overlay.read(sector, 0);
    expect(sector.equals(Buffer.concat([first, second, below.content.subarray(200, 512)]))).toBe(true);
    await overlay.close();
  });

  it('asks below for the rest of a granule in the background, and for the rest of a sector as one who waits', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const asked: (boolean | undefined)[] = [];
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    below.isAway = true;
    const read = below.read.bind(below);
    below.read = (target, byteOffset, options) => {
      asked.push(options?.isBackground);
      return read(target, byteOffset, options);
    };
    expect(overlay.tryWrite(pattern(512, 1), 4096)).toBe(true);
    await expect.poll(() => asked).toEqual([true]);
    const write = overlay.write(Buffer.alloc(100), 8192);
    await expect.poll(() => asked).toEqual([true, undefined]);
    below.arrive();
    await write;
    await overlay.close();
  });

  it('is sealed while writes are under way: what had begun ends below, what begins goes above, and nobody waits', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    await writeNowOrLater(overlay, pattern(4096, 1), 0);
    await writeNowOrLater(overlay, pattern(512, 1), 4096);
    below.isAway = true;
    const late = overlay.write(Buffer.alloc(100, 7), 8192); // needs the rest of its sector
    let isSealed = false;
    const sealing = overlay.seal().then((layerId) => {
      isSealed = true;
      return layerId;
    });
    await expect.poll(() => overlay.sealedLayerIds.length).toBe(1);
    expect(overlay.tryWrite(pattern(4096, 2), 0)).toBe(true); // the guest goes on
    await overlay.write(pattern(512, 2), 4096 + 512);
    overlay.publishWrites();
    expect(isSealed).toBe(false);
    below.arrive();
    await late;
    const layerId = await sealing;
    expect(overlay.sealedLayerIds).toEqual([layerId]);

    const stack = new Map((await fileSystem.list(join(folder, 'a', 'layers'))).map((id) => [id, id === layerId]));
    expect([...stack.values()].sort()).toEqual([false, true]);
    const sealedData = await fileSystem.open(join(folder, 'a', 'layers', layerId, 'data'), 'read');
    const sealedBytes = Buffer.alloc(8192 + 512);
    await sealedData.read(sealedBytes, 0);
    await sealedData.close();
    expect(sealedBytes.subarray(0, 4096).equals(pattern(4096, 1))).toBe(true);
    expect(sealedBytes.subarray(8192, 8192 + 100).every((byte) => byte === 7)).toBe(true);

    const model = Buffer.from(below.content);
    pattern(4096, 2).copy(model, 0);
    pattern(512, 1).copy(model, 4096);
    pattern(512, 2).copy(model, 4096 + 512);
    model.fill(7, 8192, 8192 + 100);
    expect((await readAll(overlay)).equals(model)).toBe(true);

    const to = { base: sha256(model), below: new LateDevice(Buffer.from(model)) };
    await expect(overlay.rebase('0'.repeat(32), to)).rejects.toSatisfy((error) => hasCode(error, 'not-found'));
    await overlay.rebase(layerId, to);
    expect(await fileSystem.list(join(folder, 'a', 'layers'))).toHaveLength(1);
    expect((await readAll(overlay)).equals(model)).toBe(true);
    await overlay.close();
    const again = await Overlay.open(fileSystem, join(folder, 'a'), (base) => {
      expect(base).toBe(to.base);
      return Promise.resolve(to.below);
    });
    expect((await readAll(again)).equals(model)).toBe(true);
    expect(again.sealedLayerIds).toEqual([]);
    await again.close();
  });

  it('a second process (or a second open) is refused with in-use', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    await expect(Overlay.open(fileSystem, join(folder, 'a'), below)).rejects.toSatisfy((error) =>
      hasCode(error, 'in-use'),
    );
    await overlay.close();
    await (await Overlay.open(fileSystem, join(folder, 'a'), below)).close();
  });

  it('an overlay of another size is refused and stays as it is', async () => {
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), new LateDevice(Buffer.alloc(8192)));
    await overlay.close();
    const other = Overlay.open(fileSystem, join(folder, 'a'), new LateDevice(Buffer.alloc(4096)));
    await expect(other).rejects.toSatisfy((error) => hasCode(error, 'bad-image'));
  });

  it('layers without their description are damage: nothing is made or removed', async () => {
    const below = new LateDevice(pattern(DISK_BYTES, 0));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    await writeNowOrLater(overlay, pattern(4096, 1), 0);
    await overlay.close();
    await rm(join(folder, 'a', 'overlay.json'));
    await expect(Overlay.open(fileSystem, join(folder, 'a'), below)).rejects.toSatisfy((error) =>
      hasCode(error, 'malformed'),
    );
    expect(await fileSystem.list(join(folder, 'a', 'layers'))).toHaveLength(1);
  });

  it('a trim of what reads as zeroes below marks nothing, and one of data gives its space back', async () => {
    const below = new LateDevice(Buffer.alloc(1 << 20));
    const overlay = await Overlay.open(fileSystem, join(folder, 'a'), below);
    await overlay.trim(0, 1 << 20);
    expect(overlay.extents(0, 1 << 20)).toEqual([{ byteLength: 1 << 20, kind: 'hole' }]);
    await writeNowOrLater(overlay, pattern(1 << 20, 3), 0);
    await overlay.flush();
    const [layerId] = await fileSystem.list(join(folder, 'a', 'layers'));
    const data = join(folder, 'a', 'layers', layerId ?? '', 'data');
    const full = (await stat(data)).blocks;
    await overlay.trim(65_536, 524_288);
    expect((await readAll(overlay)).subarray(65_536, 589_824).every((byte) => byte === 0)).toBe(true);
    if (overlay.zeroIsFast) expect((await stat(data)).blocks).toBeLessThan(full);
    await overlay.close();
  });
});
