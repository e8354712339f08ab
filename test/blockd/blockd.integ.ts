/** The blockd process, seen from its control socket and by NBD clients that we did not write. */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeBootTrace } from '@collective/shared';
import { FLAGS_WORD, RECORD_BYTES, SLOT_USED, TABLE_HEADER_BYTES } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { Link } from '../support/link.js';
import { askedAgain, BlockdUnderTest, nbdsh, startBlockd } from './blockd-process.js';

const BLOCK = 65_536;
const size = { diskBytes: 150 * BLOCK + 5 * 512, blockBytes: BLOCK };

/** How many slots the side table says are used. */
const recordsInTable = async (file: string): Promise<number> => {
  const table = await readFile(file);
  let used = 0;
  for (let at = TABLE_HEADER_BYTES; at + RECORD_BYTES <= table.length; at += RECORD_BYTES)
    if ((table.readUInt8(at + FLAGS_WORD * 4) & SLOT_USED) !== 0) used += 1;
  return used;
};

describe('blockd', () => {
  it('serves a published disk over HTTP to nbdcopy and qemu-img, the same bytes from an empty and from a full cache', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach();
    for (const copy of ['cold.raw', 'warm.raw']) {
      await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, copy)]);
      expect((await readFile(path.join(blockd.home, copy))).equals(blockd.disk.bytes)).toBe(true);
    }
    await runOrThrow('qemu-img', [
      'compare',
      '-f',
      'raw',
      '-F',
      'raw',
      path.join(blockd.home, 'expected.raw'),
      blockd.uri,
    ]);
    const status = await blockd.client.request('status', {});
    const again = askedAgain(status);
    expect(new Set(blockd.repository.requests.map(({ digest }) => digest)).size).toBe(blockd.disk.chunks.size);
    expect(blockd.repository.requests.length).toBeLessThanOrEqual(blockd.disk.chunks.size + again);
    expect(status.cache.filled).toBe(blockd.disk.chunks.size);
    expect(status.disks).toMatchObject([{ session: 's', disk: 'system', byteLength: size.diskBytes, waiting: [] }]);
    const chunkBytes = [...blockd.disk.chunks.values()].reduce((sum, chunk) => sum + chunk.length, 0);
    if (again === 0) expect(status.fetch.link.bytes).toBe(chunkBytes);
    else expect(status.fetch.link.bytes).toBeGreaterThanOrEqual(chunkBytes);
  });

  it('fetches the first block before anybody connects, and knows the first touches afterwards', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach();
    await blockd.client.request('warm', { session: 's', disk: 'system' });
    expect(blockd.repository.requests.length).toBe(1);
    await blockd.client.request('trace-start', { session: 's' });
    expect(await blockd.nbdsh(`h.pread(512, ${5 * BLOCK})`, 'h.pread(512, 0)')).toMatchObject({ code: 0 });
    await blockd.client.request('phase', { session: 's', phase: 2 });
    expect(await blockd.nbdsh(`h.pread(512, ${9 * BLOCK})`)).toMatchObject({ code: 0 });
    const file = path.join(blockd.home, 'trace');
    await blockd.client.request('trace', { session: 's', disk: 'system', path: file });
    const decoded = decodeBootTrace(await readFile(file));
    expect(decoded).toMatchObject({ version: 3, root: blockd.disk.root, blockBytes: BLOCK });
    expect(decoded.touches.map(({ blockIndex, phase }) => [blockIndex, phase])).toEqual([
      [5, 0],
      [0, 0],
      [9, 2],
    ]);
  });

  it('keeps acknowledged writes and the cache through kill -9, and needs no repository for what it has', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach({ overlay: 'temporary', fresh: true });
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'copy.raw')]);
    expect(
      await blockd.nbdsh(`h.pwrite(b"\\xab" * 4096, 8192)`, `h.pwrite(b"\\xcd" * 700, ${40 * BLOCK + 100})`),
    ).toMatchObject({ code: 0 });
    // The table is written 0.2 s after a fill: what it has not seen is fetched again, which this test must not need.
    await expect
      .poll(() => recordsInTable(path.join(blockd.home, 'cache', `${BLOCK}.table`)))
      .toBe(blockd.disk.chunks.size);
    await blockd.restart();
    await blockd.repository.goAway();
    await blockd.attach({ overlay: 'temporary' });
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'after.raw')]);
    const expected = Buffer.from(blockd.disk.bytes);
    expected.fill(0xab, 8192, 8192 + 4096);
    expected.fill(0xcd, 40 * BLOCK + 100, 40 * BLOCK + 800);
    expect((await readFile(path.join(blockd.home, 'after.raw'))).equals(expected)).toBe(true);
    expect((await blockd.client.request('status', {})).cache.damaged).toBe(0);
  });

  it('starts afresh when told so, and deletes a temporary overlay when it is detached', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach({ overlay: 'temporary', fresh: true });
    expect(await blockd.nbdsh('h.pwrite(b"x" * 4096, 0)')).toMatchObject({ code: 0 });
    expect(await blockd.client.request('detach', { session: 's' })).toEqual({ detached: 1 });
    expect(existsSync(path.join(blockd.home, 'overlay'))).toBe(false);
    expect(existsSync(blockd.socket)).toBe(false);
    await blockd.attach({ overlay: 'temporary' });
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'copy.raw')]);
    expect((await readFile(path.join(blockd.home, 'copy.raw'))).equals(blockd.disk.bytes)).toBe(true);
  });

  it('detaches a whole session with the disk that is just being attached to it, for an agent that was killed, say', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    const attaching = blockd.client.request('attach', {
      ...{ session: 's', disk: 'system', source: blockd.source, waitMs: 1000, listen: { path: blockd.socket } },
    });
    expect(await blockd.client.request('detach', { session: 's' })).toEqual({ detached: 1 });
    await attaching;
    expect((await blockd.client.request('status', {})).disks).toEqual([]);
    expect(await blockd.client.request('detach', { session: 's' })).toEqual({ detached: 0 });
  });

  it('answers EIO after the waiting time, says what it waits for and why, tells when the block has come, and serves it', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach({ waitMs: 400 });
    await blockd.repository.goAway();
    const refused = await blockd.nbdsh(`h.pread(4096, ${20 * BLOCK})`);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toMatch(/Input\/output error|EIO/);
    expect(await blockd.waitForEvent('block-unavailable')).toMatchObject({
      session: 's',
      disk: 'system',
      blockIndex: 20,
      reason: expect.stringContaining('ECONNREFUSED') as string,
    });
    const status = await blockd.client.request('status', {});
    expect(status.disks[0]?.waiting).toMatchObject([
      { blockIndex: 20, isUnavailable: true, reason: expect.stringContaining('ECONNREFUSED') as string },
    ]);
    expect(status.lastError).toMatchObject({ code: 'repository-unreachable' });
    await blockd.repository.comeBack();
    expect(await blockd.waitForEvent('block-arrived')).toMatchObject({ blockIndex: 20, stillUnavailable: 0 });
    const served = await blockd.nbdsh(
      `import hashlib; print(hashlib.sha256(h.pread(4096, ${20 * BLOCK})).hexdigest())`,
    );
    const { createHash } = await import('node:crypto');
    expect(served.stdout.trim()).toBe(
      createHash('sha256')
        .update(blockd.disk.bytes.subarray(20 * BLOCK, 20 * BLOCK + 4096))
        .digest('hex'),
    );
    expect((await blockd.client.request('status', {})).disks[0]?.waiting).toEqual([]);
  });

  it('serves the right bytes from a repository that lies, stalls and resets', async () => {
    await using blockd = await BlockdUnderTest.open({ ...size, diskBytes: 40 * BLOCK });
    const lies = ['wrong-bytes', 'other-block', 'garbage', 'short', 'reset', { status: 503 }] as const;
    let request = 0;
    blockd.repository.behave = (_, attempt) =>
      attempt === 1 ? (lies[(request += 1) % lies.length] ?? 'serve') : 'serve';
    await blockd.attach();
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'copy.raw')]);
    expect((await readFile(path.join(blockd.home, 'copy.raw'))).equals(blockd.disk.bytes)).toBe(true);
    const { fetch, faults } = await blockd.client.request('status', {});
    expect(fetch.corrupt).toBeGreaterThan(5);
    for (const name of ['net-wrong-bytes', 'net-not-a-block', 'net-unreachable', 'net-busy'] as const)
      expect(faults[name], name).toBeGreaterThan(0);
  });

  it.each(['down', 'silence'] as const)(
    'goes on by itself when the link was in %s for a while in the middle of a copy',
    async (outage) => {
      await using blockd = await BlockdUnderTest.open(size);
      // Slow enough that the copy is in its middle for seconds, not for as long as it takes to tell the link.
      const rates = { downBitsPerSecond: 16e6, upBitsPerSecond: 16e6, roundTripMs: 1 };
      const toPort = Number(new URL(blockd.repository.origin).port);
      await using link = await Link.open({ toPort, profile: 'lan', rates });
      await blockd.client.request('repository', { origin: `http://127.0.0.1:${link.port}` });
      await blockd.attach({ waitMs: 300_000 });
      const copying = runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'copy.raw')]);
      await expect.poll(() => blockd.repository.requests.length, { interval: 2 }).toBeGreaterThan(20);
      link[outage]();
      await expect
        .poll(async () => (await blockd.client.request('status', {})).lastError?.code)
        .toBe('repository-unreachable');
      const { disks } = await blockd.client.request('status', {});
      expect(disks[0]?.waiting.length).toBeGreaterThan(0);
      link.up();
      await copying;
      expect((await readFile(path.join(blockd.home, 'copy.raw'))).equals(blockd.disk.bytes)).toBe(true);
    },
  );

  it('finds damage that was done to its cache while it did not run, and fetches what was damaged', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach();
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'copy.raw')]);
    await blockd.client.request('detach', { session: 's' });
    await blockd.process.stop('SIGTERM');
    const slots = path.join(blockd.home, 'cache', `${BLOCK}.slots`);
    const content = await readFile(slots);
    for (let at = 1000; at < content.length; at += 7 * BLOCK) content[at] = (content[at] ?? 0) ^ 0x40;
    await writeFile(slots, content);
    await blockd.restart();
    await blockd.attach();
    await runOrThrow('nbdcopy', [blockd.uri, path.join(blockd.home, 'again.raw')]);
    expect((await readFile(path.join(blockd.home, 'again.raw'))).equals(blockd.disk.bytes)).toBe(true);
    const { cache } = await blockd.client.request('status', {});
    expect(cache.damaged).toBeGreaterThan(10);
    expect(cache.dropped).toBe(cache.damaged);
  });

  it('lives on when whoever started it is gone, and ends in order on SIGTERM', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.attach({ overlay: 'persistent' });
    blockd.process.process.stdout?.destroy();
    blockd.process.process.stderr?.destroy();
    blockd.process.kill('SIGHUP');
    blockd.process.kill('SIGPIPE');
    expect(await blockd.nbdsh('h.pwrite(b"y" * 512, 512)')).toMatchObject({ code: 0 });
    expect((await blockd.process.stop('SIGTERM')).code).toBe(0);
    expect(existsSync(path.join(blockd.home, 'overlay'))).toBe(true);
  });

  it('refuses a second process on its home, a map that is not the signed one, and requests that make no sense', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await using second = startBlockd(blockd.home);
    expect((await second.exit()).code).toBe(3);
    const attach = {
      session: 's',
      disk: 'system',
      source: blockd.source,
      waitMs: 1000,
      listen: { path: blockd.socket },
    };
    await expect(
      blockd.client.request('attach', { ...attach, source: { ...blockd.source, root: 'ab'.repeat(32) } }),
    ).rejects.toMatchObject({ code: 'digest-mismatch' });
    await expect(
      blockd.client.request('attach', { ...attach, source: { ...blockd.source, diskBytes: 512 } }),
    ).rejects.toMatchObject({ code: 'malformed' });
    await expect(
      blockd.client.request('attach', { ...attach, source: { ...blockd.source, map: '/nowhere' } }),
    ).rejects.toMatchObject({ code: 'not-found' });
    await expect(blockd.client.request('attach', { ...attach, session: '../../etc' })).rejects.toMatchObject({
      code: 'bad-request',
    });
    await expect(blockd.client.request('detach', { session: 's', disk: 'system' })).rejects.toMatchObject({
      code: 'not-found',
    });
    expect((await blockd.client.request('status', {})).disks).toEqual([]);
    await blockd.attach();
    await expect(blockd.attach()).rejects.toMatchObject({ code: 'exists' });
    await expect(blockd.client.request('shutdown', {})).rejects.toMatchObject({ code: 'in-use' });
    await blockd.client.request('detach', { session: 's' });
    await blockd.client.request('shutdown', {});
    expect((await blockd.process.exit()).code).toBe(0);
  });

  it('serves a disk that nobody published as zeroes, and keeps what is written to it', async () => {
    await using blockd = await BlockdUnderTest.open(size);
    const overlay = { path: path.join(blockd.home, 'ephemeral'), mode: 'persistent' as const };
    const attach = {
      session: 's',
      disk: 'ephemeral',
      source: { kind: 'zero' as const, diskBytes: 1 << 20 },
      overlay,
      waitMs: 1000,
      listen: { path: blockd.socket },
    };
    await blockd.client.request('attach', attach);
    const uri = `nbd+unix:///ephemeral?socket=${blockd.socket}`;
    expect(await nbdsh(uri, 'assert h.pread(4096, 0) == bytes(4096)', 'h.pwrite(b"z" * 4096, 4096)')).toMatchObject({
      code: 0,
    });
    await blockd.client.request('detach', { session: 's' });
    await blockd.client.request('attach', attach);
    expect(await nbdsh(uri, 'assert h.pread(4096, 4096) == b"z" * 4096')).toMatchObject({ code: 0 });
  });
});
