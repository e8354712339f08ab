/** The profile of a person over several homes and one server in memory: compare and set, rollback, cache, crashes. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CollectiveError,
  derivePersonKeys,
  newPersonSecret,
  openProfile,
  readSealedProfile,
  sealProfile,
  sha256,
  type Profile,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ProfileClient, type ProfileSource } from './profile-client.js';

const person = derivePersonKeys(newPersonSecret());
const repository = sha256(Buffer.from('repository'));
const first: Profile = {
  format: 1,
  number: 1,
  account: 'alice',
  repository: { identity: repository, origin: 'http://127.0.0.1:1', pin: null },
  devices: [],
  epochs: [],
  formerIdentities: [],
  subscriptions: [],
};

/** What a server does with the two routes; `before` runs ahead of each PUT, as another device would. */
class MemoryProfiles {
  bytes: Buffer | undefined;
  puts = 0;
  before: (() => Promise<void>) | undefined;
  /** Undoes the answer, not the deed. */
  isAnswerLost = false;
  readonly source: ProfileSource = {
    call: (async (name: string, options: { query?: { after: number }; body?: Buffer }) => {
      if (name === 'profile') {
        if (this.bytes === undefined) throw new CollectiveError('not-found');
        return this.bytes;
      }
      this.puts += 1;
      const before = this.before;
      this.before = undefined;
      await before?.();
      const there = this.bytes === undefined ? 0 : readSealedProfile(this.bytes, person.identity.publicKey).number;
      if (options.query?.after !== there) throw new CollectiveError('conflict');
      this.bytes = options.body;
      if (this.isAnswerLost) throw new CollectiveError('repository-unreachable');
      return { number: there + 1 };
    }) as never,
  };
}

/** One home: its file and its object cache. */
class MemoryHome {
  readonly seenProfileFile: string;
  cached: Buffer | undefined;
  constructor(seenProfileFile: string) {
    this.seenProfileFile = seenProfileFile;
  }
  readonly objects = {
    profile: (): Buffer | undefined => this.cached,
    putProfile: async (bytes: Buffer): Promise<void> => void (this.cached = bytes),
  };
  async client(server: MemoryProfiles, keys = person): Promise<ProfileClient> {
    const { objects } = this;
    return ProfileClient.open({
      home: this,
      objects,
      client: server.source,
      person: keys,
      account: 'alice',
      repository,
    });
  }
}

let folder: string;
let server: MemoryProfiles;
let desk: MemoryHome;
let laptop: MemoryHome;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-profile-'));
  server = new MemoryProfiles();
  desk = new MemoryHome(join(folder, 'desk.json'));
  laptop = new MemoryHome(join(folder, 'laptop.json'));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

const make = { first: async () => first };
const withSubscription =
  (at: number) =>
  (profile: Profile): Profile => ({
    ...profile,
    subscriptions: [
      ...profile.subscriptions,
      { id: at.toString(16).padStart(32, '0'), appliance: 'tiny', name: `tiny ${at}`, head: null },
    ],
  });
const names = (profile: Profile | undefined): unknown => profile?.subscriptions.map(({ name }) => name);

describe('updating', () => {
  it('of two devices at once, and many times in one, loses nothing and counts each once', async () => {
    const [here, there] = [await desk.client(server), await laptop.client(server)];
    await here.update(withSubscription(0), make);
    server.before = async () => void (await there.update(withSubscription(1)));
    await Promise.all([here.update(withSubscription(2)), here.update(withSubscription(3))]);
    expect(names(await there.refresh())).toEqual(['tiny 0', 'tiny 1', 'tiny 2', 'tiny 3']);
    expect(here.profile?.number).toBe(4);
  });

  it('that changes nothing sends nothing, and one without a profile to begin with says so', async () => {
    const client = await desk.client(server);
    await expect(client.update((profile) => profile)).rejects.toMatchObject({ code: 'not-found' });
    await client.update((profile) => profile, make);
    expect(server.puts).toBe(1);
    await client.update((profile) => profile);
    expect(server.puts).toBe(1);
  });

  it('gives up when others are always faster, and goes on with the next', async () => {
    const [here, there] = [await desk.client(server), await laptop.client(server)];
    await here.update(withSubscription(0), make);
    let others = 10;
    const beFaster = async (): Promise<void> => {
      others += 1;
      await there.update(withSubscription(others));
      server.before = beFaster;
    };
    server.before = beFaster;
    await expect(here.update(withSubscription(1))).rejects.toMatchObject({ code: 'conflict' });
    server.before = undefined;
    expect(names(await here.update(withSubscription(2)))).toContain('tiny 2');
  });

  it('whose answer is lost is there at the next refresh', async () => {
    const client = await desk.client(server);
    await client.update(withSubscription(0), make);
    server.isAnswerLost = true;
    await expect(client.update(withSubscription(1))).rejects.toMatchObject({ code: 'repository-unreachable' });
    expect(names(client.profile)).toEqual(['tiny 0']);
    expect(names(await client.refresh())).toEqual(['tiny 0', 'tiny 1']);
  });

  it('tells who listens of each newer profile once, before it resolves', async () => {
    const client = await desk.client(server);
    const numbers: number[] = [];
    client.onChange(async ({ number }) => void numbers.push(number));
    await client.update(withSubscription(0), make);
    await client.update(withSubscription(1));
    await client.refresh();
    expect(numbers).toEqual([1, 2]);
  });
});

describe('what is older than seen', () => {
  it('is refused, also by the next agent of this home, and another home that has seen nothing takes it', async () => {
    const client = await desk.client(server);
    await client.update(withSubscription(0), make);
    const old = server.bytes;
    await client.update(withSubscription(1));
    server.bytes = old;
    for (const one of [client, await desk.client(server)]) {
      await expect(one.refresh()).rejects.toMatchObject({ code: 'rollback' });
      await expect(one.update(withSubscription(2))).rejects.toMatchObject({ code: 'rollback' });
    }
    expect(names(await (await laptop.client(server)).refresh())).toEqual(['tiny 0']);
  });

  it('counts as gone when there is none any more, and as another when the number is the same', async () => {
    const client = await desk.client(server);
    await client.update(withSubscription(0), make);
    server.bytes = sealProfile({ ...first, number: 1 }, person);
    await expect(client.refresh()).rejects.toMatchObject({ code: 'rollback' });
    server.bytes = undefined;
    await expect(client.refresh()).rejects.toMatchObject({ code: 'rollback' });
    await expect(client.update(withSubscription(1), make)).rejects.toMatchObject({ code: 'rollback' });
  });

  it('does not count for another identity: after a reset the numbers begin again', async () => {
    await (await desk.client(server)).update(withSubscription(0), make);
    const other = derivePersonKeys(newPersonSecret());
    server.bytes = sealProfile(first, other);
    const client = await desk.client(server, other);
    expect(client.profile).toBeUndefined();
    expect(await client.refresh()).toEqual(first);
  });

  it('a damaged seen-profile.json is an error, never a fresh start', async () => {
    await (await desk.client(server)).update(withSubscription(0), make);
    await writeFile(desk.seenProfileFile, (await readFile(desk.seenProfileFile)).subarray(0, -5));
    await expect(desk.client(server)).rejects.toMatchObject({ code: 'malformed' });
  });
});

describe('the cache', () => {
  it('gives the newest profile without a network; damaged, or older than seen, it gives none', async () => {
    const client = await desk.client(server);
    await client.update(withSubscription(0), make);
    const old = desk.cached;
    await client.update(withSubscription(1));
    expect(names((await desk.client(server)).profile)).toEqual(['tiny 0', 'tiny 1']);
    const newest = desk.cached;
    desk.cached = old;
    expect((await desk.client(server)).profile).toBeUndefined();
    desk.cached = Buffer.from('damaged');
    expect((await desk.client(server)).profile).toBeUndefined();
    expect(names(await (await desk.client(server)).refresh())).toEqual(['tiny 0', 'tiny 1']);
    expect(desk.cached).toEqual(newest);
  });

  it('that was written just before the agent was killed counts: it is newer than what was noted', async () => {
    const client = await desk.client(server);
    await client.update(withSubscription(0), make);
    desk.cached = sealProfile({ ...openProfile(server.bytes ?? Buffer.alloc(0), person), number: 2 }, person);
    expect((await desk.client(server)).profile?.number).toBe(2);
  });

  it('is refused with another account or repository in it', async () => {
    const client = await desk.client(server);
    server.bytes = sealProfile({ ...first, account: 'bob' }, person);
    await expect(client.refresh()).rejects.toMatchObject({ code: 'untrusted' });
    const elsewhere = { ...first.repository, identity: sha256(Buffer.from('other')) };
    server.bytes = sealProfile({ ...first, repository: elsewhere }, person);
    await expect(client.refresh()).rejects.toMatchObject({ code: 'untrusted' });
    expect(desk.cached).toBeUndefined();
  });
});
