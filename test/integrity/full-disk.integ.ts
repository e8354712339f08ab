/** The cache on a file system that is far too small for it: what does not fit is served from memory, and no byte is wrong. */
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, it } from 'vitest';
import { ControlClient } from '@collective/transceiver';
import { BlockdUnderTest, BLOCKD } from '../blockd/blockd-process.js';
import { Child, run, runOrThrow } from '../support/child.js';

const BLOCK = 65_536;
/** Room for 32 blocks and the tables; the disk has 257 that are not zero. */
const CACHE_BYTES = (2 << 20) + (256 << 10);

/** A user and mount namespace of one's own: needs no root where the kernel lets people make one. */
const NAMESPACE = ['-rm', '--propagation', 'private'];
const canMount = (await run('unshare', [...NAMESPACE, 'mount', '-t', 'tmpfs', 'none', '/mnt'])).code === 0;

it.runIf(canMount)(
  'serves every byte right while the file system of the cache is full, and says that it was',
  async () => {
    await using blockd = await BlockdUnderTest.open({ diskBytes: 300 * BLOCK, blockBytes: BLOCK });
    blockd.client.close();
    await blockd.process.stop();
    const cache = path.join(blockd.home, 'cache');
    await mkdir(cache, { recursive: true });
    const script = `mount -t tmpfs -o size=${CACHE_BYTES},mode=700 none "$1" && exec "$2" "$3" --home "$4" --cache-reserve-bytes 0`;
    blockd.process = new Child('blockd on a small disk', 'unshare', [
      ...[...NAMESPACE, 'sh', '-c', script, 'sh', cache, process.execPath, BLOCKD, blockd.home],
    ]);
    await blockd.process.waitFor(/blockd ready/);
    blockd.client = await ControlClient.connect(path.join(blockd.home, 'run/blockd.sock'), { waitMs: 120_000 });
    await blockd.client.request('repository', { origin: blockd.repository.origin });
    await blockd.attach({ overlay: 'temporary', fresh: true, waitMs: 300_000 });
    for (const copy of ['first.raw', 'second.raw']) {
      const result = await run('nbdcopy', [blockd.uri, path.join(blockd.home, copy)]);
      if (result.code !== 0)
        throw new Error(
          `${result.stderr}${blockd.process.stderr}${JSON.stringify(await blockd.client.request('status', {}))}`,
        );
      expect((await readFile(path.join(blockd.home, copy))).equals(blockd.disk.bytes)).toBe(true);
    }
    // A write has nothing to do with the cache's disk.
    await runOrThrow('qemu-io', ['-f', 'raw', '-c', 'write -P 0x61 1M 1M', '-c', 'read -P 0x61 1M 1M', blockd.uri]);
    const { cache: counters, faults } = await blockd.client.request('status', {});
    expect(counters.usedBytes).toBeLessThanOrEqual(CACHE_BYTES);
    expect(counters.unfilled + counters.evicted).toBeGreaterThan(100);
    expect(faults['cache-disk-full']).toBeGreaterThan(0);
  },
);
