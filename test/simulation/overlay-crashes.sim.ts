/**
 * Power cuts and kills at every single call of the disk during each step of an overlay that changes what lies on disk, with many remainders each.
 * What the random histories of overlay.sim.ts found is told here as a story of its own.
 */
import { hasCode, sha256 } from '@collective/shared';
import { Overlay } from '@collective/transceiver';
import { describe, expect, it } from 'vitest';
import { SimulatedBelow } from './overlay-below.js';
import { Random } from './random.js';
import { SimulatedDisk } from './simulated-disk.js';
import { SimulatedFileSystem } from './simulated-file-system.js';

const FOLDER = '/home/overlay';
const DISK_BYTES = 64 << 10;
/** Remainders that are tried for each call. */
const SEEDS = 4;
/** Some thousand lives of an overlay; the machine may be busy. */
const TIMEOUT_MS = 180_000;

type Scene = {
  readonly disk: SimulatedDisk;
  readonly below: SimulatedBelow;
  readonly random: Random;
  /** Of half of them. */
  readonly key: Buffer | undefined;
};

const newScene = (seed: number): Scene => {
  const random = new Random(seed);
  const disk = new SimulatedDisk({ random: random.fork(), tornPageProbability: 0.5 });
  const process = disk.newProcess();
  process.mkdir('/home');
  process.fsyncFolder('/');
  const below = new SimulatedBelow(Buffer.alloc(DISK_BYTES, 1), random.fork());
  const key = random.chance(0.5) ? Buffer.from(Array.from({ length: 64 }, () => random.int(256))) : undefined;
  return { disk, below, random, key };
};
const open = ({ disk, below, random, key }: Scene): Promise<Overlay> =>
  Overlay.open(new SimulatedFileSystem(disk, random), FOLDER, below, { key });
const put = async (overlay: Overlay, tag: number, granule: number): Promise<void> => {
  await overlay.write(Buffer.alloc(4096, tag), granule * 4096);
  overlay.publishWrites();
};
const tags = async (overlay: Overlay): Promise<number[]> => {
  const bytes = Buffer.alloc(DISK_BYTES);
  await overlay.read(bytes, 0);
  return Array.from({ length: DISK_BYTES / 4096 }, (_, granule) => {
    const part = bytes.subarray(granule * 4096, granule * 4096 + 4096);
    expect(part.every((byte) => byte === part[0])).toBe(true);
    return part[0] ?? -1;
  });
};
/** The disk's tags where 1 is what lies below. */
const disk = (changes: Readonly<Record<number, number>>): number[] =>
  Array.from({ length: DISK_BYTES / 4096 }, (_, granule) => changes[granule] ?? 1);

/**
 * Runs `step` again and again on a scene that `prepare` made, ending it at its first call of the disk, its second, and so on until it is not
 * ended any more; `check` sees what is left after each. `isPowerCut`: else kill -9.
 */
const atEveryCall = async (
  prepare: (scene: Scene) => Promise<Overlay | undefined>,
  step: (scene: Scene, overlay: Overlay | undefined) => Promise<unknown>,
  check: (scene: Scene) => Promise<void>,
  ends: readonly ('kill' | 'cut')[] = ['kill', 'cut'],
): Promise<number> => {
  let places = 0;
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    for (const end of ends) {
      let wasEnded = true;
      for (let place = 1; wasEnded; place += 1) {
        wasEnded = false;
        const scene = newScene(seed * 1000 + place);
        const overlay = await prepare(scene);
        let left = place;
        scene.disk.fault = () => {
          if ((left -= 1) !== 0) return undefined;
          wasEnded = true;
          if (end === 'cut') scene.disk.powerCut();
          else scene.disk.crash();
          return undefined;
        };
        await step(scene, overlay).catch((error: unknown) => {
          if (!wasEnded) throw error;
        });
        scene.disk.fault = undefined;
        if (!wasEnded) scene.disk.crash();
        await overlay?.abandon().catch(() => {});
        try {
          await check(scene);
        } catch (error) {
          throw new Error(`after a ${end} at call ${place}, seed ${seed}: ${String(error)}`, { cause: error });
        }
        places += 1;
      }
    }
  }
  return places;
};

/** Whether the promise has ended by now. */
const isSettled = (promise: Promise<unknown>): Promise<boolean> =>
  Promise.race([
    promise.then(
      () => true,
      () => true,
    ),
    new Promise<boolean>((resolve) => setImmediate(() => resolve(false))),
  ]);

describe('an overlay that is ended at every call of the disk', { timeout: TIMEOUT_MS }, () => {
  it('while it is made: it opens, and what is flushed then survives', async () => {
    const places = await atEveryCall(
      () => Promise.resolve(undefined),
      (scene) => open(scene),
      async (scene) => {
        const overlay = await open(scene);
        await put(overlay, 2, 3);
        await overlay.flush();
        scene.disk.powerCut();
        await overlay.abandon().catch(() => {});
        const again = await open(scene);
        expect(await tags(again)).toEqual(disk({ 3: 2 }));
        await again.close();
      },
    );
    expect(places).toBeGreaterThan(SEEDS * 2 * 20);
  });

  it('while it flushes: a successor that flushes what it finds has made it durable', async () => {
    // A map that a killed process had written without syncing it was taken for durable: the flush of the next one skipped it.
    await atEveryCall(
      async (scene) => {
        const overlay = await open(scene);
        await put(overlay, 2, 3);
        return overlay;
      },
      (_, overlay) => overlay?.flush() ?? Promise.resolve(),
      async (scene) => {
        const overlay = await open(scene);
        expect(await tags(overlay)).toEqual(disk({ 3: 2 }));
        await overlay.flush();
        scene.disk.powerCut();
        await overlay.abandon().catch(() => {});
        const again = await open(scene);
        expect(await tags(again)).toEqual(disk({ 3: 2 }));
        await again.close();
      },
      ['kill'],
    );
  });

  it('while it seals: what was flushed is there, and a successor can seal', async () => {
    await atEveryCall(
      async (scene) => {
        const overlay = await open(scene);
        await put(overlay, 2, 3);
        await overlay.flush();
        return overlay;
      },
      async (_, overlay) => {
        await overlay?.seal();
        if (overlay !== undefined) await put(overlay, 3, 4);
      },
      async (scene) => {
        const overlay = await open(scene);
        const found = await tags(overlay);
        expect([1, 3]).toContain(found[4]);
        expect({ ...found, 4: 1 }).toEqual({ ...disk({ 3: 2 }) });
        const before = overlay.sealedLayerIds.length;
        await overlay.seal();
        expect(overlay.sealedLayerIds).toHaveLength(before + 1);
        await overlay.close();
      },
    );
  });

  it('while it seals beside a writer, and another write waits for the link: no acknowledged write is lost', async () => {
    let acknowledged: number[] = [];
    await atEveryCall(
      (scene) => open(scene),
      async (scene, overlay) => {
        acknowledged = [];
        if (overlay === undefined) return;
        scene.below.link = 'down';
        // It keeps the sealed layer from being finished, and with it what was under way at the cut.
        const late = overlay.write(Buffer.alloc(100, 9), 15 * 4096 + 10).catch(() => {});
        const sealing = overlay.seal();
        for (let granule = 0; granule < 14 && !(await isSettled(sealing)); granule += 1) {
          await put(overlay, 2, granule);
          acknowledged.push(granule);
        }
        await late;
        await sealing;
      },
      async (scene) => {
        scene.below.link = 'near';
        const found = await open(scene);
        const bytes = Buffer.alloc(15 * 4096);
        await found.read(bytes, 0);
        for (const granule of acknowledged) expect(bytes[granule * 4096]).toBe(2);
        await found.close();
      },
      ['kill'],
    );
  });

  it('while it is rebased: the disk reads the same, over the old state or the new, and no space is left behind', async () => {
    const base = sha256(Buffer.from('the new state'));
    const contents = new WeakMap<Scene, Buffer>();
    const found = new Set<string | null>();
    const openOver = (scene: Scene): Promise<Overlay> =>
      Overlay.open(
        new SimulatedFileSystem(scene.disk, scene.random),
        FOLDER,
        (named) => {
          const content = contents.get(scene);
          const below =
            named === base && content !== undefined ? new SimulatedBelow(content, scene.random) : scene.below;
          return Promise.resolve(below);
        },
        { key: scene.key },
      );
    await atEveryCall(
      async (scene) => {
        const overlay = await openOver(scene);
        await put(overlay, 2, 3);
        await overlay.seal();
        await put(overlay, 3, 4);
        await put(overlay, 3, 5);
        await overlay.seal();
        await put(overlay, 4, 5);
        await overlay.flush();
        const content = Buffer.from(scene.below.content);
        content.fill(2, 3 * 4096, 4 * 4096).fill(3, 4 * 4096, 6 * 4096);
        contents.set(scene, content);
        return overlay;
      },
      async (scene, overlay) => {
        const below = new SimulatedBelow(contents.get(scene) ?? Buffer.alloc(0), scene.random);
        await overlay?.rebase(overlay.sealedLayerIds[1] ?? '', { base, below });
      },
      async (scene) => {
        const overlay = await openOver(scene);
        expect(await tags(overlay)).toEqual(disk({ 3: 2, 4: 3, 5: 4 }));
        found.add(overlay.base);
        expect([overlay.base, overlay.sealedLayerIds.length]).toEqual(overlay.base === null ? [null, 2] : [base, 0]);
        const layers = [...scene.disk.tree().keys()].filter((path) => /layers\/[^/]*$/.test(path));
        expect(layers).toHaveLength(1 + overlay.sealedLayerIds.length);
        await overlay.close();
      },
    );
    expect(found).toEqual(new Set([null, base]));
  });
});

describe('an overlay whose disk fails a sync', { timeout: TIMEOUT_MS }, () => {
  it('does not read a layer any more whose data may have left the memory unwritten', async () => {
    // Seen with a page that the failed sync dropped: the acknowledged write read as what was there before, without an error.
    for (let seed = 1; seed <= 20; seed += 1) {
      const scene = newScene(seed);
      const overlay = await open(scene);
      await put(overlay, 2, 3);
      await overlay.flush();
      await put(overlay, 3, 3);
      scene.disk.fault = (call, path) => (call === 'sync' && path.endsWith('/data') ? 'EIO' : undefined);
      const isLocal = (error: unknown): boolean => hasCode(error, 'local-io');
      await expect(overlay.flush()).rejects.toSatisfy(isLocal);
      scene.disk.fault = undefined;
      const bytes = Buffer.alloc(4096);
      expect(overlay.tryRead(bytes, 3 * 4096)).toBe(false);
      await expect(overlay.read(bytes, 3 * 4096)).rejects.toSatisfy(isLocal);
      await overlay.read(bytes, 0); // what lies below is as good as ever
      scene.disk.powerCut();
      await overlay.abandon().catch(() => {});
      const again = await open(scene);
      expect([2, 3]).toContain((await tags(again))[3]);
      await again.close();
    }
  });
});
