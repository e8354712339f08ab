/**
 * Publishers that race for one version, and a collector that runs all the time beside them, as processes: one publisher
 * wins each round, the other is told by whom, and nothing that a manifest names is ever missing.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '@collective/shared';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Repository, repositoryCommand } from '../support/collective.js';
import { type Head, ServerClient } from './server-client.js';

const ROUNDS = 6;

let folder: string;
let repository: Repository;
let clients: ServerClient[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'server-race-'));
  await repositoryCommand(['init', join(folder, 'repository')]);
  repository = await Repository.serve(join(folder, 'repository'));
  clients = [];
  for (const account of ['alice', 'bob']) {
    const link = await repository.invite(account, 'publisher', { appliances: ['debian:publish'] });
    clients.push(await ServerClient.join(link, account));
    await repository.allow(account, 'debian');
  }
});
afterEach(async () => {
  for (const client of clients) await client.close();
  await repository[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const seedsOf = (round: number, racer: number): number[] =>
  Array.from({ length: 48 }, (_, index) => (index < 24 ? index : round * 10_000 + racer * 1_000 + index));

test('two publishers race for each version: one wins, the other is told which manifest did', async () => {
  let head: Head | null = null;
  for (let round = 1; round <= ROUNDS; round += 1) {
    const parent: Head | null = head;
    const ready = await Promise.all(
      clients.map(async (client, racer) => ({
        client,
        upload: await client.upload('debian', parent, seedsOf(round, racer)),
        manifest: client.manifest('debian', round, parent, seedsOf(round, racer)),
      })),
    );
    const replies = await Promise.all(ready.map(({ client, upload, manifest }) => client.commit(upload, manifest)));
    expect(replies.map(({ status }) => status).sort()).toEqual([201, 409]);
    const winner = replies.findIndex(({ status }) => status === 201);
    const manifest = sha256(ready[winner]?.manifest ?? Buffer.alloc(0));
    expect(replies.find(({ status }) => status === 409)?.json).toMatchObject({
      code: 'conflict',
      data: { version: round, manifest },
    });
    head = { version: round, manifest };
    expect(await clients[0]?.head('debian')).toEqual(head);
  }
  expect(await repositoryCommand(['check', repository.folder])).toMatchObject({
    ok: true,
    problems: [],
    versions: ROUNDS,
  });
});

test('a collector that runs beside publishers deletes the chunks of abandoned uploads and nothing else', async () => {
  const [publisher, other] = clients;
  if (publisher === undefined || other === undefined) throw new Error('no clients');
  let isDone = false;
  let collections = 0;
  const collecting = (async () => {
    while (!isDone) {
      await repositoryCommand(['gc', repository.folder, '--grace', '0s']);
      collections += 1;
    }
  })();
  try {
    let head: Head | null = null;
    for (let round = 1; round <= ROUNDS; round += 1) {
      // The other one uploads what becomes garbage, and the same blocks are published at once: garbage that is wanted.
      const seeds = seedsOf(round, 0);
      const abandoned = await other.upload('garbage', null, seeds);
      await other.expect(200, 'abandonUpload', { params: { upload: abandoned } });
      const upload = await publisher.upload('debian', head, seeds);
      const manifest = publisher.manifest('debian', round, head, seeds);
      const reply = await publisher.commit(upload, manifest);
      expect(reply.status, reply.body.toString()).toBe(201);
      head = { version: round, manifest: sha256(manifest) };
      if (round > 2) await publisher.expect(200, 'deleteVersion', { params: { name: 'debian', version: round - 2 } });
    }
  } finally {
    isDone = true;
    await collecting;
  }
  expect(collections).toBeGreaterThan(0);
  const before = await repositoryCommand(['check', repository.folder]);
  expect(before).toMatchObject({ ok: true, problems: [] });
  await repositoryCommand(['gc', repository.folder, '--grace', '0s']);
  expect(await repositoryCommand(['check', repository.folder])).toMatchObject({
    ok: true,
    orphans: 0,
    versions: ROUNDS,
  });
});
