/**
 * Publishers, readers and collectors against one real server that is killed again and again: for COLLECTOR_RACE_SECONDS (45;
 * the soak takes 600) nothing that a version in use names is ever missing, what was acknowledged stays, heads never go
 * back; and afterwards there is nothing that no version names. The grace time is zero. The server runs the collector by
 * itself every few seconds, and `gc` runs beside it all the time and is killed now and then.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  compareHeads,
  decodeChunk,
  decodeChunkBatch,
  type Digest,
  DiskMap,
  followTrust,
  MAP_PAGE_BYTES_MAX,
  openFirstTrust,
  openHeads,
  type SeenHeads,
  sha256,
  type TrustFile,
} from '@collective/shared';
import { SqliteCatalogue } from '@collective/repository-server';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Child } from '../support/child.js';
import { Repository, repositoryCommand } from '../support/collective.js';
import { COLLECTIVE_REPOSITORY } from '../support/paths.js';
import { BLOCK_BYTES, type Head, type Reply, ServerClient } from './server-client.js';

const SECONDS = Number(process.env['COLLECTOR_RACE_SECONDS'] ?? 45);
const SEED = Number(process.env['FAULT_SEED'] ?? 1);
/** Between two kills of the server: in the short run often enough to have some. */
const KILL_AFTER_MS: readonly [number, number] = SECONDS >= 300 ? [20_000, 40_000] : [7_000, 12_000];
const STEP_TIMEOUT_MS = 120_000;
const ENOUGH_MS_MAX = 300_000;
const BLOCKS = 20;
/** So few different blocks that garbage is wanted again all the time and appliances share. */
const SEEDS = 48;
const VERSIONS_KEPT = 3;
const PUBLISHERS = { alice: ['debian', 'shared'], bob: ['shared'], carol: ['tiny'] } as const;
const APPLIANCES = ['debian', 'shared', 'tiny'] as const;

type Published = { readonly appliance: string; readonly version: number; readonly manifest: Buffer };

let folder: string;
let repository: Repository;
const publishers: ServerClient[] = [];
const readers: ServerClient[] = [];
/** Versions whose end was asked for: from then on their blocks may go. */
const ended = new Set<string>();
const acknowledged: Published[] = [];
const tally = { acknowledged: 0, conflicts: 0, resent: 0, abandoned: 0, ended: 0, kills: 0, waits: 0, collections: 0 };
const seen = { collectionsKilled: 0, deleted: 0, versionsRead: 0, chunksRead: 0, heads: 0, endedUnderReader: 0 };
let isOver = false;
/** What has not happened often enough yet. */
const lacking = (): string[] =>
  (
    [
      ['acknowledged', 5],
      ['kills', 2],
      ['collections', 3],
      ['deleted', 5],
      ['ended', 1],
    ] as const
  ).flatMap(([what, atLeast]) => ({ ...tally, ...seen })[what] < atLeast ? [what] : []);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collector-race-'));
  await repositoryCommand(['init', join(folder, 'repository')]);
  repository = await Repository.serve(join(folder, 'repository'), 0, ['--collect-every', '4s', '--grace', '0s']);
  for (const [account, appliances] of Object.entries(PUBLISHERS)) {
    const access = appliances.map((name) => `${name}:publish`);
    publishers.push(
      await ServerClient.join(await repository.invite(account, 'publisher', { appliances: access }), account),
    );
    await repository.allow(account, ...appliances, 'garbage');
  }
  for (const account of ['dave', 'erin'])
    readers.push(
      await ServerClient.join(await repository.invite(account, 'publisher', { appliances: APPLIANCES }), account),
    );
});
afterAll(async () => {
  for (const client of [...publishers, ...readers]) await client.close();
  await repository[Symbol.asyncDispose]();
  // The collector of a server that was killed last may go on for a while.
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
});

test(
  `for ${SECONDS} s nothing that a version names is missing (seed ${SEED})`,
  { timeout: SECONDS * 1_000 + 900_000 },
  async () => {
    const random = seededRandom(SEED);
    const failures: unknown[] = [];
    const until = performance.now() + SECONDS * 1_000;
    // On a machine that others use it takes longer until enough has happened.
    const latest = until + ENOUGH_MS_MAX;
    const goesOn = (): boolean => performance.now() < until || (performance.now() < latest && lacking().length > 0);
    const loop = async (turn: () => Promise<void>): Promise<void> => {
      try {
        while (!isOver && goesOn()) await turn();
      } catch (error) {
        failures.push(error);
        isOver = true;
      }
    };
    await Promise.all([
      ...publishers.map((client, at) => loop(() => publish(client, Object.values(PUBLISHERS)[at] ?? [], random))),
      ...readers.map((client) => {
        const state: { seen?: SeenHeads } = {};
        return loop(() => read(client, state));
      }),
      loop(() => collect(random)),
      loop(() => kill(random, goesOn)),
    ]);
    process.stdout.write(`collector-race: seed ${SEED}: ${JSON.stringify({ ...tally, ...seen })}\n`);
    if (failures.length > 0) throw failures[0];
    await finish();
    expect(lacking(), 'a race without them shows nothing').toEqual([]);
  },
);

/** At rest everything that was acknowledged is there, and nothing else. */
const finish = async (): Promise<void> => {
  for (const { appliance, version, manifest } of acknowledged) {
    const { body } = await through('the manifest at the end', readers[0], (client) =>
      client.expect(200, 'versionManifest', { params: { name: appliance, version } }),
    );
    expect(body.equals(manifest), `${appliance}@${version} is what was acknowledged`).toBe(true);
  }
  // Sessions hold what they have, and back what is younger; those whose opening a kill left unanswered would end in a day.
  const { folder: root } = repository;
  const paths = { database: join(root, 'catalogue.sqlite'), lock: join(root, 'server', 'lock.sqlite') };
  const catalogue = await SqliteCatalogue.open(paths);
  for (const { id } of await catalogue.uploads.openUploads()) await catalogue.uploads.removeUpload(id);
  await catalogue.close();
  await repositoryCommand(['gc', repository.folder, '--grace', '0s']);
  expect(await repositoryCommand(['check', repository.folder])).toMatchObject({ ok: true, problems: [], orphans: 0 });
};

const uploads = new Map<ServerClient, Set<string>>();
const abandonAll = async (client: ServerClient): Promise<void> => {
  for (const upload of uploads.get(client) ?? [])
    await through('abandon', client, (each) => each.request('abandonUpload', { params: { upload } }));
};

const publish = async (client: ServerClient, appliances: readonly string[], random: () => number): Promise<void> => {
  const isGarbage = random() < 0.3;
  const appliance = appliances[Math.floor(random() * appliances.length)] ?? 'debian';
  const seeds = Array.from({ length: BLOCKS }, (_, at) => (at < 4 ? at : Math.floor(random() * SEEDS)));
  const head = await through('the head', client, (each) => each.head(appliance));
  const upload = await openAndSend(client, appliance, head, seeds);
  if (upload === undefined) return;
  if (isGarbage) {
    await through('abandon', client, (each) => each.request('abandonUpload', { params: { upload } }));
    tally.abandoned += 1;
    return;
  }
  const version = (head?.version ?? 0) + 1;
  const manifest = client.manifest(appliance, version, head, seeds);
  for (;;) {
    const reply = await through('the commit', client, (each) => each.commit(upload, manifest));
    if (reply.status === 404 && reply.json['code'] === 'block-missing') {
      // What it shared with a version was forgotten meanwhile: sent again, as a publisher does.
      tally.resent += 1;
      await through('chunks again', client, (each) => each.sendLacking(upload, seeds));
      await through('disk again', client, (each) => each.sendDisk(upload, seeds));
      continue;
    }
    uploads.get(client)?.delete(upload);
    if (reply.status === 409) {
      tally.conflicts += 1;
      await through('abandon', client, (each) => each.request('abandonUpload', { params: { upload } }));
      return;
    }
    expect(reply.status, reply.body.toString()).toBe(201);
    break;
  }
  tally.acknowledged += 1;
  acknowledged.push({ appliance, version, manifest });
  await endOld(client, appliance, random);
};

/** Undefined when somebody else was faster. */
const openAndSend = async (
  client: ServerClient,
  appliance: string,
  head: Head | null,
  seeds: readonly number[],
): Promise<string | undefined> => {
  const parent = head?.version ?? null;
  const opened = await through('a session', client, (each) =>
    each.request('createUpload', { params: { name: appliance }, body: { parent } }),
  );
  if (opened.status === 409 || opened.status === 429) {
    if (opened.status === 429) await abandonAll(client);
    return undefined;
  }
  expect(opened.status, opened.body.toString()).toBe(200);
  const upload = String(opened.json['upload']);
  const mine = uploads.get(client) ?? new Set();
  uploads.set(client, mine.add(upload));
  await through('chunks', client, (each) => each.sendLacking(upload, seeds));
  await through('disk', client, (each) => each.sendDisk(upload, seeds));
  return upload;
};

const endOld = async (client: ServerClient, appliance: string, random: () => number): Promise<void> => {
  const versions = await listed(client, appliance);
  for (const { version } of versions.slice(0, -VERSIONS_KEPT)) {
    ended.add(`${appliance}@${version}`);
    const route = random() < 0.3 ? 'withdrawVersion' : 'deleteVersion';
    const reply = await through(route, client, (each) => each.request(route, { params: { name: appliance, version } }));
    // Another publisher may have ended it already, or the answer to this very request was lost.
    expect([200, 404], reply.body.toString()).toContain(reply.status);
    tally.ended += 1;
  }
};

const listed = async (client: ServerClient, appliance: string): Promise<Head[]> => {
  const reply = await through('the versions', client, (each) =>
    each.request('versions', { params: { name: appliance } }),
  );
  return reply.status === 404 ? [] : (JSON.parse(reply.body.toString('utf8')) as Head[]);
};

/** Everything that each version in use names, as a client fetches it. */
const read = async (client: ServerClient, state: { seen?: SeenHeads }): Promise<void> => {
  const trust = await newestTrust(client);
  const { body } = await through('the heads', client, (each) => each.expect(200, 'heads'));
  state.seen = compareHeads(state.seen, openHeads(body, trust), trust);
  seen.heads += 1;
  for (const appliance of APPLIANCES)
    for (const head of await listed(client, appliance)) {
      if (isOver || ended.has(`${appliance}@${head.version}`)) continue;
      await readVersion(client, appliance, head);
    }
};

const readVersion = async (client: ServerClient, appliance: string, { version, manifest }: Head): Promise<void> => {
  const name = `${appliance}@${version}`;
  const mayBeGone = (reply: Reply, what: string): boolean => {
    if (reply.status === 200) return false;
    if (!ended.has(name)) throw new Error(`${name}: ${what}: ${reply.status} ${reply.body.toString()}`);
    seen.endedUnderReader += 1;
    return true;
  };
  const params = { name: appliance, version };
  const file = await through('a manifest', client, (each) => each.request('versionManifest', { params }));
  if (mayBeGone(file, 'its manifest')) return;
  expect(sha256(file.body), name).toBe(manifest);
  const maps = await through('a map', client, (each) =>
    each.request('diskMap', { params: { ...params, disk: 'system' }, query: { part: 'all' } }),
  );
  if (mayBeGone(maps, 'its map')) return;
  const pages = new Map(
    decodeChunkBatch(maps.body).map(({ digest, chunk }) => [
      digest,
      decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX }),
    ]),
  );
  const root = rootOf(file.body);
  const map = DiskMap.fromPages({
    diskBytes: BLOCKS * BLOCK_BYTES,
    blockBytes: BLOCK_BYTES,
    root,
    pages: (digest) => pages.get(digest),
  });
  for (let index = 0; index < BLOCKS; index += 1) {
    const entry = map.entryAt(index);
    if (entry.kind !== 'public') continue;
    const { digest } = entry;
    const reply = await through('a chunk', client, (each) => each.request('chunk', { params: { digest } }));
    if (mayBeGone(reply, `its chunk ${digest}`)) return;
    decodeChunk(reply.body, { digest, plainBytes: BLOCK_BYTES });
    seen.chunksRead += 1;
  }
  seen.versionsRead += 1;
};

const rootOf = (manifest: Buffer): Digest => {
  const envelope = JSON.parse(manifest.toString('utf8')) as { readonly payload: string };
  const payload = JSON.parse(Buffer.from(envelope.payload, 'base64').toString('utf8')) as {
    readonly disks: readonly { readonly root: Digest }[];
  };
  const root = payload.disks[0]?.root;
  if (root === undefined) throw new Error('a manifest without a disk');
  return root;
};

let trust: TrustFile | undefined;
const newestTrust = async (client: ServerClient): Promise<TrustFile> => {
  const fetchTrust = (number: number): Promise<Reply> =>
    through('a trust file', client, (each) => each.request('trust', { params: { number } }));
  if (trust === undefined) {
    const { body } = await fetchTrust(1);
    trust = openFirstTrust(body, sha256(body));
  }
  for (;;) {
    const held: TrustFile = trust;
    const next = await fetchTrust(held.number + 1);
    if (next.status === 404) return trust;
    trust = followTrust(held, next.body);
  }
};

/** `gc` beside the server, with its own collector beside both; killed now and then. */
const collect = async (random: () => number): Promise<void> => {
  const words = [COLLECTIVE_REPOSITORY, 'gc', repository.folder, '--grace', '0s', '--json'];
  const child = new Child('gc', process.execPath, words);
  const timer = random() < 0.25 ? setTimeout(() => child.kill(), 200 + random() * 600) : undefined;
  const { code, stdout, stderr } = await child.exit();
  clearTimeout(timer);
  if (code === null) {
    seen.collectionsKilled += 1;
    return;
  }
  expect(code, `gc: ${stderr}`).toBe(0);
  tally.collections += 1;
  seen.deleted += Number((JSON.parse(stdout) as { readonly chunksDeleted: number }).chunksDeleted);
};

const kill = async (random: () => number, goesOn: () => boolean): Promise<void> => {
  const [least, most] = KILL_AFTER_MS;
  const at = performance.now() + least + random() * (most - least);
  await new Promise((resolve) => {
    const timer = setInterval(() => {
      if (!isOver && goesOn() && performance.now() < at) return;
      clearInterval(timer);
      resolve(undefined);
    }, 50);
  });
  if (isOver || !goesOn()) return;
  await repository.restart();
  tally.kills += 1;
};

/** Asks again while the server is away, and when it says that it failed; a step that never ends fails by its name. */
const through = async <T>(
  step: string,
  client: ServerClient | undefined,
  work: (client: ServerClient) => Promise<T>,
): Promise<T> => {
  if (client === undefined) throw new Error('no client');
  const deadline = performance.now() + STEP_TIMEOUT_MS;
  for (;;) {
    try {
      return await work(client);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? String(error.code) : '';
      if (!/^(ECONN|UND_ERR_SOCKET|EPIPE)/.test(code)) throw error;
      if (performance.now() > deadline)
        throw new Error(`${step}: no answer for ${STEP_TIMEOUT_MS} ms`, { cause: error });
      tally.waits += 1;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
};

const seededRandom = (seed: number): (() => number) => {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
};
