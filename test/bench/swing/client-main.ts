/**
 * A transceiver that brings blocks in: the block path from single-flight down to HTTP, each block decoded and checked by its digest and then dropped
 * (no cache file, so that the same blocks can come again), asked for slice by slice as the agent does (agent/prefetcher.ts). In a process of its own.
 */
import type { Digest } from '@collective/shared';
import {
  buildPublicSource,
  FaultCounters,
  LinkMeter,
  RANK,
  systemClock,
  type FetchClass,
} from '@collective/transceiver';
import { nowOfMachineMs } from '../../support/machine-clock.js';
import { BLOCK_BYTES } from '../demand/random-chunks.js';

export type ClientAsked = {
  readonly origin: string;
  readonly fetchClass: FetchClass;
  readonly digests: readonly Digest[];
  /** Asked for as a whole, two at a time. */
  readonly blocksASlice: number;
};
/** How fast it may go at that moment (background-rate.ts). */
export type ClientSays = { readonly atMs: number; readonly allowedBytesPerSecond: number };

const SAMPLE_MS = 250;

process.on('disconnect', () => process.exit(0));
process.once('message', (message) => {
  const { origin, fetchClass, digests, blocksASlice } = message as ClientAsked;
  const meter = new LinkMeter(() => systemClock.nowMs());
  const source = buildPublicSource({ origin }, { meter, faults: new FaultCounters(), onFailure: () => undefined });
  setInterval(() => {
    const allowedBytesPerSecond = source.scheduling.backgroundBytesPerSecond;
    process.send?.({ atMs: nowOfMachineMs(), allowedBytesPerSecond } satisfies ClientSays);
  }, SAMPLE_MS);
  const rank = RANK[fetchClass];
  const bringSlice = async (at: number): Promise<unknown> =>
    Promise.all(
      digests
        .slice(at, at + blocksASlice)
        .map(async (digest) =>
          source.singleFlight.get({ digest, blockBytes: BLOCK_BYTES, neighbourhood: 0 }, { rank }),
        ),
    );
  /** Two slices are under way. */
  const bring = async (): Promise<never> => {
    let before: Promise<unknown> = Promise.resolve();
    for (let at = 0; ; at = (at + blocksASlice) % digests.length) {
      const slice = bringSlice(at);
      await before;
      before = slice;
    }
  };
  bring().catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
