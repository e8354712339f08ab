/** What every catalogue must do; run against SQLite and the memory double. */
import { type Digest, sha256 } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Account, type Catalogue, type Device, type Upload, type VersionRecord } from '../catalogue/catalogue.js';

export const digestOf = (text: string): Digest => sha256(Buffer.from(text));

export const accountOf = (name: string, change: Partial<Account> = {}): Account => ({
  name,
  role: 'user',
  createdAt: 10,
  revokedAt: undefined,
  passwordParameters: '{}',
  loginSecretHash: digestOf(`secret of ${name}`),
  publishingKey: undefined,
  ...change,
});

export const addAccount = async (catalogue: Catalogue, account: Account): Promise<void> => {
  const tokenHash = digestOf(`invitation of ${account.name}`);
  const { name, role } = account;
  await catalogue.people.addInvitation({ tokenHash, account: name, role, appliances: [], createdAt: 1, expiresAt: 2 });
  await catalogue.people.acceptInvitation(tokenHash, account);
};

const deviceOf = (account: string, name: string): Device => ({
  id: digestOf(name),
  account,
  publicKey: name,
  name,
  createdAt: 10,
  lastSeenAt: undefined,
  revokedAt: undefined,
  certificate: Buffer.from(name),
});

const uploadOf = (id: string, account: string, createdAt = 10): Upload => ({
  id,
  appliance: 'debian',
  account,
  parent: undefined,
  createdAt,
  expiresAt: 100,
  committed: undefined,
});

const versionOf = (appliance: string, version: number): VersionRecord => ({
  appliance,
  version,
  manifest: digestOf(`${appliance}@${version}`),
  createdAt: 10,
  title: 'title',
  chunkBytes: 3,
  state: 'live',
  stateSince: 0,
  indexed: false,
});

const sized = (text: string): { digest: Digest; chunkBytes: number; plainBytes: number } => ({
  digest: digestOf(text),
  chunkBytes: text.length,
  plainBytes: 100,
});

export const catalogueContract = (
  name: string,
  make: () => Promise<{ readonly catalogue: Catalogue; readonly end: () => Promise<void> }>,
): void => {
  describe(`${name} as a catalogue`, () => {
    let catalogue: Catalogue;
    let end: () => Promise<void>;
    beforeEach(async () => {
      ({ catalogue, end } = await make());
    });
    afterEach(async () => {
      await catalogue.close();
      await catalogue.close();
      await end();
    });

    test('an invitation makes its account once, with the access it grants', async () => {
      const { people } = catalogue;
      const tokenHash = digestOf('token');
      const appliances = [{ name: 'debian', access: 'publish' }] as const;
      await people.addInvitation({
        tokenHash,
        account: 'alice',
        role: 'publisher',
        appliances,
        createdAt: 1,
        expiresAt: 2,
      });
      expect(await people.invitation(tokenHash)).toEqual({
        tokenHash,
        account: 'alice',
        role: 'publisher',
        appliances,
        createdAt: 1,
        expiresAt: 2,
      });
      const alice = accountOf('alice', { role: 'publisher' });
      expect(
        await Promise.all([people.acceptInvitation(tokenHash, alice), people.acceptInvitation(tokenHash, alice)]),
      ).toEqual([true, false]);
      expect(await people.account('alice')).toEqual(alice);
      expect(await people.accessOf('alice')).toEqual(appliances);
      expect(await people.invitation(tokenHash)).toBeUndefined();
    });
    test('an invitation for a name that is taken makes nothing and stays', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const tokenHash = digestOf('second');
      await catalogue.people.addInvitation({
        tokenHash,
        account: 'alice',
        role: 'admin',
        appliances: [],
        createdAt: 1,
        expiresAt: 2,
      });
      expect(await catalogue.people.acceptInvitation(tokenHash, accountOf('alice', { role: 'admin' }))).toBe(false);
      expect((await catalogue.people.account('alice'))?.role).toBe('user');
      expect(await catalogue.people.invitation(tokenHash)).toBeDefined();
    });
    test('a changed password ends the tokens of password logins, the sessions go on', async () => {
      const { people } = catalogue;
      await addAccount(catalogue, accountOf('alice'));
      await addAccount(catalogue, accountOf('bob'));
      for (const [account, scope] of [
        ['alice', 'enrol'],
        ['alice', 'session'],
        ['bob', 'enrol'],
      ] as const) {
        await people.addToken({ hash: digestOf(account + scope), account, device: undefined, scope, expiresAt: 99 });
      }
      await people.changePassword('alice', { passwordParameters: '{"a":1}', loginSecretHash: digestOf('new') });
      expect(await people.account('alice')).toEqual(
        accountOf('alice', { passwordParameters: '{"a":1}', loginSecretHash: digestOf('new') }),
      );
      expect(await people.tokenHolder(digestOf('aliceenrol'))).toBeUndefined();
      expect(await people.tokenHolder(digestOf('alicesession'))).toBeDefined();
      expect(await people.tokenHolder(digestOf('bobenrol'))).toBeDefined();
    });
    test('a reset uses its invitation up and changes nothing but the password', async () => {
      const { people } = catalogue;
      await addAccount(catalogue, accountOf('alice', { role: 'publisher', publishingKey: undefined }));
      const tokenHash = digestOf('reset');
      const invitation = {
        tokenHash,
        account: 'alice',
        role: 'user',
        appliances: [],
        createdAt: 1,
        expiresAt: 2,
      } as const;
      await people.addInvitation(invitation);
      const password = { passwordParameters: '{"b":2}', loginSecretHash: digestOf('new') };
      expect(await people.acceptReset(digestOf('other'), password)).toBe(false);
      expect(await people.acceptReset(tokenHash, password)).toBe(true);
      expect(await people.acceptReset(tokenHash, password)).toBe(false);
      expect(await people.account('alice')).toEqual(accountOf('alice', { role: 'publisher', ...password }));
    });
    test('access is set, changed, listed by name and removed', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const { people } = catalogue;
      await people.setAccess('alice', { name: 'tiny', access: 'use' });
      await people.setAccess('alice', { name: 'debian', access: 'use' });
      await people.setAccess('alice', { name: 'tiny', access: 'publish' });
      expect(await people.accessOf('alice')).toEqual([
        { name: 'debian', access: 'use' },
        { name: 'tiny', access: 'publish' },
      ]);
      expect([await people.removeAccess('alice', 'tiny'), await people.removeAccess('alice', 'tiny')]).toEqual([
        true,
        false,
      ]);
      expect(await people.accessOf('bob')).toEqual([]);
    });
    test('a token counts until its account is revoked', async () => {
      await addAccount(catalogue, accountOf('alice', { role: 'admin' }));
      const { people } = catalogue;
      const hash = digestOf('token');
      await people.addToken({ hash, account: 'alice', device: undefined, scope: 'enrol', expiresAt: 50 });
      expect(await people.tokenHolder(hash)).toEqual({
        hash,
        account: 'alice',
        device: undefined,
        scope: 'enrol',
        expiresAt: 50,
        role: 'admin',
        revoked: false,
      });
      expect(await people.revokeAccount('alice', 7)).toBe(true);
      await people.revokeAccount('alice', 9);
      expect((await people.tokenHolder(hash))?.revoked).toBe(true);
      expect((await people.account('alice'))?.revokedAt).toBe(7);
      expect(await people.revokeAccount('nobody', 7)).toBe(false);
    });
    test('a token counts until its device is revoked, the account and its other devices stay', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const { people } = catalogue;
      const [laptop, desk] = [deviceOf('alice', 'laptop'), deviceOf('alice', 'desk')];
      expect([await people.addDevice(laptop), await people.addDevice(laptop), await people.addDevice(desk)]).toEqual([
        true,
        false,
        true,
      ]);
      for (const device of [laptop, desk]) {
        await people.addToken({
          hash: digestOf(`t ${device.name}`),
          account: 'alice',
          device: device.id,
          scope: 'session',
          expiresAt: 50,
        });
      }
      await people.deviceSeen(desk.id, 12);
      await people.revokeDevice(laptop.id, 13);
      expect((await people.tokenHolder(digestOf('t laptop')))?.revoked).toBe(true);
      expect((await people.tokenHolder(digestOf('t desk')))?.revoked).toBe(false);
      expect(new Set(await people.devicesOf('alice'))).toEqual(
        new Set([
          { ...laptop, revokedAt: 13 },
          { ...desk, lastSeenAt: 12 },
        ]),
      );
      expect(await people.device(laptop.id)).toEqual({ ...laptop, revokedAt: 13 });
      await people.removeToken(digestOf('t desk'));
      expect(await people.tokenHolder(digestOf('t desk'))).toBeUndefined();
    });
    test('a nonce works once, for its device, before it expires; only the newest are kept', async () => {
      const { people } = catalogue;
      const device = digestOf('device');
      for (const nonce of ['a', 'b', 'c']) await people.addNonce({ hash: digestOf(nonce), device, expiresAt: 100 }, 2);
      await people.addNonce({ hash: digestOf('other'), device: digestOf('other device'), expiresAt: 100 }, 2);
      expect(await people.takeNonce(digestOf('a'), device, 50)).toBe(false);
      expect(await people.takeNonce(digestOf('b'), digestOf('other device'), 50)).toBe(false);
      expect(await people.takeNonce(digestOf('b'), device, 100)).toBe(false);
      expect(await people.takeNonce(digestOf('b'), device, 50)).toBe(true);
      expect(await people.takeNonce(digestOf('b'), device, 50)).toBe(false);
      expect(await people.takeNonce(digestOf('other'), digestOf('other device'), 50)).toBe(true);
    });
    test('what has expired is dropped, the rest stays', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const { people } = catalogue;
      for (const [text, expiresAt] of [
        ['old', 10],
        ['new', 20],
      ] as const) {
        await people.addToken({ hash: digestOf(text), account: 'alice', device: undefined, scope: 'enrol', expiresAt });
        await people.addInvitation({
          tokenHash: digestOf(text),
          account: 'bob',
          role: 'user',
          appliances: [],
          createdAt: 1,
          expiresAt,
        });
      }
      await people.removeExpired(15);
      expect([await people.tokenHolder(digestOf('old')), await people.invitation(digestOf('old'))]).toEqual([
        undefined,
        undefined,
      ]);
      expect((await people.tokenHolder(digestOf('new')))?.account).toBe('alice');
      expect((await people.invitation(digestOf('new')))?.account).toBe('bob');
    });

    test('versions are listed ascending, the highest is the head, rows are replaced and removed', async () => {
      const { versions } = catalogue;
      for (const [appliance, version] of [
        ['debian', 10],
        ['debian', 2],
        ['tiny', 1],
      ] as const) {
        await versions.recordVersion(versionOf(appliance, version));
      }
      expect(await versions.appliances()).toEqual(['debian', 'tiny']);
      expect((await versions.versions('debian')).map(({ version }) => version)).toEqual([2, 10]);
      expect((await versions.head('debian'))?.version).toBe(10);
      await versions.setVersionState('debian', 2, 'withdrawn', 77);
      await versions.setIndexed('debian', 2, true);
      expect(await versions.version('debian', 2)).toEqual({
        ...versionOf('debian', 2),
        state: 'withdrawn',
        stateSince: 77,
        indexed: true,
      });
      await versions.recordVersion({ ...versionOf('debian', 10), chunkBytes: 9 });
      expect((await versions.head('debian'))?.chunkBytes).toBe(9);
      await versions.removeVersion('tiny', 1);
      expect([await versions.head('tiny'), await versions.appliances()]).toEqual([undefined, ['debian']]);
    });
    test('the version for all is the highest live one; candidates are listed, and every number that was taken counts', async () => {
      const { versions } = catalogue;
      expect(await versions.lastNumber('debian')).toBeUndefined();
      for (const version of [1, 3, 4, 5]) await versions.recordVersion(versionOf('debian', version));
      await versions.recordVersion({ ...versionOf('arch', 2), state: 'candidate' });
      await versions.setVersionState('debian', 5, 'deleted', 1);
      await versions.setVersionState('debian', 3, 'candidate', 0);
      await versions.setVersionState('debian', 4, 'candidate', 0);
      expect((await versions.head('debian'))?.version).toBe(1);
      expect(await versions.head('arch')).toBeUndefined();
      expect(await versions.lastNumber('debian')).toBe(5);
      const names = (await versions.candidates()).map(({ appliance, version }) => `${appliance}@${version}`);
      expect(names).toEqual(['arch@2', 'debian@3', 'debian@4']);
      await versions.setVersionState('debian', 4, 'live', 0);
      expect((await versions.head('debian'))?.version).toBe(4);
    });
    test('live chunks are known by appliance', async () => {
      const { versions } = catalogue;
      await versions.addLiveChunks('debian', [sized('a'), sized('both')]);
      await versions.addLiveChunks('tiny', [sized('both'), sized('c')]);
      const asked = ['a', 'both', 'c', 'none'].map(digestOf);
      expect(new Set((await versions.liveChunks(asked)).keys())).toEqual(new Set(['a', 'both', 'c'].map(digestOf)));
      expect(await versions.liveChunks(asked, ['tiny'])).toEqual(
        new Map([sized('both'), sized('c')].map((chunk) => [chunk.digest, chunk])),
      );
      expect((await versions.liveChunks(asked, [])).size).toBe(0);
      expect((await versions.liveChunks(asked, ['unknown'])).size).toBe(0);
      await versions.retainLiveChunks('tiny', new Set([digestOf('c')]));
      await versions.retainLiveChunks('unknown', new Set());
      expect([...(await versions.liveChunks(asked, ['tiny'])).keys()]).toEqual([digestOf('c')]);
      await versions.retainLiveChunks('tiny', new Set());
      expect(new Set((await versions.liveChunks(asked)).keys())).toEqual(new Set(['a', 'both'].map(digestOf)));
    });
    test('live chunks of an appliance are thinned out among many of another one', async () => {
      const { versions } = catalogue;
      const many = Array.from({ length: 4_500 }, (_, index) => sized(`many ${index}`));
      await versions.addLiveChunks('debian', many);
      await versions.addLiveChunks('tiny', many);
      const kept = new Set(many.slice(0, 7).map(({ digest }) => digest));
      await versions.retainLiveChunks('tiny', kept);
      const digests = many.map(({ digest }) => digest);
      expect(new Set((await versions.liveChunks(digests, ['tiny'])).keys())).toEqual(kept);
      expect((await versions.liveChunks(digests, ['debian'])).size).toBe(4_500);
    });
    test('numbers of heads grow, from what is there or from what was taken, and are given once', async () => {
      const { versions } = catalogue;
      expect(await versions.headsNumber()).toBe(0);
      expect([await versions.takeHeadsNumber(7), await versions.headsNumber()]).toEqual([8, 8]);
      expect([await versions.takeHeadsNumber(7), await versions.takeHeadsNumber(20)]).toEqual([9, 21]);
    });
    test('the collection number grows', async () => {
      const before = await catalogue.versions.collectionNumber();
      await catalogue.versions.beginCollection();
      expect(await catalogue.versions.collectionNumber()).toBeGreaterThan(before);
    });

    test('a session owns chunks when they are durable, and reserves them before', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const { uploads } = catalogue;
      for (const id of ['one', 'two']) await uploads.addUpload(uploadOf(id, 'alice'));
      await uploads.reserveChunks('one', [digestOf('a'), digestOf('b')]);
      await uploads.keepChunks('one', [sized('a')], 200);
      await uploads.reserveChunks('one', [digestOf('a')]);
      const asked = ['a', 'b', 'c'].map(digestOf);
      expect(await uploads.ownedChunks('one', asked)).toEqual(new Map([[digestOf('a'), sized('a')]]));
      expect((await uploads.ownedChunks('two', asked)).size).toBe(0);
      expect(await uploads.reservedChunks(asked)).toEqual(new Set(['a', 'b'].map(digestOf)));
      expect(await uploads.uploadTotals('one')).toEqual({ chunks: 1, chunkBytes: 1 });
      expect((await uploads.upload('one'))?.expiresAt).toBe(200);
      await uploads.setUploadDisk('one', { disk: 'system', root: digestOf('r'), diskBytes: 512, blockBytes: 4_096 });
      await uploads.setUploadDisk('one', { disk: 'system', root: digestOf('s'), diskBytes: 512, blockBytes: 4_096 });
      expect(await uploads.uploadDisks('one')).toEqual([
        { disk: 'system', root: digestOf('s'), diskBytes: 512, blockBytes: 4_096 },
      ]);
    });
    test('a committed session is remembered without its chunks, a removed one is not, an ended one is dropped', async () => {
      await addAccount(catalogue, accountOf('alice'));
      const { uploads } = catalogue;
      for (const id of ['one', 'two', 'three']) {
        await uploads.addUpload(uploadOf(id, 'alice'));
        await uploads.keepChunks(id, [sized(id)], id === 'three' ? 50 : 100);
      }
      await uploads.markCommitted('one', { version: 3, manifest: digestOf('m') });
      await uploads.removeUpload('two');
      expect((await uploads.upload('one'))?.committed).toEqual({ version: 3, manifest: digestOf('m') });
      expect(await uploads.upload('two')).toBeUndefined();
      expect((await uploads.openUploads()).map(({ id }) => id)).toEqual(['three']);
      expect(await uploads.reservedChunks(['one', 'two', 'three'].map(digestOf))).toEqual(new Set([digestOf('three')]));
      await uploads.removeEnded(50);
      expect([await uploads.upload('three'), (await uploads.upload('one'))?.id]).toEqual([undefined, 'one']);
      expect((await uploads.reservedChunks([digestOf('three')])).size).toBe(0);
    });
    test('nothing is added to a session that has ended', async () => {
      const { uploads } = catalogue;
      for (const added of [
        uploads.reserveChunks('gone', [digestOf('a')]),
        uploads.keepChunks('gone', [sized('a')], 200),
        uploads.setUploadDisk('gone', { disk: 'system', root: digestOf('r'), diskBytes: 512, blockBytes: 4_096 }),
      ])
        await expect(added).rejects.toMatchObject({ code: 'not-found' });
      expect((await uploads.reservedChunks([digestOf('a')])).size).toBe(0);
      expect(await uploads.uploadDisks('gone')).toEqual([]);
    });

    test('exclusive steps run one after the other, and one that throws lets the next one in', async () => {
      const order: string[] = [];
      const step = (label: string, fails = false) =>
        catalogue.exclusively(async () => {
          order.push(`${label} begins`);
          await new Promise((resolve) => setImmediate(resolve));
          order.push(`${label} ends`);
          if (fails) throw new Error(label);
        });
      const ended = await Promise.allSettled([step('a'), step('b', true), step('c')]);
      expect(ended.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
      expect(order).toEqual(['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
    });
  });
};
