/**
 * kill -9 of a serving process at random points of a publication: afterwards the repository checks clean, the version
 * exists whole or not at all, whatever was acknowledged is there, and publishing again works.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '@collective/shared';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Repository, repositoryCommand } from '../support/collective.js';
import { type Head, ServerClient } from './server-client.js';

const ROUNDS = 16;
const BLOCKS = 96;
const SEED = Number(process.env['FAULT_SEED'] ?? 1);

let folder: string;
let repository: Repository;
let client: ServerClient;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'server-kill-'));
  await repositoryCommand(['init', join(folder, 'repository')]);
  repository = await Repository.serve(join(folder, 'repository'));
  client = await ServerClient.join(await repository.invite('alice', 'publisher'), 'alice');
  await repository.allow('alice', 'debian');
});
afterEach(async () => {
  await client.close();
  await repository[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

test(`a server that is killed in mid-publication has the version whole or not at all (seed ${SEED})`, async () => {
  const random = seededRandom(SEED);
  const outcomes = { before: 0, after: 0, survived: 0 };
  let head: Head | null = null;
  for (let round = 1; round <= ROUNDS; round += 1) {
    // A third of the blocks is new each time, the rest is shared with the version before.
    const seeds = Array.from({ length: BLOCKS }, (_, index) => (index % 3 === 0 ? round * 1_000 + index : index));
    const version: number = (head?.version ?? 0) + 1;
    const manifest = client.manifest('debian', version, head, seeds);
    const killAt = pickKill(random);
    let killed: Promise<unknown> | undefined;
    const kill = (step: string): void => {
      if (killed !== undefined || step !== killAt.step || random() > killAt.chance) return;
      killed = new Promise((resolve) => {
        setTimeout(() => {
          repository.process.kill('SIGKILL');
          resolve(repository.process.exit());
        }, killAt.afterMs);
      });
    };
    const acknowledged = await attempt(async () => {
      const upload = await client.upload('debian', head, seeds, kill);
      kill('commit');
      return client.commit(upload, manifest);
    });
    await killed;
    await repository.restart();

    const check = await repositoryCommand(['check', repository.folder]);
    expect(check, `round ${round}, killed at ${JSON.stringify(killAt)}`).toMatchObject({ ok: true, problems: [] });
    expect(await readdir(join(repository.folder, 'tmp'))).toEqual([]);
    const now = await client.head('debian');
    const isThere = now?.version === version;
    if (acknowledged?.status === 201) expect(isThere, 'what was acknowledged is there').toBe(true);
    if (!isThere) expect(now).toEqual(head);
    outcomes[acknowledged?.status === 201 ? 'survived' : isThere ? 'after' : 'before'] += 1;

    // The same manifest again: done, or done before.
    const upload = isThere ? undefined : await client.upload('debian', head, seeds);
    if (upload !== undefined) {
      const again = await client.commit(upload, manifest);
      expect(again.status, again.body.toString()).toBe(201);
    }
    head = { version, manifest: sha256(manifest) };
    expect(await client.head('debian')).toEqual(head);
  }
  process.stdout.write(`server-kill: seed ${SEED}: ${JSON.stringify(outcomes)}\n`);
  expect(await repositoryCommand(['gc', repository.folder, '--grace', '0s'])).toMatchObject({ versionsForgotten: 0 });
  expect(await repositoryCommand(['check', repository.folder])).toMatchObject({ ok: true, versions: ROUNDS });
});

test('a commit whose answer was lost by a kill is told apart from one that never happened, in the same session', async () => {
  const seeds = Array.from({ length: 40 }, (_, index) => index);
  const manifest = client.manifest('debian', 1, null, seeds);
  const upload = await client.upload('debian', null, seeds);
  expect((await client.commit(upload, manifest)).status).toBe(201);
  await repository.restart();
  const again = await client.commit(upload, manifest);
  expect([again.status, again.json]).toEqual([201, { version: 1, manifest: sha256(manifest) }]);
});

test('an upload goes on after the server was killed: what was acknowledged is not asked for again', async () => {
  const seeds = Array.from({ length: 64 }, (_, index) => index);
  const opened = await client.expect(200, 'createUpload', { params: { name: 'debian' }, body: { parent: null } });
  const upload = String(opened.json['upload']);
  await client.sendLacking(upload, seeds.slice(0, 32));
  await repository.restart();
  let batches = 0;
  await client.sendLacking(upload, seeds, (step) => {
    if (step === 'chunks') batches += 1;
  });
  expect(batches).toBe(2);
});

type Kill = { readonly step: string; readonly chance: number; readonly afterMs: number };

/** Half of the kills aim at the commit, where it is narrowest. */
const pickKill = (random: () => number): Kill =>
  random() < 0.5
    ? { step: 'commit', chance: 1, afterMs: random() * 40 }
    : {
        step: ['session', 'lacking', 'chunks', 'disk'][Math.floor(random() * 4)] ?? 'chunks',
        chance: 0.7,
        afterMs: random() * 25,
      };

/** The result, or undefined when the connection died. */
const attempt = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
  try {
    return await work();
  } catch {
    return undefined;
  }
};

const seededRandom = (seed: number): (() => number) => {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
};
