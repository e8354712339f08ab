/** The backup's worker process, as built: the same as on the calling thread; one that dies is replaced. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { deriveEpochKeys, encodeMapPage } from '@collective/shared';
import { ProcessPool, runPackTask, type PackTask, type PackWork } from '@collective/transceiver';
import { ROOT } from '../support/paths.js';

const script = pathToFileURL(path.join(ROOT, 'packages/transceiver/dist/backup/backup-worker.js'));
const keys = deriveEpochKeys(Buffer.alloc(32, 1));
/** No block is read: what reads over NBD is in blockd.integ.ts. */
const BLOCKS = { view: { diskBytes: 4_096, socketPath: '' }, blockBytes: 4_096, blockIndexes: new Uint32Array(0) };
const NAME: PackTask = {
  ...{ kind: 'name', blocks: BLOCKS, base: undefined, forced: new Uint8Array(1) },
  committed: { kinds: new Uint8Array(1), digests: Buffer.alloc(32) },
  nameKeys: [keys.blockNameKey],
};
const PAGES: PackTask = { kind: 'pages', pages: [encodeMapPage({ level: 0, entries: [{ kind: 'zero' }] })], level: 3 };

let pool: PackWork;
beforeEach(() => {
  pool = ProcessPool.open({ script, inline: () => ({ run: runPackTask }), workers: 1 });
});
afterEach(async () => pool.close());

describe('the worker', () => {
  test.each([NAME, PAGES])('gives what the calling thread gives ($kind)', async (task) => {
    const plain = (value: unknown): string =>
      JSON.stringify(value, (_key, one: unknown) =>
        one instanceof Uint8Array ? Buffer.from(one).toString('hex') : one,
      );
    const there = await pool.run(task);
    const here = await runPackTask(task);
    expect(plain(there).replace(/"data":\[[^\]]*\]/g, '')).toBe(plain(here).replace(/"data":\[[^\]]*\]/g, ''));
  });

  test('says with its code what is wrong, and goes on', async () => {
    const target = { path: '/nowhere/object', byteOffset: 0 };
    const wrong: PackTask = {
      ...{ kind: 'encode', blocks: BLOCKS, epoch: 1, level: 3, target },
      ...{ digests: Buffer.alloc(0), nameKey: keys.blockNameKey, chunkKey: keys.chunkKey },
    };
    await expect(pool.run(wrong)).rejects.toMatchObject({ code: 'local-io', data: { local: true } });
    expect((await pool.run(NAME)).kind).toBe('name');
  });

  test('that dies fails what it had and what waited; the next task gets a new one', async () => {
    await pool.run(NAME);
    const [pid = 0] = pool.pids;
    process.kill(pid, 'SIGSTOP');
    const ends = Promise.allSettled([pool.run(NAME), pool.run(NAME)]);
    process.kill(pid, 'SIGKILL');
    expect(
      (await ends).map((end) => (end.status === 'rejected' ? (end.reason as { code: string }).code : 'done')),
    ).toEqual(['internal', 'internal']);
    expect((await pool.run(NAME)).kind).toBe('name');
  });

  test('stands behind the guests, as a session of its own, and ends with its pool', async () => {
    const inline = (): { run: typeof runPackTask } => ({ run: runPackTask });
    const behind: PackWork = ProcessPool.open({ script, inline, workers: 1, isBackground: true });
    await behind.run(NAME);
    const [pid = 0] = behind.pids;
    const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
    expect({ session: Number(fields[3]), niceness: Number(fields[16]) }).toEqual({ session: pid, niceness: 10 });
    await behind.close();
    await expect(readFile(`/proc/${pid}/stat`)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('a task that cannot be sent fails alone', async () => {
    await expect(pool.run(undefined as never)).rejects.toThrow();
    expect((await pool.run(NAME)).kind).toBe('name');
  });

  test('of a pool that was closed takes nothing', async () => {
    await pool.run(NAME);
    await pool.close();
    await expect(pool.run(NAME)).rejects.toMatchObject({ code: 'shutting-down' });
  });
});
