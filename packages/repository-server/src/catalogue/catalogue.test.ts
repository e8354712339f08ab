import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { accountOf, addAccount, catalogueContract, digestOf } from '../testing/catalogue-contract.js';
import { MemoryCatalogue } from '../testing/memory-catalogue.js';
import { type Catalogue } from './catalogue.js';
import { SqliteCatalogue } from './sqlite-catalogue.js';

const temporary = async (): Promise<{
  folder: string;
  paths: { database: string; lock: string };
  end: () => Promise<void>;
}> => {
  const folder = await mkdtemp(join(tmpdir(), 'catalogue-'));
  const paths = { database: join(folder, 'catalogue.sqlite'), lock: join(folder, 'lock.sqlite') };
  return { folder, paths, end: () => rm(folder, { recursive: true, force: true }) };
};

catalogueContract('the memory double', async () => ({ catalogue: new MemoryCatalogue(), end: async () => undefined }));
catalogueContract('SQLite', async () => {
  const { paths, end } = await temporary();
  return { catalogue: await SqliteCatalogue.open(paths), end };
});

describe('the SQLite catalogue', () => {
  test('keeps what it acknowledged when it is opened again, and only its owner can read it', async () => {
    const { paths, end } = await temporary();
    const first = await SqliteCatalogue.open(paths);
    await addAccount(first, accountOf('alice'));
    expect((await stat(paths.database)).mode & 0o777).toBe(0o600);
    expect((await stat(`${paths.database}-wal`)).mode & 0o777).toBe(0o600);
    await first.close();
    const again = await SqliteCatalogue.open(paths);
    expect((await again.people.account('alice'))?.name).toBe('alice');
    await again.close();
    await end();
  });
  test('is refused when another program version made it', async () => {
    const { paths, end } = await temporary();
    const database = new Database(paths.database);
    database.pragma('user_version = 99');
    database.close();
    await expect(SqliteCatalogue.open(paths)).rejects.toMatchObject({ code: 'unknown-format' });
    await end();
  });
  test('two processes on one file see each other, and exclude each other in exclusive steps', async () => {
    const { paths, end } = await temporary();
    const [one, two] = [await SqliteCatalogue.open(paths), await SqliteCatalogue.open(paths)];
    await addAccount(one, accountOf('alice'));
    expect((await two.people.account('alice'))?.name).toBe('alice');
    let inside = 0;
    let most = 0;
    const step = (catalogue: Catalogue) =>
      catalogue.exclusively(async () => {
        inside += 1;
        most = Math.max(most, inside);
        await new Promise((resolve) => setImmediate(resolve));
        inside -= 1;
      });
    await Promise.all([one, two, one, two, one, two].map(step));
    expect(most).toBe(1);
    await one.close();
    await two.close();
    await end();
  });
});

/** One call with small made-up values, the same for both. */
type Call = { readonly name: string; readonly run: (catalogue: Catalogue) => Promise<unknown> };

const names = fc.constantFrom('alice', 'bob', 'carol');
const appliances = fc.constantFrom('debian', 'tiny');
const numbers = fc.integer({ min: 1, max: 4 });
const times = fc.integer({ min: 0, max: 40 });
const digests = fc.constantFrom(...['a', 'b', 'c', 'd', 'e'].map(digestOf));
const lists = fc.uniqueArray(digests, { maxLength: 5 });
const ids = fc.constantFrom('u1', 'u2');
const sorted = (found: Iterable<unknown>): string[] => [...found].map((item) => JSON.stringify(item)).sort();
const sized = (
  list: readonly ReturnType<typeof digestOf>[],
): { digest: ReturnType<typeof digestOf>; chunkBytes: number; plainBytes: number }[] =>
  list.map((digest) => ({ digest, chunkBytes: 7, plainBytes: 9 }));

const calls: fc.Arbitrary<Call> = fc.oneof(
  fc.tuple(names, digests, times).map(([account, tokenHash, time]) => ({
    name: `invite ${account}`,
    run: async (c: Catalogue) => {
      if ((await c.people.invitation(tokenHash)) !== undefined) return 'known';
      return c.people.addInvitation({
        tokenHash,
        account,
        role: 'user',
        appliances: [{ name: 'debian', access: 'use' }],
        createdAt: time,
        expiresAt: time + 5,
      });
    },
  })),
  fc.tuple(names, digests).map(([name, hash]) => ({
    name: `accept ${name}`,
    run: (c: Catalogue) => c.people.acceptInvitation(hash, accountOf(name)),
  })),
  fc
    .tuple(names, times)
    .map(([name, time]) => ({ name: `revoke ${name}`, run: (c: Catalogue) => c.people.revokeAccount(name, time) })),
  fc.tuple(names, appliances).map(([name, appliance]) => ({
    name: 'set access',
    run: (c: Catalogue) => c.people.setAccess(name, { name: appliance, access: 'publish' }),
  })),
  fc.tuple(names, appliances).map(([name, appliance]) => ({
    name: 'remove access',
    run: (c: Catalogue) => c.people.removeAccess(name, appliance),
  })),
  fc.tuple(names, digests, times).map(([account, hash, expiresAt]) => ({
    name: `token of ${account}`,
    run: async (c: Catalogue) => {
      if ((await c.people.account(account)) === undefined || (await c.people.tokenHolder(hash)) !== undefined)
        return 'not possible';
      return c.people.addToken({ hash, account, device: undefined, scope: 'session', expiresAt });
    },
  })),
  digests.map((hash) => ({ name: 'holder', run: (c: Catalogue) => c.people.tokenHolder(hash) })),
  times.map((time) => ({ name: `expire ${time}`, run: (c: Catalogue) => c.people.removeExpired(time) })),
  fc.tuple(appliances, numbers, digests).map(([appliance, version, manifest]) => ({
    name: `record ${appliance}@${version}`,
    run: (c: Catalogue) =>
      c.versions.recordVersion({
        appliance,
        version,
        manifest,
        createdAt: 1,
        title: '',
        chunkBytes: 2,
        state: 'live',
        stateSince: 0,
        indexed: true,
      }),
  })),
  fc.tuple(appliances, numbers, times).map(([appliance, version, time]) => ({
    name: 'withdraw',
    run: (c: Catalogue) => c.versions.setVersionState(appliance, version, 'withdrawn', time),
  })),
  fc.tuple(appliances, numbers).map(([appliance, version]) => ({
    name: 'remove version',
    run: (c: Catalogue) => c.versions.removeVersion(appliance, version),
  })),
  fc.tuple(appliances, lists).map(([appliance, list]) => ({
    name: 'add live',
    run: (c: Catalogue) => c.versions.addLiveChunks(appliance, sized(list)),
  })),
  fc.tuple(appliances, lists).map(([appliance, list]) => ({
    name: 'remove live',
    run: (c: Catalogue) => c.versions.removeLiveChunks(appliance, list),
  })),
  fc.tuple(lists, fc.option(fc.subarray(['debian', 'tiny']), { nil: undefined })).map(([list, of]) => ({
    name: 'live',
    run: async (c: Catalogue) => sorted(await c.versions.liveChunks(list, of)),
  })),
  appliances.map((appliance) => ({
    name: 'versions',
    run: async (c: Catalogue) => [
      await c.versions.versions(appliance),
      await c.versions.head(appliance),
      await c.versions.appliances(),
    ],
  })),
  fc.tuple(ids, names, times).map(([id, account, time]) => ({
    name: `upload ${id}`,
    run: async (c: Catalogue) => {
      if ((await c.people.account(account)) === undefined || (await c.uploads.upload(id)) !== undefined)
        return 'not possible';
      return c.uploads.addUpload({
        id,
        appliance: 'debian',
        account,
        parent: undefined,
        createdAt: time,
        expiresAt: time + 20,
        committed: undefined,
      });
    },
  })),
  fc.tuple(ids, lists).map(([id, list]) => ({
    name: 'reserve',
    run: async (c: Catalogue) =>
      (await c.uploads.upload(id)) === undefined ? 'none' : c.uploads.reserveChunks(id, list),
  })),
  fc.tuple(ids, lists, times).map(([id, list, time]) => ({
    name: 'keep',
    run: async (c: Catalogue) =>
      (await c.uploads.upload(id)) === undefined ? 'none' : c.uploads.keepChunks(id, sized(list), time + 20),
  })),
  fc.tuple(ids, lists).map(([id, list]) => ({
    name: 'owned',
    run: async (c: Catalogue) => [
      sorted(await c.uploads.ownedChunks(id, list)),
      sorted(await c.uploads.reservedChunks(list)),
      await c.uploads.uploadTotals(id),
    ],
  })),
  fc.tuple(ids, digests).map(([id, manifest]) => ({
    name: 'commit',
    run: (c: Catalogue) => c.uploads.markCommitted(id, { version: 1, manifest }),
  })),
  ids.map((id) => ({ name: 'abandon', run: (c: Catalogue) => c.uploads.removeUpload(id) })),
  times.map((time) => ({ name: 'end uploads', run: (c: Catalogue) => c.uploads.removeEnded(time) })),
  fc.constant({
    name: 'open uploads',
    run: async (c: Catalogue) => [await c.uploads.openUploads(), await c.people.accounts()],
  }),
);

test('SQLite answers every sequence of calls as the model does', async () => {
  const { paths, folder, end } = await temporary();
  let run = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(calls, { minLength: 5, maxLength: 60 }), async (sequence) => {
      run += 1;
      const real = await SqliteCatalogue.open({ database: join(folder, `c${run}.sqlite`), lock: paths.lock });
      const model = new MemoryCatalogue();
      for (const { name, run: call } of sequence) {
        const [found, expected] = [await call(real), await call(model)];
        expect(found, name).toEqual(expected);
      }
      await real.close();
    }),
    { numRuns: 40 },
  );
  await end();
}, 120_000);
