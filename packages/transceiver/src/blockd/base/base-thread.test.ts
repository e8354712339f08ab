import { CollectiveError, type Digest } from '@collective/shared';
import { afterEach, describe, expect, it } from 'vitest';
import { BaseThread } from './base-thread.js';

/** Answers as base-worker.js would: a base whose number says how many this thread has opened. */
const WORKER = `
import { parentPort } from 'node:worker_threads';
let opened = 0;
parentPort.on('message', ({ id, folder }) => {
  if (folder === '/dies') process.exit(1);
  if (folder === '/refused') {
    parentPort.postMessage({ id, kind: 'failed', error: { code: 'not-found', message: 'there is no base', data: { at: 1 } } });
    return;
  }
  const kinds = new Uint8Array([0, 2]);
  const digestBytes = new Uint8Array(64).fill(++opened);
  const file = { diskBytes: 8192, blockBytes: 4096 };
  parentPort.postMessage({ id, kind: 'opened', file, kinds, digestBytes }, [kinds.buffer, digestBytes.buffer]);
});
`;
const SCRIPT = new URL(`data:text/javascript,${encodeURIComponent(WORKER)}`);
const DIGEST = 'ab'.repeat(32) as Digest;

describe('the thread that opens bases', () => {
  const threads: BaseThread[] = [];
  const newThread = (): BaseThread => {
    const thread = new BaseThread(SCRIPT);
    threads.push(thread);
    return thread;
  };
  afterEach(async () => {
    await Promise.all(threads.splice(0).map((thread) => thread.close()));
  });

  it('opens one base after the other, all in one thread', async () => {
    const thread = newThread();
    const together = await Promise.all([thread.open('/a', DIGEST), thread.open('/b', DIGEST)]);
    const later = await thread.open('/c', DIGEST);
    expect([...together, later].map(({ digestBytes }) => digestBytes[0])).toEqual([1, 2, 3]);
    expect(later).toMatchObject({ digest: DIGEST, diskBytes: 8192, blockBytes: 4096, blockCount: 2 });
  });

  it('says why a base cannot be opened, and opens the next', async () => {
    const thread = newThread();
    const refused = await thread.open('/refused', DIGEST).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(CollectiveError);
    expect(refused).toMatchObject({ code: 'not-found', data: { at: 1 } });
    expect((await thread.open('/a', DIGEST)).blockCount).toBe(2);
  });

  it('refuses what is asked of a thread that ends, and starts another for the next', async () => {
    const thread = newThread();
    const [dying, behind] = await Promise.allSettled([thread.open('/dies', DIGEST), thread.open('/a', DIGEST)]);
    expect([dying.status, behind.status]).toEqual(['rejected', 'rejected']);
    expect((await thread.open('/a', DIGEST)).digestBytes[0]).toBe(1);
  });

  // A block daemon that ends while a disk is attached: whoever asked goes to the next one.
  it('refuses what is under way when it is closed, and what comes after', async () => {
    const thread = newThread();
    const opening = expect(thread.open('/a', DIGEST)).rejects.toMatchObject({ code: 'shutting-down' });
    await thread.close();
    await opening;
    await expect(thread.open('/a', DIGEST)).rejects.toMatchObject({ code: 'shutting-down' });
  });
});
