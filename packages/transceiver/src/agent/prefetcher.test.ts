import { copyFile, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { CollectiveError, DiskMap, encodeBootTrace, type Digest, type VersionManifest } from '@collective/shared';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { eventually, settle } from '../blockd/testing/eventually.js';
import { NO_HINTS } from './boot-traces.js';
import { Prefetcher, type PrefetcherOptions } from './prefetcher.js';
import { Subscription } from './subscription.js';

let folder: string;
let logged: string[];
let opened: Prefetcher[];
const unhandled: unknown[] = [];
const onUnhandled = (error: unknown): void => void unhandled.push(error);
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'prefetcher-'));
  await mkdir(path.join(folder, 'run'));
  for (const name of ['bad', 'good']) await Subscription.open(path.join(folder, 'machines'), name);
  logged = [];
  opened = [];
  unhandled.length = 0;
  process.on('unhandledRejection', onUnhandled);
});
afterEach(async () => {
  await Promise.all(opened.map(async (each) => each.close()));
  process.off('unhandledRejection', onUnhandled);
  await rm(folder, { recursive: true, force: true });
});

const BLOCK = 65_536;
const map = DiskMap.empty({ diskBytes: 40 * BLOCK, blockBytes: BLOCK });
for (let block = 0; block < 40; block += 1)
  map.set(block, { kind: 'public', digest: (block + 16).toString(16).repeat(32) as Digest });
const { root, pages } = map.build();
const disk = { name: 'system', kind: 'system', diskBytes: 40 * BLOCK, blockBytes: BLOCK, root };
const trace = encodeBootTrace({
  ...{ version: 2, root, blockBytes: BLOCK },
  touches: Array.from({ length: 40 }, (_none, blockIndex) => ({ blockIndex, afterMs: 0, phase: 0, chunkBytes: 0 })),
});
const hints = { ...NO_HINTS, traces: new Map([['system', trace]]) };

/** Two appliances, of each of which a boot touches 40 blocks. */
const open = (overrides: Partial<PrefetcherOptions> & { readonly refresh?: () => Promise<unknown> } = {}) => {
  const { refresh = async () => Promise.resolve({ source: {} }), ...options } = overrides;
  const looked: string[] = [];
  const session = {
    refresh,
    source: () => ({}),
    client: {},
    trust: {
      newest: async (appliance: string) => {
        looked.push(appliance);
        return Promise.resolve({ manifest: { appliance, version: 2, disks: [disk] }, digest: 'd', notes: [] });
      },
    },
  };
  const objects = {
    get: (_kind: string, digest: Digest) => pages.get(digest),
    verifiedVersions: async () => Promise.resolve([]),
  };
  const prefetcher = new Prefetcher({
    home: { directory: folder, machinesDirectory: path.join(folder, 'machines') },
    objects: objects as unknown as PrefetcherOptions['objects'],
    session: session as unknown as PrefetcherOptions['session'],
    traces: { forStart: async () => Promise.resolve(hints) },
    blockd: async () => Promise.resolve(new FakeBlockd().client),
    applianceOf: (machine) => machine,
    isMetered: async () => Promise.resolve(false),
    log: (text) => logged.push(text),
    firstLookMs: 0,
    ...options,
  });
  opened.push(prefetcher);
  return { prefetcher, looked };
};

/** Has nothing, and gets everything at once, unless it is told otherwise. */
class FakeBlockd {
  readonly asked: string[] = [];
  prefetch = async (): Promise<object> => Promise.resolve({});
  readonly client = {
    request: async (method: string, params: { readonly path: string; readonly answer?: string }): Promise<object> => {
      this.asked.push(method);
      if (method === 'prefetch') return this.prefetch();
      if (params.answer !== undefined) await copyFile(params.path, params.answer);
      return {};
    },
  } as unknown as Awaited<ReturnType<PrefetcherOptions['blockd']>>;
}

it('a repository that answers, and is away for what is asked next, is not asked again and again', async () => {
  let looks = 0;
  const { prefetcher } = open({
    refresh: async () => {
      looks += 1;
      prefetcher.wake(); // RepositoryClient.onBack: it was away at the look before
      return Promise.reject(new CollectiveError('repository-unreachable', 'gone again'));
    },
  });
  await eventually('a look', () => prefetcher.status.state === 'away');
  for (let count = 0; count < 50; count += 1) await settle();
  expect(looks).toBe(1);
});

it('what is wrong with one appliance keeps nobody from another, is said, and is not taken for nothing to do', async () => {
  const { prefetcher, looked } = open({
    traces: {
      forStart: async ({ appliance }: VersionManifest) =>
        appliance === 'bad' ? Promise.reject(new CollectiveError('malformed', 'no trace')) : Promise.resolve(NO_HINTS),
    },
  });
  await eventually('a look', () => prefetcher.status.lookedAt !== undefined);
  expect(looked).toEqual(['bad', 'good']);
  expect(logged.join()).toMatch(/bad.*no trace/);
  expect(prefetcher.status.state).toBe('failed');
});

it('what boots touch is brought in, in slices', async () => {
  const blockd = new FakeBlockd();
  const { prefetcher } = open({ blockd: async () => Promise.resolve(blockd.client) });
  await eventually('a look', () => prefetcher.status.lookedAt !== undefined);
  const each = ['missing', 'prefetch', 'prefetch', 'prefetch'];
  expect(blockd.asked).toEqual([...each, ...each]);
  expect(prefetcher.status.state).toBe('idle');
});

it('when it is ended it is over at once, however long the block daemon takes to come, and asks it nothing more', async () => {
  let come: ((client: FakeBlockd['client']) => void) | undefined;
  const { prefetcher } = open({ blockd: async () => new Promise((resolve) => (come = resolve)) });
  await eventually('a call', () => come !== undefined);
  await prefetcher.close();
  const blockd = new FakeBlockd();
  come?.(blockd.client);
  await settle();
  expect(blockd.asked).toEqual([]);
  expect(await readdir(path.join(folder, 'run'))).toEqual([]);
});

it('is ended between two slices: the next one is not asked for, and a block daemon that ends then is nobody else’s error', async () => {
  const blockd = new FakeBlockd();
  let calls = 0;
  let come: (() => void) | undefined;
  blockd.prefetch = async () => Promise.reject(new CollectiveError('shutting-down', 'ended'));
  const { prefetcher } = open({
    blockd: async () => {
      calls += 1;
      if (calls > 1) await new Promise<void>((resolve) => (come = resolve));
      return blockd.client;
    },
  });
  await eventually('a slice', () => come !== undefined);
  const closed = prefetcher.close();
  come?.();
  await closed;
  for (let count = 0; count < 10; count += 1) await settle();
  expect(unhandled).toEqual([]);
  expect(blockd.asked).toEqual(['missing']);
});

it('is not ready to start a block daemon when it is ended while it looks', async () => {
  let answer: (() => void) | undefined;
  let calls = 0;
  const { prefetcher } = open({
    traces: {
      forStart: async () => {
        await new Promise<void>((resolve) => (answer = resolve));
        return hints;
      },
    },
    blockd: async () => {
      calls += 1;
      return Promise.resolve(new FakeBlockd().client);
    },
  });
  await eventually('a question', () => answer !== undefined);
  const closed = prefetcher.close();
  answer?.();
  await closed;
  expect(calls).toBe(0);
});
