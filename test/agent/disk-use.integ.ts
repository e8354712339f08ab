/**
 * What sessions touch after their boot, by the command line with real (tiny) guests: two people's sessions teach the repository which blocks are touched together;
 * on a third machine the first of them brings the others, and its background brings what both have used, and no more.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeBootTrace, decodeDiskUse, sha256, type DiskUse } from '@collective/shared';
import { ControlClient } from '@collective/transceiver';
import { Person } from '../support/collective.js';
import { ConsoleShell } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { TinyPublished } from './tiny-published.js';

const START = ['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240'];
const BLOCK_BYTES = 65_536;
const TRACES = 'appliances/tiny/1/traces/system';
/** The boot is over 20 s after its last new block, and what was left is looked for every 30 s. */
const TOLD_MS = 200_000;
/** Further apart than the block path reads ahead where a read goes on into the next block. */
const APART = 10;

let tiny: TinyPublished;
let cleo: Person;
let image: Buffer;
/** Blocks of what passes for applications: no boot touches them. */
let editor: readonly number[];
let browser: readonly number[];
let unused: readonly number[];

beforeAll(async () => {
  tiny = await TinyPublished.open();
  cleo = await Person.temporary();
  image = await readFile(path.join(tiny.image, 'system.raw'));
});
afterAll(async () => {
  await cleo[Symbol.asyncDispose]();
  await tiny[Symbol.asyncDispose]();
});

const inRepository = (name: string): string => path.join(tiny.fixture.folder, TRACES, name);
const bootVotes = async (): Promise<string[]> =>
  (await readdir(inRepository('')).catch(() => [])).filter((each) => /^[0-9a-f]{32}$/.test(each));

/** The guest reads one after the other, and nothing beside them. */
const reading = (blocks: readonly number[]): string =>
  `echo 0 >/sys/block/vda/queue/read_ahead_kb; for n in ${blocks.join(' ')}; do dd if=/dev/vda of=/dev/null bs=64k skip=$n count=1 2>/dev/null; done`;

const contentOf = (blockIndex: number): Buffer =>
  image.subarray(blockIndex * BLOCK_BYTES, (blockIndex + 1) * BLOCK_BYTES);

/** Far apart from each other and from what the boot has touched. */
const farBlocks = (touched: ReadonlySet<number>, count: number): number[] => {
  const found: number[] = [];
  const seen = new Set<string>();
  for (let block = image.length / BLOCK_BYTES - 1; block > 0 && found.length < count; block -= 1) {
    const near = Array.from({ length: 2 * APART }, (_none, at) => block - APART + at);
    if (near.some((each) => touched.has(each) || found.includes(each))) continue;
    const content = contentOf(block);
    const digest = sha256(content);
    if (content.every((byte) => byte === 0) || seen.has(digest)) continue;
    seen.add(digest);
    found.push(block);
  }
  return found;
};

const ofBlockd = async <T>(person: Person, ask: (client: ControlClient) => Promise<T>): Promise<T> => {
  const blockd = await ControlClient.connect(path.join(person.home, 'run/blockd.sock'));
  try {
    return await ask(blockd);
  } finally {
    blockd.close();
  }
};
const missingOf = async (person: Person, blocks: readonly number[]): Promise<number> => {
  const list = path.join(tiny.folder, 'asked');
  await writeFile(list, Buffer.concat(blocks.map((block) => Buffer.from(sha256(contentOf(block)), 'hex'))));
  const { missing } = await ofBlockd(person, (blockd) =>
    blockd.request('missing', { blockBytes: BLOCK_BYTES, path: list }),
  );
  return missing;
};
/** Reads of a guest that had to wait for the line. */
const missesOf = async (person: Person): Promise<number> =>
  ofBlockd(person, async (blockd) => (await blockd.request('status', {})).cache.misses);

const lookOf = async (person: Person): Promise<number | undefined> =>
  ((await person.json(['status']))['prefetch'] as { readonly lookedAt?: number }).lookedAt;

/** A boot, and what a person does after it. */
const session = async (person: Person, votes: number, work: () => Promise<void>): Promise<void> => {
  await person.json(START);
  await eventually(`${votes} boots told`, TOLD_MS, async () =>
    (await bootVotes()).length === votes ? true : undefined,
  );
  await work();
  await person.json(['stop', 'tiny', '--force']);
  await eventually(`${votes} sessions told and merged`, TOLD_MS, async () => {
    const bytes = await readFile(inRepository('use/merged')).catch(() => undefined);
    return bytes !== undefined && decodeDiskUse(bytes).records === votes ? true : undefined;
  });
};

const merged = async (): Promise<DiskUse> => decodeDiskUse(await readFile(inRepository('use/merged')));

it('what one person has used says nothing yet', async () => {
  await session(tiny.pat, 1, async () => {
    const [vote = ''] = await bootVotes();
    const { touches } = decodeBootTrace(await readFile(inRepository(vote)));
    const far = farBlocks(new Set(touches.map(({ blockIndex }) => blockIndex)), 11);
    expect(far).toHaveLength(11);
    [editor, browser, unused] = [far.slice(0, 4), far.slice(4, 8), far.slice(8)];
    const shell = new ConsoleShell(tiny.pat, 'tiny');
    await shell.ask(`${reading(editor)}; sleep 12; ${reading(browser)}`);
  });
  expect(await merged()).toMatchObject({ records: 1, blocks: [], groups: [] });
});

it('two people who used the same applications, in another order, teach the repository what belongs together', async () => {
  await session(tiny.ben, 2, async () => {
    const shell = new ConsoleShell(tiny.ben, 'tiny');
    await shell.ask(`${reading(browser)}; sleep 12; ${reading(editor)}`);
  });
  const { records, blocks, groups } = await merged();
  expect(records).toBe(2);
  const used = new Set(blocks.map(({ blockIndex }) => blockIndex));
  for (const block of [...editor, ...browser]) expect(used.has(block), `block ${block}`).toBe(true);
  for (const block of unused) expect(used.has(block), `block ${block}`).toBe(false);
  const withFirstOf = (blocks: readonly number[]) =>
    groups.find((group) => group.blocks.slice(0, group.triggers).includes(blocks[0] ?? -1));
  for (const [one, other] of [
    [editor, browser],
    [browser, editor],
  ] as const) {
    const group = withFirstOf(one)?.blocks ?? [];
    for (const block of one) expect(group).toContain(block);
    for (const block of other) expect(group).not.toContain(block);
  }
});

it('on a third machine the first block of an application brings the others, and those alone', async () => {
  await cleo.login(await tiny.fixture.server.invite('cleo', 'user', { appliances: ['tiny'] }), 'cleo');
  // The background looks a minute after the login, finds no machine, and again ten minutes later.
  const lookedAt = await eventually('its first look', 120_000, async () => lookOf(cleo));
  await cleo.json(START);
  expect(await missingOf(cleo, [...editor, ...browser])).toBe(8);
  const shell = new ConsoleShell(cleo, 'tiny');
  await shell.ask(reading(editor.slice(0, 1)));
  await eventually('the rest of the editor', 60_000, async () =>
    (await missingOf(cleo, editor)) === 0 ? true : undefined,
  );
  expect(await missingOf(cleo, browser)).toBe(4);
  const misses = await missesOf(cleo);
  await shell.ask(reading(editor.slice(1)));
  expect(await missesOf(cleo)).toBe(misses);
  await shell.ask(reading(unused.slice(0, 1)));
  expect(await missesOf(cleo)).toBe(misses + 1);
  expect(await lookOf(cleo)).toBe(lookedAt); // the background has had no part in it
});

it('its background brings what both have used, and nothing that nobody has', async () => {
  await cleo.json(['update']);
  await eventually('the browser', 120_000, async () => ((await missingOf(cleo, browser)) === 0 ? true : undefined));
  expect(await missingOf(cleo, unused.slice(1))).toBe(2);
  await cleo.json(['stop', 'tiny', '--force']);
});
