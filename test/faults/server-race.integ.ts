/** Publishers that race for one version: one wins each round, the other is told by whom. Collectors: collector-race. */
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
