import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CollectiveError, decodeChunkBatch, sha256, type RouteName } from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import { uploadBlocks } from './upload.js';
import { openUpload } from './upload-session.js';
import { openWorkPool } from './work-pool.js';

const BLOCK = 4096;
const UPLOAD = 'a'.repeat(32);
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-upload-'));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

type Call = { readonly name: RouteName; readonly options: { readonly body?: unknown; readonly params?: unknown } };
/** The calls of a repository client, answered by a function. */
const clientThat = (
  answer: (call: Call) => unknown,
): { readonly client: Pick<RepositoryClient, 'call'>; readonly calls: Call[] } => {
  const calls: Call[] = [];
  const call = async (name: RouteName, options: Call['options']): Promise<unknown> => {
    calls.push({ name, options });
    return answer({ name, options });
  };
  return { client: { call } as unknown as Pick<RepositoryClient, 'call'>, calls };
};
const signal = new AbortController().signal;

describe('uploadBlocks', () => {
  const blocks = async (count: number): Promise<{ path: string; digests: Buffer }> => {
    const path = join(folder, 'disk');
    const contents = Array.from({ length: count }, (_none, index) => Buffer.alloc(BLOCK, index + 1));
    await writeFile(path, Buffer.concat(contents));
    return { path, digests: Buffer.concat(contents.map((block) => Buffer.from(sha256(block), 'hex'))) };
  };

  it('sends what the server lacks and nothing else', async () => {
    const { path, digests } = await blocks(10);
    const { client, calls } = clientThat(({ name }) =>
      name === 'lackingChunks' ? digests.subarray(3 * 32, 5 * 32) : { stored: 2, known: 0 },
    );
    const pool = openWorkPool({ workers: 0 });
    const progress: number[] = [];
    const { sentBlocks } = await uploadBlocks(
      UPLOAD,
      {
        source: { kind: 'file', path, diskBytes: 10 * BLOCK },
        blockBytes: BLOCK,
        blocks: { blockIndexes: Uint32Array.from({ length: 10 }, (_none, index) => index), digests },
      },
      { client, pool, signal, onProgress: (there) => progress.push(there) },
    );
    await pool.close();
    expect(sentBlocks).toBe(2);
    expect(progress).toEqual([8, 10]);
    const sent = calls
      .filter(({ name }) => name === 'uploadChunks')
      .flatMap(({ options }) => decodeChunkBatch(options.body as Buffer));
    expect(sent.map(({ digest }) => digest)).toEqual([
      digests.toString('hex', 96, 128),
      digests.toString('hex', 128, 160),
    ]);
  });

  it('ends with the error of a batch that was refused', async () => {
    const { path, digests } = await blocks(3);
    const { client } = clientThat(({ name }) => {
      if (name === 'lackingChunks') return digests;
      throw new CollectiveError('disk-full');
    });
    const pool = openWorkPool({ workers: 0 });
    const uploading = uploadBlocks(
      UPLOAD,
      {
        source: { kind: 'file', path, diskBytes: 3 * BLOCK },
        blockBytes: BLOCK,
        blocks: { blockIndexes: Uint32Array.of(0, 1, 2), digests },
      },
      { client, pool, signal, onProgress: () => undefined },
    );
    await expect(uploading).rejects.toMatchObject({ code: 'disk-full' });
    await pool.close();
  });
});

describe('openUpload', () => {
  const wanted = { repository: sha256(Buffer.from('r')), appliance: 'demo', parent: 3 };
  const state = { upload: UPLOAD, appliance: 'demo', parent: 3, expiresAt: 1, chunks: 0 };
  const options = (client: Pick<RepositoryClient, 'call'>) => ({ uploadsDirectory: folder, client, signal });

  it('begins a session, and continues it the next time', async () => {
    const { client, calls } = clientThat(() => state);
    expect(await openUpload(wanted, options(client))).toMatchObject({ upload: UPLOAD, isContinued: false });
    const again = await openUpload(wanted, options(client));
    expect(again).toMatchObject({ upload: UPLOAD, isContinued: true });
    expect(calls.map(({ name }) => name)).toEqual(['createUpload', 'upload']);
    await again.forget();
    await expect(readFile(join(folder, 'demo.json'))).rejects.toThrow();
  });

  it('begins anew when the session has expired', async () => {
    const { client, calls } = clientThat(({ name }) => {
      if (name === 'upload') throw new CollectiveError('not-found');
      return state;
    });
    await openUpload(wanted, options(client));
    expect(await openUpload(wanted, options(client))).toMatchObject({ isContinued: false });
    expect(calls.map(({ name }) => name)).toEqual(['createUpload', 'upload', 'createUpload']);
  });

  it('continues a session after another publisher was faster: its chunks are still there', async () => {
    const { client, calls } = clientThat(() => state);
    await openUpload(wanted, options(client));
    expect(await openUpload({ ...wanted, parent: 4 }, options(client))).toMatchObject({ isContinued: true });
    expect(calls.map(({ name }) => name)).toEqual(['createUpload', 'upload', 'lackingChunks']);
  });

  it('begins anew when the session has become a version, or began as a new appliance', async () => {
    const committed = clientThat(({ name }) => {
      if (name === 'lackingChunks') throw new CollectiveError('conflict');
      return state;
    });
    await openUpload(wanted, options(committed.client));
    expect(await openUpload({ ...wanted, parent: 4 }, options(committed.client))).toMatchObject({ isContinued: false });
    expect(committed.calls.map(({ name }) => name)).toEqual([
      'createUpload',
      'upload',
      'lackingChunks',
      'abandonUpload',
      'createUpload',
    ]);
    const first = clientThat(() => ({ ...state, parent: null }));
    expect(await openUpload({ ...wanted, parent: 5 }, options(first.client))).toMatchObject({ isContinued: false });
  });

  it('keeps the session when the repository is away', async () => {
    let isAway = false;
    const { client } = clientThat(() => {
      if (isAway) throw new CollectiveError('repository-unreachable');
      return state;
    });
    await openUpload(wanted, options(client));
    isAway = true;
    await expect(openUpload(wanted, options(client))).rejects.toMatchObject({ code: 'repository-unreachable' });
    isAway = false;
    expect(await openUpload(wanted, options(client))).toMatchObject({ isContinued: true });
  });
});
