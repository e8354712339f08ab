/**
 * The background prefetcher by the command line: of a new version comes what took the place of what was used here, before anybody starts it, and
 * nothing on a link that is metered, or while the repository is away.
 */
import { copyFile, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

const BLOCK_BYTES = 65_536;
/** A look is begun at once; the line is a fast one. */
const BROUGHT_MS = 120_000;

let fixture: RepositoryFixture;
let folder: string;
let image: string;
let pat: Person;
let ben: Person;
let link: Link;

beforeAll(async () => {
  image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'prefetch-'));
  pat = await Person.temporary();
  ben = await Person.temporary();
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await pat.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  link = await Link.open({ toPort: fixture.server.port, profile: 'lan' });
  const invitation = { appliances: ['tiny'], throughPort: link.port };
  await ben.login(await fixture.server.invite('ben', 'user', invitation), 'ben');
});
afterAll(async () => {
  await pat[Symbol.asyncDispose]();
  await ben[Symbol.asyncDispose]();
  await link.close();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** The system disk with another byte at the end of each block that has any content. */
const publishChanged = async (mark: number): Promise<void> => {
  const changed = path.join(folder, `system-${mark}.raw`);
  await copyFile(path.join(image, 'system.raw'), changed);
  const file = await open(changed, 'r+');
  const { size } = await file.stat();
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let at = 0; at < size; at += BLOCK_BYTES) {
    await file.read(block, 0, BLOCK_BYTES, at);
    if (!block.every((byte) => byte === 0)) await file.write(Buffer.of(mark), 0, 1, at + BLOCK_BYTES - 1);
  }
  await file.close();
  await pat.json(['publish', 'tiny', '--disk', `system=${changed}`, '--no-boot-test']);
};

type AtHand = { readonly version: number; readonly blocks: number; readonly missingBlocks: number };
const atHand = async (version: number): Promise<AtHand | undefined> => {
  const { appliances } = (await ben.json(['appliances'])) as {
    readonly appliances: readonly { readonly atHand?: readonly AtHand[] }[];
  };
  return appliances[0]?.atHand?.find((each) => each.version === version);
};
const filled = async (): Promise<number> => {
  const blockd = await ControlClient.connect(path.join(ben.home, 'run/blockd.sock'));
  const { cache } = await blockd.request('status', {});
  blockd.close();
  return cache.filled;
};
type Prefetch = { readonly state: string; readonly lookedAt?: number };
const prefetch = async (): Promise<Prefetch> => (await ben.json(['status']))['prefetch'] as Prefetch;
const looked = async (state: string): Promise<void> => {
  await eventually(`a look that ends ${state}`, BROUGHT_MS, async () =>
    (await prefetch()).state === state && (await prefetch()).lookedAt !== undefined ? true : undefined,
  );
};

it('of a new version comes what took the place of what was used here, before it is started', async () => {
  await ben.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240']);
  await ben.json(['stop', 'tiny', '--force']);
  const first = await atHand(1);
  const used = (first?.blocks ?? 0) - (first?.missingBlocks ?? 0);
  expect(used).toBeGreaterThan(20);
  expect(first?.missingBlocks).toBeGreaterThan(20); // else it would not show that the rest stays away

  await publishChanged(0xe5);
  await ben.json(['settings', '--metered', 'on']);
  const before = await filled();
  await ben.json(['update']);
  await looked('metered');
  expect(await filled()).toBe(before);
  expect(await atHand(2)).toBeUndefined();

  await ben.json(['settings', '--metered', 'off']);
  const second = await eventually('version 2 brought in', BROUGHT_MS, async () => {
    const { state } = await prefetch();
    const now = await atHand(2);
    return state === 'idle' ? now : undefined;
  });
  const brought = (await filled()) - before;
  expect(await readFile(path.join(ben.home, 'log/agent.log'), 'utf8')).not.toMatch(/bringing in ahead/);
  // The user disk's beginning is the same in both, and not brought in.
  expect(Math.abs(brought - used)).toBeLessThan(10);
  expect(second.missingBlocks).toBeLessThan(second.blocks - used + 10);
  expect(second.missingBlocks).toBeGreaterThan(10);
  // What is here is not asked for again.
  const { lookedAt } = await prefetch();
  await ben.json(['update']);
  await eventually('another look', BROUGHT_MS, async () =>
    (await prefetch()).lookedAt === lookedAt ? undefined : true,
  );
  expect((await filled()) - before).toBe(brought);
});

it('without the repository it waits, and goes on when that is back', async () => {
  link.down();
  await ben.json(['settings', '--metered', 'auto']);
  await looked('away');
  link.up();
  await publishChanged(0xe6);
  const before = await filled();
  // Whichever request finds the repository back.
  await ben.json(['update']);
  await eventually('version 3 brought in', BROUGHT_MS, async () =>
    (await prefetch()).state === 'idle' && (await filled()) > before + 10 ? true : undefined,
  );
});
