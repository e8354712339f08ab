/** The cache is filled, but nothing of it is in memory: our boot beside one from the local raw file in the same state, in interleaved pairs. Wants root. */
import { writeFile } from 'node:fs/promises';
import { runOrThrow } from '../../support/child.js';
import { atMost, informs, interleavedPairs, interval, median, type BenchCase } from '../bench-result.js';
import { bootLocal } from './competitors.js';
import type { OurBoot } from './ours.js';
import type { BootRig } from './rig.js';

const TO_LOCAL_MAX = 1.1;

/** The kernel forgets every page, folder entry and inode that it can have again. */
const forgetPages = async (): Promise<void> => {
  await runOrThrow('sync', []);
  await writeFile('/proc/sys/vm/drop_caches', '3').catch((error: unknown) => {
    throw new Error('the kernel could not be told to forget its pages: run this part as root', { cause: error });
  });
};

export const notInMemoryCases = async (rig: BootRig, pairs: number): Promise<BenchCase[]> => {
  const boots: OurBoot[] = [];
  const cold = async (boot: () => Promise<{ readonly seconds: number }>): Promise<number> => {
    await forgetPages();
    const { seconds } = await boot();
    rig.log(`not in memory: ${seconds.toFixed(2)} s`);
    return seconds;
  };
  const { ours, theirs, ratios } = await interleavedPairs(
    pairs,
    () =>
      cold(async () => {
        const boot = await rig.cached.boot();
        boots.push(boot);
        return boot;
      }),
    () => cold(() => bootLocal(rig.images)),
  );
  const waits = boots.map(({ diskWaitSeconds }) => diskWaitSeconds);
  const before = boots.map(({ beforeGuestSeconds }) => beforeGuestSeconds);
  return [
    atMost('cached, not in memory / local, not in memory', median(ratios), TO_LOCAL_MAX, {
      note: `${interval(ratios)}; ${interval(ours, 1)} and ${interval(theirs, 1)} s`,
    }),
    informs('cached, not in memory: before QEMU was started', median(before), 's', interval(before)),
    informs('cached, not in memory: guest waited for its disks', median(waits), 's', interval(waits)),
  ];
};
