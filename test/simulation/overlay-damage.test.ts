/** Bits that flip in a layer's data on its medium while the disk is in use, or between two clean lives of it: right bytes or an error, never others. */
import { hasCode } from '@collective/shared';
import { faultOfRequest, Overlay } from '@collective/transceiver';
import { beforeEach, describe, expect, it } from 'vitest';
import { SimulatedBelow } from './overlay-below.js';
import { Random } from './random.js';
import { SimulatedDisk } from './simulated-disk.js';
import { SimulatedFileSystem } from './simulated-file-system.js';

const FOLDER = '/home/overlay';
const GRANULE = 4096;
/** The last granule has three sectors. */
const DISK_BYTES = 20 * GRANULE + 1536;
const LAST = 20;
const KEYS = [
  ['plain', undefined],
  ['encrypted', Buffer.alloc(64, 'a key of sixty-four bytes, of which no two halves are the same. ')],
] as const;

let disk: SimulatedDisk;
let below: SimulatedBelow;
let overlay: Overlay;
let key: Buffer | undefined;
/** What the disk must read as. */
let model: Buffer;

const open = async (): Promise<void> => {
  const fileSystem = new SimulatedFileSystem(disk, new Random(1), { refusedTryProbability: 0 });
  overlay = await Overlay.open(fileSystem, FOLDER, below, { key });
};
/** All folders of the layers, oldest first. */
const dataOf = (layerId?: string): string => {
  const paths = [...disk.tree().keys()].filter((path) => path.endsWith('/data') && path.includes(layerId ?? ''));
  const path = paths.at(-1);
  if (path === undefined) throw new Error('there is no layer');
  return path;
};
const write = async (
  byteOffset: number,
  byteLength: number,
  tag: number,
  way: 'now' | 'later' = 'now',
): Promise<void> => {
  const bytes = Buffer.alloc(byteLength, tag);
  if (way === 'now') expect(overlay.tryWrite(bytes, byteOffset)).toBe(true);
  else await overlay.write(bytes, byteOffset);
  overlay.publishWrites();
  bytes.copy(model, byteOffset);
};
const read = async (byteOffset: number, byteLength: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(byteLength);
  if (!overlay.tryRead(bytes, byteOffset)) await overlay.read(bytes, byteOffset);
  return bytes;
};
const expectRight = async (byteOffset = 0, byteLength = DISK_BYTES): Promise<void> => {
  expect((await read(byteOffset, byteLength)).equals(model.subarray(byteOffset, byteOffset + byteLength))).toBe(true);
};
const expectDamaged = async (work: Promise<unknown>): Promise<void> => {
  const error: unknown = await work.then(
    () => new Error('nothing was noticed'),
    (reason: unknown) => reason,
  );
  expect(hasCode(error, 'local-io'), String(error)).toBe(true);
  expect(faultOfRequest(error)).toBe('layer-damaged');
};
/** One bit of the data flips on the medium, and what was in memory leaves it. */
const decay = async (byteOffset: number, path = dataOf()): Promise<void> => {
  await overlay.flush();
  disk.flipBit(path, byteOffset, 3);
  disk.dropPages();
};
/** The bit flips back. */
const heal = (byteOffset: number, path = dataOf()): void => {
  disk.flipBit(path, byteOffset, 3);
  disk.dropPages();
};

const makeDisk = async (): Promise<void> => {
  disk = new SimulatedDisk({ random: new Random(1) });
  const process = disk.newProcess();
  process.mkdir('/home');
  process.fsyncFolder('/');
  model = Buffer.alloc(DISK_BYTES, 1);
  below = new SimulatedBelow(Buffer.from(model), new Random(1));
  await open();
};

describe.each(KEYS)('a bit that flips in the %s data of a layer on the medium', (_kind, diskKey) => {
  beforeEach(async () => {
    key = diskKey;
    await makeDisk();
  });
  const writes: readonly (readonly [string, () => Promise<void>, number])[] = [
    ['one granule at once', () => write(0, GRANULE, 2), 100],
    ['one granule with waiting', () => write(0, GRANULE, 2, 'later'), 100],
    ['several granules at once', () => write(0, 4 * GRANULE, 2), 3 * GRANULE + 7],
    ['several granules with waiting', () => write(0, 4 * GRANULE, 2, 'later'), 3 * GRANULE + 7],
    ['the disk’s last granule', () => write(LAST * GRANULE, 1536, 2), LAST * GRANULE + 1535],
    [
      'a part of a granule at once, the part',
      async () => {
        await write(0, GRANULE, 2);
        await write(512, 512, 3);
      },
      600,
    ],
    [
      'a part of a granule at once, the rest',
      async () => {
        await write(0, GRANULE, 2);
        await write(512, 512, 3);
      },
      1024,
    ],
    [
      'a part of a granule with waiting',
      async () => {
        await write(0, GRANULE, 2);
        await write(512, 512, 3, 'later');
      },
      100,
    ],
    [
      'granules of which the first and the last in part, the first',
      async () => {
        await write(0, 4 * GRANULE, 2);
        await write(512, 3 * GRANULE, 3);
      },
      5,
    ],
    [
      'granules of which the first and the last in part, the last',
      async () => {
        await write(0, 4 * GRANULE, 2);
        await write(512, 3 * GRANULE, 3, 'later');
      },
      3 * GRANULE + 4000,
    ],
    [
      'zeroes',
      async () => {
        await write(0, 4 * GRANULE, 2);
        await overlay.zero(0, 2 * GRANULE, { keepAllocated: true });
        model.fill(0, 0, 2 * GRANULE);
      },
      GRANULE + 1,
    ],
    [
      'a trimmed granule',
      async () => {
        await write(0, 4 * GRANULE, 2);
        await overlay.trim(0, 2 * GRANULE);
        model.fill(0, 0, 2 * GRANULE);
      },
      GRANULE + 1,
    ],
    [
      'zeroes in the disk’s last granule',
      async () => {
        await write(LAST * GRANULE, 1536, 2);
        await overlay.zero(LAST * GRANULE, 1536);
        model.fill(0, LAST * GRANULE);
      },
      LAST * GRANULE + 1,
    ],
  ];
  it.each(writes)('is not served after %s, and is right again when it flips back', async (_name, change, at) => {
    await change();
    await decay(at);
    await expectDamaged(read(at - (at % 512), 512)); // what is served is read whole and compared, however little is wanted
    await expectDamaged(read(at, 1));
    await expectDamaged(read(0, DISK_BYTES));
    const whole = Math.floor(at / GRANULE) * GRANULE;
    await expectDamaged(read(whole, Math.min(GRANULE, DISK_BYTES - whole)));
    heal(at);
    await expectRight();
  });

  it('is noticed in a granule that was completed from below', async () => {
    below.link = 'down';
    await overlay.write(Buffer.alloc(512, 2), 512);
    model.fill(2, 512, 1024);
    overlay.publishWrites();
    below.link = 'near';
    const id = (): string => /layers\/([0-9a-f]+)/.exec(dataOf())?.[1] ?? '';
    await expect.poll(() => overlay.isSummed(id(), 0), { timeout: 20_000 }).toBe(true);
    await decay(600);
    await expectDamaged(read(0, GRANULE));
    heal(600);
    await expectRight();
  });

  it('does not get a sum by a write of another part of its granule, which is refused; one of the whole granule makes it good', async () => {
    await write(0, GRANULE, 2);
    await decay(100);
    expect(overlay.tryWrite(Buffer.alloc(512, 3), 1024)).toBe(false);
    await expectDamaged(overlay.write(Buffer.alloc(512, 3), 1024));
    await read(0, 512).catch(() => undefined); // its pages are in memory now
    expect(overlay.tryWrite(Buffer.alloc(512, 3), 1024)).toBe(false);
    await expectDamaged(overlay.write(Buffer.alloc(512, 3), 1024));
    await expectDamaged(read(0, GRANULE));
    await write(0, GRANULE, 4);
    await expectRight();
    await write(1024, 512, 5);
    await expectRight();
  });

  it('is noticed at once in the last granule of which a write has a part', async () => {
    await write(0, 3 * GRANULE, 2);
    await decay(2 * GRANULE + 4000);
    await read(0, 2 * GRANULE);
    await read(2 * GRANULE, 512).catch(() => undefined); // all is in memory now
    expect(overlay.tryWrite(Buffer.alloc(2 * GRANULE, 3), 512)).toBe(false);
    await expectDamaged(overlay.write(Buffer.alloc(2 * GRANULE, 3), 512));
    await expectRight(0, 2 * GRANULE); // nothing was written
    heal(2 * GRANULE + 4000);
    await expectRight();
  });

  it('is read again from the medium when only the memory was wrong', async () => {
    await write(0, GRANULE, 2);
    await decay(100);
    await expectDamaged(read(0, GRANULE)); // in memory by now
    disk.flipBit(dataOf(), 100, 3); // the medium is right; the memory is not, and is not dropped by anybody else
    await expectRight();
  });

  it('is noticed in a sealed layer, in use and after kill -9', async () => {
    await write(0, GRANULE, 2);
    const layerId = await overlay.seal();
    await write(GRANULE, GRANULE, 3);
    await decay(100, dataOf(layerId));
    await expectDamaged(read(0, GRANULE));
    await overlay.changedBlocks(layerId, GRANULE); // comes after the sums, which come after the seal
    disk.crash();
    disk.dropPages();
    await open();
    await expectDamaged(read(0, GRANULE));
    heal(100, dataOf(layerId));
    await expectRight();
  });

  it.each(['kill', 'cut'] as const)(
    'is noticed when it flips between a clean close and the next open, with a %s',
    async (end) => {
      await write(0, 3 * GRANULE, 2);
      await overlay.zero(5 * GRANULE, GRANULE, { keepAllocated: true });
      model.fill(0, 5 * GRANULE, 6 * GRANULE);
      await write(8 * GRANULE, 512, 3);
      await overlay.close();
      if (end === 'cut') disk.powerCut();
      else disk.crash();
      for (const at of [GRANULE + 5, 5 * GRANULE + 7]) disk.flipBit(dataOf(), at, 3);
      disk.dropPages();
      await open();
      await expectDamaged(read(GRANULE, GRANULE));
      await expectDamaged(read(5 * GRANULE, GRANULE));
      await expectRight(0, GRANULE);
      await expectRight(2 * GRANULE, GRANULE);
      for (const at of [GRANULE + 5, 5 * GRANULE + 7]) heal(at);
      await expectRight();
      // Sums that were taken over are kept again.
      await overlay.close();
      disk.crash();
      disk.flipBit(dataOf(), 2 * GRANULE, 3);
      disk.dropPages();
      await open();
      await expectDamaged(read(2 * GRANULE, GRANULE));
    },
  );

  it.each(['live', 'durable'] as const)(
    'in the map %s, between a clean close and the next open, refuses the disk',
    async (name) => {
      await write(0, GRANULE, 2);
      await overlay.close();
      disk.crash();
      const path = dataOf().replace(/data$/, name);
      disk.newProcess().open(path).fsync(); // as the kernel does it some time: what is not on the medium cannot flip there
      disk.flipBit(path, GRANULE + 3, 3); // a sector of granule 3 appears
      disk.dropPages();
      for (let attempt = 0; attempt < 2; attempt += 1) {
        await expectDamaged(open());
        disk.crash();
      }
      disk.flipBit(path, GRANULE + 3, 3);
      disk.dropPages();
      await open();
      await expectRight();
    },
  );
});

describe.each(KEYS)('sums of an overlay that is %s', (_kind, diskKey) => {
  beforeEach(async () => {
    key = diskKey;
    await makeDisk();
  });
  const sumsFiles = (): string[] => [...disk.tree().keys()].filter((path) => path.endsWith('/sums'));

  it.each(['kill', 'cut'] as const)(
    'do not outlive a %s: what is read afterwards is believed and right',
    async (end) => {
      await write(0, 4 * GRANULE, 2);
      await overlay.close();
      disk.crash();
      expect(sumsFiles()).toHaveLength(1);
      await open();
      expect(sumsFiles()).toHaveLength(0);
      await write(0, GRANULE, 3);
      await write(GRANULE + 512, 512, 4);
      await overlay.flush();
      if (end === 'cut') disk.powerCut();
      else disk.crash();
      expect(sumsFiles()).toHaveLength(0);
      await open();
      await expectRight();
      await expectRight(); // and now they are known again
      await decay(100);
      await expectDamaged(read(0, GRANULE));
    },
  );

  it('are not kept when the disk is full, and the close succeeds all the same', async () => {
    await write(0, 4 * GRANULE, 2);
    await overlay.flush();
    disk.capacityBytes = disk.usedBytes;
    await overlay.close();
    disk.crash();
    disk.capacityBytes = Number.MAX_SAFE_INTEGER;
    expect([...disk.tree().keys()].filter((path) => path.includes('sums'))).toEqual([]);
    await open();
    await expectRight();
  });

  const failures: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['write at once', () => Promise.resolve(overlay.tryWrite(Buffer.alloc(3 * GRANULE, 3), 0))],
    ['write at once of parts of granules', () => Promise.resolve(overlay.tryWrite(Buffer.alloc(2 * GRANULE, 3), 512))],
    ['write with waiting', () => overlay.write(Buffer.alloc(3 * GRANULE, 3), 0).catch(() => false)],
    ['zeroing', () => overlay.zero(0, 3 * GRANULE, { keepAllocated: true }).catch(() => false)],
  ];
  it.each(failures)('are no longer those of before where a %s ended in its middle', async (_name, change) => {
    await write(0, 3 * GRANULE, 2);
    await overlay.trim(GRANULE, GRANULE); // its space is given back, and there is none to be had
    await overlay.flush();
    await read(0, DISK_BYTES);
    disk.capacityBytes = disk.usedBytes;
    expect(await change()).toBe(false);
    const { length } = await read(0, DISK_BYTES); // no false alarm
    expect(length).toBe(DISK_BYTES);
    disk.capacityBytes = Number.MAX_SAFE_INTEGER;
    await write(0, 3 * GRANULE, 4);
    await expectRight();
  });

  it('of a granule that is not known stay unknown after a write of a part of it, whatever was learned meanwhile', async () => {
    await write(0, GRANULE, 2);
    await overlay.flush();
    disk.crash();
    await open();
    const writing = overlay.write(Buffer.alloc(512, 3), 512);
    model.fill(3, 512, 1024);
    await read(0, GRANULE); // the old content, or the new
    await writing;
    await expectRight();
  });

  it('whose file is damaged are not believed', async () => {
    for (const at of [3, 41, 60, 66, 80, 64 + 8 + 16_384 + 1]) {
      await write(0, 4 * GRANULE, 2); // so that there are sums
      await overlay.close();
      disk.crash();
      const path = sumsFiles()[0] ?? '';
      disk.flipBit(path, at, 2);
      disk.dropPages();
      await open();
      await expectRight();
    }
  });
});
