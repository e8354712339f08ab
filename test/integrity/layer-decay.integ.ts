/**
 * Bits that flip in what a machine has written, on the medium, while the disk is in use and while it is closed: no read is wrong, those of
 * damaged places are refused, and `status` counts them.
 */
import { randomBytes } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, it } from 'vitest';
import { BlockdUnderTest } from '../blockd/blockd-process.js';
import { PYTHON, scriptPath } from '../interop/nbd-fixture.js';
import { Random } from '../simulation/random.js';
import { Child, run } from '../support/child.js';
import { Medium } from './medium.js';

const SEED = Number(process.env['FAULT_SEED'] ?? 1);
const DISK_BYTES = 16 << 20;
const DAMAGED_READS = 40;

it(`bits flip in the layer of a disk in use, and of one that was closed (FAULT_SEED=${SEED}): no read is wrong`, async () => {
  const random = new Random(SEED);
  await using blockd = await BlockdUnderTest.open({ diskBytes: DISK_BYTES, blockBytes: 65_536 });
  await blockd.attach({ overlay: 'persistent', fresh: true, waitMs: 60_000 });
  const written = path.join(blockd.home, 'written.raw');
  await writeFile(written, randomBytes(DISK_BYTES));
  const copied = await run('nbdcopy', ['--flush', written, blockd.uri], { cwd: blockd.home, timeoutMs: 300_000 });
  expect(copied.code, copied.stderr).toBe(0);
  const layers = path.join(blockd.home, 'overlay/layers');
  const [layerId = ''] = await readdir(layers);
  const data = new Medium(path.join(layers, layerId, 'data'));
  const damagedReads = async (): Promise<number> =>
    (await blockd.client.request('status', {})).faults['layer-damaged'] ?? 0;

  /** Reads everywhere while `decay` is done again and again, until so many damaged reads more were counted. */
  const check = async (decay: () => void): Promise<void> => {
    const before = await damagedReads();
    await using checker = new Child('checker', PYTHON, [
      ...[scriptPath('../integrity/image_checker.py'), blockd.uri, written],
      ...['0', String(DISK_BYTES), String(SEED)],
    ]);
    await checker.waitFor(/"reads": [1-9]/);
    await expect
      .poll(
        async () => {
          decay();
          return (await damagedReads()) - before;
        },
        { timeout: 200_000 },
      )
      .toBeGreaterThan(DAMAGED_READS);
    const { code, stdout, stderr } = await checker.stop();
    const counts: unknown = JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
    console.log(
      `layer decay, seed ${SEED}: ${(await damagedReads()) - before} damaged; checker ${JSON.stringify(counts)}`,
    );
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(counts).toMatchObject({ wrong: 0 });
  };

  try {
    let flips = 0;
    await check(() => {
      if (flips < 60 && data.flip(random.int(DISK_BYTES), random.int(8))) flips += 1;
      data.dropPages();
    });
    await blockd.client.request('detach', { session: 's', keep: true });
    for (flips = 0; flips < 20; flips += 1) data.flip(random.int(DISK_BYTES), random.int(8));
    data.dropPages();
    await blockd.attach({ overlay: 'persistent', waitMs: 60_000 });
    await check(() => data.dropPages());
  } finally {
    data.close();
  }
}, 900_000);
