/** A recording by the real blockd of what a foreign client asked, and its replay against the real blockd and against nbdkit. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { COMMAND, COMMAND_FLAG, decodeRequestRecording } from '@collective/transceiver';
import { BlockdUnderTest } from '../../blockd/blockd-process.js';
import { Child } from '../../support/child.js';
import { eventually } from '../../support/eventually.js';
import { firstTouches } from './first-touches.js';
import { NbdPlayerClient } from './nbd-player-client.js';
import { play } from './player.js';
import { replayPlan } from './replay-plan.js';

const BLOCK = 65_536;
const size = { diskBytes: 64 * BLOCK, blockBytes: BLOCK };

const openWhenThere = async (socket: string): Promise<NbdPlayerClient> =>
  await eventually(`an NBD server at ${socket}`, 60_000, () => NbdPlayerClient.open(socket).catch(() => undefined));

describe('recording and replaying', () => {
  it("libnbd's requests are recorded as they were asked, also of a disk that is attached later, and replayed over blockd with a cold cache and over nbdkit", async () => {
    await using blockd = await BlockdUnderTest.open(size);
    await blockd.client.request('recording-start', { session: 's' });
    await expect(blockd.client.request('recording-start', { session: 's' })).rejects.toMatchObject({ code: 'exists' });
    await blockd.attach({ overlay: 'temporary', fresh: true });
    const asked = await blockd.nbdsh(
      `h.pread(4096, ${5 * BLOCK})`,
      `h.pwrite(b"x" * 512, ${7 * BLOCK}, nbd.CMD_FLAG_FUA)`,
      'h.flush()',
      `h.pread(512, ${7 * BLOCK})`,
      `h.trim(4096, ${9 * BLOCK})`,
      `h.zero(4096, ${10 * BLOCK})`,
      `h.pread(100000, ${20 * BLOCK - 1000})`,
    );
    expect(asked).toMatchObject({ code: 0 });
    const file = path.join(blockd.home, 'recording');
    expect(await blockd.client.request('recording-stop', { session: 's', path: file })).toEqual({
      requests: 7,
      truncated: false,
    });
    await expect(blockd.client.request('recording-stop', { session: 's', path: file })).rejects.toMatchObject({
      code: 'not-found',
    });
    // Nothing is recorded any more.
    expect(await blockd.nbdsh('h.pread(512, 0)')).toMatchObject({ code: 0 });

    const recording = decodeRequestRecording(await readFile(file));
    expect(recording.disks).toEqual([{ name: 'system', diskBytes: size.diskBytes }]);
    expect(
      recording.requests.map(({ command, flags, byteOffset, byteLength }) => [command, flags, byteOffset, byteLength]),
    ).toEqual([
      [COMMAND.read, 0, 5 * BLOCK, 4096],
      [COMMAND.write, COMMAND_FLAG.fua, 7 * BLOCK, 512],
      [COMMAND.flush, 0, 0, 0],
      [COMMAND.read, 0, 7 * BLOCK, 512],
      [COMMAND.trim, 0, 9 * BLOCK, 4096],
      [COMMAND.writeZeroes, 0, 10 * BLOCK, 4096],
      [COMMAND.read, 0, 20 * BLOCK - 1000, 100_000],
    ]);
    // libnbd waits for each reply: each request came after the reply to the one before.
    expect(replayPlan(recording).steps.map(({ after }) => after)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    const chunkBytes = (block: number): number => block;
    expect(
      firstTouches(recording, [{ name: 'system', blockBytes: BLOCK, chunkBytes }]).map((touch) => touch.chunkBytes),
    ).toEqual([5, 19, 20, 21]);

    // Over blockd, its cache empty: the disk is attached anew, and what was read is fetched.
    const plan = replayPlan(recording);
    await blockd.client.request('detach', { session: 's' });
    await rm(path.join(blockd.home, 'cache'), { recursive: true, force: true });
    await blockd.restart();
    await blockd.attach({ overlay: 'temporary', fresh: true });
    const before = blockd.repository.requests.length;
    const ours = await NbdPlayerClient.open(blockd.socket);
    expect(await play({ plan, clients: [ours], thinkFactor: 0 })).toMatchObject({
      requests: 7,
      reads: 3,
      repeated: 0,
      leftOut: 0,
    });
    ours.close();
    expect(blockd.repository.requests.length - before).toBeGreaterThanOrEqual(4);

    const folder = await mkdtemp(path.join(os.tmpdir(), 'replay-'));
    try {
      const socket = path.join(folder, 'nbdkit.sock');
      await using _nbdkit = new Child('nbdkit', 'nbdkit', [
        ...['--foreground', '--unix', socket, '--filter=cow', 'null', String(size.diskBytes)],
      ]);
      const theirs = await openWhenThere(socket);
      expect(await play({ plan, clients: [theirs], thinkFactor: 1 })).toMatchObject({
        requests: 7,
        reads: 3,
        repeated: 0,
      });
      theirs.close();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
