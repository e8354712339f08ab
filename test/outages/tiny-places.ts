/** Where things lie on the tiny appliance's disks, by the digests of their blocks: what a guest asks for says how far its boot is. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { createHash } from 'node:crypto';
import { blockDigest, isAllZero, type Digest } from '@collective/shared';
import { tinyImage } from '../machine/tiny-image.js';
import { runOrThrow } from '../support/child.js';
import { BUILD } from '../support/paths.js';

export type Firmware = 'bios' | 'uefi';
export type Bus = 'virtio' | 'sata' | 'ide';

/** The two kernels on the disk (images/tiny/grub.cfg). */
export type Flavour = 'cloud' | 'generic';

export type TinyPlaces = {
  /** Read by the firmware itself: GRUB's core.img behind the first block, or BOOTX64.EFI. */
  readonly bootLoader: Readonly<Record<Firmware, ReadonlySet<Digest>>>;
  /** Read by GRUB. The second half only, so that the screen says already what is loaded. */
  readonly kernel: Readonly<Record<Flavour, ReadonlySet<Digest>>>;
  readonly initrd: Readonly<Record<Flavour, ReadonlySet<Digest>>>;
  /** Read by the kernel when it mounts the user disk. */
  readonly userDisk: ReadonlySet<Digest>;
  readonly systemMd5: string;
};

const BLOCK_BYTES = 65_536;
/** GRUB's core.img lies before the first partition. */
const FIRST_PARTITION = 1 << 20;

let cached: Promise<TinyPlaces> | undefined;

export const tinyPlaces = (): Promise<TinyPlaces> => (cached ??= find());

async function find(): Promise<TinyPlaces> {
  await tinyImage(); // builds it when it is missing
  const folder = path.join(BUILD, 'images', 'tiny');
  const system = await readFile(path.join(folder, 'system.raw'));
  const user = await readFile(path.join(folder, 'user.raw'));
  const blocks = (disk: Buffer, fromByte: number, toByte: number): Set<Digest> => {
    const found = new Set<Digest>();
    for (let at = Math.floor(fromByte / BLOCK_BYTES) * BLOCK_BYTES; at < toByte; at += BLOCK_BYTES) {
      const block = disk.subarray(at, at + BLOCK_BYTES);
      if (!isAllZero(block)) found.add(blockDigest(block));
    }
    return found;
  };
  const file = async (name: string, fromPart = 0): Promise<Set<Digest>> => {
    const copy = path.join(folder, '.found');
    await runOrThrow('mcopy', ['-n', '-o', '-i', `${path.join(folder, 'system.raw')}@@1M`, `::/${name}`, copy]);
    const bytes = await readFile(copy);
    const at = system.indexOf(bytes.subarray(0, 4096));
    if (at < 0) throw new Error(`${name} is not on the tiny disk`);
    return blocks(system, at + bytes.length * fromPart, at + bytes.length);
  };
  const all = blocks(system, 0, system.length);
  return {
    bootLoader: {
      bios: blocks(system, BLOCK_BYTES, FIRST_PARTITION),
      uefi: await file('EFI/BOOT/BOOTX64.EFI', 0.5),
    },
    kernel: { cloud: await file('vmlinuz-cloud', 0.5), generic: await file('vmlinuz-generic', 0.5) },
    initrd: { cloud: await file('initrd-cloud'), generic: await file('initrd-generic') },
    userDisk: new Set([...blocks(user, BLOCK_BYTES, user.length)].filter((digest) => !all.has(digest))),
    systemMd5: createHash('md5').update(system).digest('hex'),
  };
}
