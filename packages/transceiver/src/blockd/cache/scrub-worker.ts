/**
 * The scrub's thread, one for each pass. It has the lowest priority of processor and disk, and its reads block nobody else: not
 * even a thread of libuv's pool, which the serving thread needs for the reads that guests wait for.
 */
import os from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { setTimeout as delay } from 'node:timers/promises';
import { decryptSectors } from '../../storage/encrypted-file.js';
import { BlockKeyRing } from '../private/block-key-ring.js';
import { PrivateCacheKeys } from '../private/private-cache-keys.js';
import { syscalls } from '../syscalls.js';
import type { FromScrub, ScrubWorkerData } from './scrub-messages.js';
import { restMs } from './scrub-plan.js';
import { SlotScrubber, openForScrub, type ReadSlotBytes } from './slot-scrubber.js';

const REPORT_SLOTS = 64;
const REPORT_MS = 200;
/** Rests that are shorter than this are saved up. */
const REST_MS_MIN = 5;

const scrub = async (data: ScrubWorkerData, say: (message: FromScrub) => void): Promise<void> => {
  const beganMs = performance.now();
  let doneBytes = 0;
  const { secrets } = data;
  const naming = secrets && new BlockKeyRing(secrets.blockKeys);
  const keys = secrets && new PrivateCacheKeys(Buffer.from(secrets.diskKey, 'base64url'));
  for (const { memory, path } of data.files) {
    if (memory.blockBytes < data.from.blockBytes) continue;
    const file = openForScrub(path);
    const cipher = keys?.cipherOf(memory.blockBytes);
    const readPlain: ReadSlotBytes = (target, byteOffset) => {
      file.read(target, byteOffset);
      if (cipher !== undefined) decryptSectors(cipher, target, byteOffset);
    };
    try {
      const scrubber = new SlotScrubber(memory, readPlain, naming);
      let reportedMs = performance.now();
      let slots = 0;
      let bytes = 0;
      const report = (slot: number): void => {
        say({ kind: 'progress', at: { blockBytes: memory.blockBytes, slot }, slots, bytes });
        [slots, bytes, reportedMs] = [0, 0, performance.now()];
      };
      const first = memory.blockBytes === data.from.blockBytes ? data.from.slot : 0;
      for (let slot = first; slot < memory.capacity; slot += 1) {
        if (Atomics.load(data.stop, 0) !== 0) {
          report(slot);
          return;
        }
        if (!scrubber.isUsed(slot)) continue;
        const verdict = scrubber.check(slot);
        if (verdict === 'free' || verdict === 'gone') continue;
        slots += 1;
        bytes += memory.blockBytes;
        doneBytes += memory.blockBytes;
        if (verdict !== 'good')
          say({
            kind: 'bad',
            blockBytes: memory.blockBytes,
            slot,
            words: [...scrubber.expected],
            isReadable: verdict === 'damaged',
          });
        if (slots >= REPORT_SLOTS || performance.now() - reportedMs >= REPORT_MS) report(slot + 1);
        const rest = restMs(doneBytes, performance.now() - beganMs, data.bytesPerSecond);
        if (rest >= REST_MS_MIN) await delay(rest);
      }
      report(memory.capacity);
    } finally {
      file.close();
    }
  }
  say({ kind: 'done' });
};

if (parentPort !== null) {
  const port = parentPort;
  try {
    os.setPriority(0, os.constants.priority.PRIORITY_LOW); // of this thread alone, on Linux
  } catch {
    // Then it competes with the others at its rate.
  }
  syscalls?.idleDisk();
  await scrub(workerData as ScrubWorkerData, (message) => port.postMessage(message));
  port.close();
}
