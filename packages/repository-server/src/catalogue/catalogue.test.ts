import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { accountOf, addAccount, catalogueContract, digestOf } from '../testing/catalogue-contract.js';
import { MemoryCatalogue } from '../testing/memory-catalogue.js';
import {
  leaseOf,
  snapshotOf,
  snapshotUploadOf,
  subscriptionContract,
  subscriptionOf,
} from '../testing/subscription-contract.js';
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
subscriptionContract('the memory double', async () => ({
  catalogue: new MemoryCatalogue(),
  end: async () => undefined,
}));
subscriptionContract('SQLite', async () => {
  const { paths, end } = await temporary();
  return { catalogue: await SqliteCatalogue.open(paths), end };
});
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
  test('of the first schema is brought up to date, and keeps what is in it', async () => {
    const { paths, end } = await temporary();
    const old = new Database(paths.database);
    const made = await SqliteCatalogue.open({ ...paths, database: `${paths.database}.new` });
    await made.close();
    // The tables of the first schema, as the new file has them.
    const tables = new Database(`${paths.database}.new`)
      .prepare<[], { sql: string }>(
        "select sql from sqlite_schema where sql is not null and name not like '%snapshot%' and name not like 'subscr%' and name not like 'device_bases%' and name not like 'sqlite%' order by rowid",
      )
      .all();
    for (const { sql } of tables) old.exec(sql);
    old.exec("insert into counters values ('collections', 4)");
    old.pragma('user_version = 1');
    old.close();
    const catalogue = await SqliteCatalogue.open(paths);
    expect(await catalogue.versions.collectionNumber()).toBe(4);
    expect(await catalogue.subscriptions.subscriptions()).toEqual([]);
    await catalogue.close();
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
  fc.tuple(names, times).map(([name, time]) => ({
    name: `change the password of ${name}`,
    run: (c: Catalogue) =>
      c.people.changePassword(name, { passwordParameters: `{"n":${time}}`, loginSecretHash: digestOf(`at ${time}`) }),
  })),
  fc.tuple(digests, times).map(([hash, time]) => ({
    name: 'accept a reset',
    run: (c: Catalogue) =>
      c.people.acceptReset(hash, { passwordParameters: `{"r":${time}}`, loginSecretHash: digestOf(`reset ${time}`) }),
  })),
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
    name: 'retain live',
    run: (c: Catalogue) => c.versions.retainLiveChunks(appliance, new Set(list)),
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
      await c.versions.lastNumber(appliance),
      await c.versions.candidates(),
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
  fc.tuple(names, ids).map(([account, id]) => ({
    name: 'subscribe',
    run: (c: Catalogue) => c.subscriptions.addSubscription(subscriptionOf(account, id)),
  })),
  fc.tuple(names, ids, numbers, times).map(([account, subscription, lease, unsavedBytes]) => ({
    name: 'lease',
    run: async (c: Catalogue) => {
      const of = { account, subscription };
      const beat = { lastHeartbeatAt: unsavedBytes, unsavedBytes, isRunning: true };
      const beats = await c.subscriptions.beat(of, lease, beat);
      const released = unsavedBytes % 3 === 0 && (await c.subscriptions.releaseLease(of, lease));
      if (unsavedBytes % 2 === 0) await c.subscriptions.setLease(of, leaseOf(lease));
      return [beats, released, await c.subscriptions.subscription(of)];
    },
  })),
  fc.tuple(names, ids, digests, numbers).map(([account, subscription, device, number]) => ({
    name: 'base',
    run: async (c: Catalogue) => {
      await c.subscriptions.raiseDeviceBase({ account, subscription }, device, number);
      return c.subscriptions.deviceBases({ account, subscription });
    },
  })),
  fc
    .tuple(names, ids, numbers, fc.constantFrom('pending', 'kept', 'deleted', 'forgotten'))
    .map(([account, id, number, state]) => ({
      name: `snapshot ${number} ${state}`,
      run: async (c: Catalogue) => {
        await c.subscriptions.recordSnapshot(snapshotOf(account, id, number, { state }));
        return c.subscriptions.snapshotSequence();
      },
    })),
  fc.tuple(names, ids, numbers, times).map(([account, subscription, number, time]) => ({
    name: `snapshots of ${account}`,
    run: async (c: Catalogue) => {
      const of = { account, subscription };
      if (time % 4 === 0) await c.subscriptions.removeSnapshot(of, number);
      if (time % 4 === 1)
        await c.subscriptions.setSnapshotState(of, number, { state: 'deleted', stateSince: time, pinned: true });
      return [
        await c.subscriptions.head(of),
        await c.subscriptions.snapshots(of, ['kept', 'deleted']),
        await c.subscriptions.snapshotsBelow(of, number, { states: ['kept', 'pending'], countMax: 2 }),
        await c.subscriptions.pendingSnapshots(),
        await c.subscriptions.snapshotsSince(time % 5),
      ];
    },
  })),
  fc.tuple(ids, names, times, digests).map(([id, account, time, manifest]) => ({
    name: `snapshot upload ${id}`,
    run: async (c: Catalogue) => {
      const known = await c.subscriptions.snapshotUpload(id);
      if (known === undefined) await c.subscriptions.addSnapshotUpload(snapshotUploadOf(id, account));
      else if (time % 5 === 0) await c.subscriptions.removeSnapshotUpload(id);
      else if (time % 5 === 1) await c.subscriptions.markSnapshotCommitted(id, manifest);
      else if (time % 5 === 2) await c.subscriptions.removeEndedSnapshotUploads(time * 5);
      return [
        await c.subscriptions.setReceivedBytes(id, { from: known?.receivedBytes ?? 0, to: time, expiresAt: time * 4 }),
        await c.subscriptions.openSnapshotUploads(account),
        sorted(await c.subscriptions.snapshotUploadIds()),
      ];
    },
  })),
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
