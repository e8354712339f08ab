/**
 * A write never waits for the network (DESIGN §1, promise 4): 512-byte writes on ground that was never fetched are acknowledged
 * at once while the link is down or silent, through a real NBD client, and so is their flush; a read of the same ground
 * waits. When the link is back every byte is the image's or the writer's.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { Link } from '../support/link.js';
import { Random } from '../simulation/random.js';
import { BlockdUnderTest } from './blockd-process.js';

const BLOCK = 65_536;
const SECTOR = 512;
const GRANULE = 4_096;
const size = { diskBytes: 150 * BLOCK + 5 * SECTOR, blockBytes: BLOCK };
const WRITES = 200;
/** Generous, for a machine that others use; a wait for the network would be 4 s, and an error. */
const AT_ONCE_MS = 500;
/** So many of the writes a moment may hit in which the machine stands still; a wait for the network would hit them all. */
const LATE_MAX = 3;
const FLUSHES = 3;
const READ_WAITS_MS = 2_000;
const WAIT_MS = 4_000;

type Timings = {
  readonly writes: readonly number[];
  readonly flush: number;
  readonly read: number;
  readonly readFailed: boolean;
  readonly readBack: boolean;
};

/** In milliseconds, as nbdsh measured them. */
const timings = async (blockd: BlockdUnderTest, offsets: readonly number[], fill: number): Promise<Timings> => {
  const { code, stdout, stderr } = await blockd.nbdsh(
    [
      'import time, json, nbd',
      'def timed(act):',
      '    began = time.monotonic()',
      '    failed = False',
      '    try: act()',
      '    except nbd.Error: failed = True',
      '    return (time.monotonic() - began) * 1000, failed',
      `data = bytes([${fill}]) * ${SECTOR}`,
      `offsets = json.loads('${JSON.stringify(offsets)}')`,
      'writes = []',
      'for offset in offsets:',
      '    ms, failed = timed(lambda: h.pwrite(data, offset))',
      '    assert not failed, f"the write at {offset} failed after {ms:.0f} ms"',
      '    writes.append(ms)',
      '# The disk of a machine that others use may take its time: the best of some.',
      'flushes = []',
      `for offset in offsets[:${FLUSHES}]:`,
      '    h.pwrite(data, offset)',
      '    ms, failed = timed(lambda: h.flush())',
      '    assert not failed',
      '    flushes.append(ms)',
      'flush = min(flushes)',
      '# What was written is there, though what surrounds it is not.',
      `readBack = all(h.pread(${SECTOR}, offset) == data for offset in offsets[:8])`,
      `read, readFailed = timed(lambda: h.pread(${GRANULE}, offsets[0] // ${GRANULE} * ${GRANULE}))`,
      'print(json.dumps(dict(writes=writes, flush=flush, read=read, readFailed=readFailed, readBack=readBack)))',
    ].join('\n'),
  );
  if (code !== 0) throw new Error(`nbdsh ended with ${code}\n${stdout}\n${stderr}`);
  return JSON.parse(stdout) as Timings;
};

describe.each(['down', 'silent'] as const)('while the link is %s', (outage) => {
  it.each(['temporary', 'persistent'] as const)(
    '512-byte writes on ground that is not cached, and their flush, are acknowledged at once on a %s overlay; reads of it wait; afterwards every byte is right',
    async (overlay) => {
      await using blockd = await BlockdUnderTest.open(size);
      await using link = await Link.open({ toPort: Number(new URL(blockd.repository.origin).port), profile: 'lan' });
      await blockd.client.request('repository', { origin: `http://127.0.0.1:${link.port}` });
      await blockd.attach({ overlay, waitMs: WAIT_MS });
      if (outage === 'down') link.down();
      else link.silence();

      // Each in a granule of its own, at an odd sector, on blocks that are not zero.
      const random = new Random(1);
      const granules = Array.from({ length: Math.floor(size.diskBytes / GRANULE) }, (_, at) => at);
      const offsets = random
        .shuffled(granules.filter((granule) => Math.floor((granule * GRANULE) / BLOCK) % 7 !== 3))
        .slice(0, WRITES)
        .map((granule) => granule * GRANULE + random.int(GRANULE / SECTOR) * SECTOR);
      const fill = 0xa5;
      const measured = await timings(blockd, offsets, fill);
      const writes = [...measured.writes].sort((a, b) => a - b);
      console.log(
        `link ${outage}, ${overlay}: ${writes.length} writes of 512 B, median ${writes[writes.length >> 1]?.toFixed(2)} ms, slowest ${writes.at(-1)?.toFixed(1)} ms; flush ${measured.flush.toFixed(1)} ms; a read waited ${measured.read.toFixed(0)} ms`,
      );
      expect(blockd.repository.requests).toEqual([]);
      expect(writes.at(-1 - LATE_MAX)).toBeLessThan(AT_ONCE_MS);
      expect(measured.flush).toBeLessThan(AT_ONCE_MS);
      expect(measured.readBack).toBe(true);
      expect(measured).toMatchObject({ readFailed: true });
      expect(measured.read).toBeGreaterThan(READ_WAITS_MS);

      link.up();
      const wanted = Buffer.from(blockd.disk.bytes);
      for (const offset of offsets) wanted.fill(fill, offset, offset + SECTOR);
      const copy = path.join(blockd.home, 'copy.raw');
      // The first reads may still find the outage's retry under way: a copy that failed is made again.
      for (let attempt = 1; ; attempt += 1) {
        try {
          await runOrThrow('nbdcopy', [blockd.uri, copy]);
          break;
        } catch (error) {
          if (attempt === 5) throw error;
        }
      }
      expect((await readFile(copy)).equals(wanted)).toBe(true);
    },
  );
});
