/** What a machine believes of its repository, and what it refuses. As long as the class (trust-client.ts): each refusal is tried from each state that it is refused in. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  CollectiveError,
  PAYLOAD_TYPES,
  encodeHeads,
  encodeTrustFile,
  encodeVersionManifest,
  newSigningKeySeed,
  sha256,
  signEnvelope,
  signLetter,
  signingKeyFromSeed,
  type Digest,
  type TrustFile,
} from '@collective/shared';
import { DEFAULT_MACHINE } from '../publish/recipe.js';
import { introduce, keepTrustFiles } from './introduction.js';
import { ObjectCache } from './object-cache.js';
import { TrustClient, type TrustSource } from './trust-client.js';

const key = (): ReturnType<typeof signingKeyFromSeed> => signingKeyFromSeed(newSigningKeySeed());

/** A repository in memory: its root, its heads and its manifests, each of which a test may replace. */
class MemoryRepository implements TrustSource {
  readonly root = key();
  headsKey = key();
  readonly publisher = key();
  readonly trustFiles: Buffer[] = [];
  readonly manifests = new Map<string, Buffer>();
  headsNumber = 0;
  expiresAt = 4_000_000_000;
  asked: string[] = [];

  constructor() {
    this.addTrust({});
  }

  get identity(): Digest {
    return sha256(this.trustFiles[0] ?? Buffer.alloc(0));
  }

  addTrust(change: Partial<TrustFile>): void {
    this.headsNumber += 1;
    const payload = encodeTrustFile({
      format: 1,
      number: this.trustFiles.length + 1,
      createdAt: 1,
      rootKeys: [this.root.publicKey],
      rootThreshold: 1,
      headsKeys: [this.headsKey.publicKey],
      publishers: [{ name: 'pat', key: this.publisher.publicKey, appliances: ['*'] }],
      recount: [],
      ...change,
    });
    this.trustFiles.push(signEnvelope({ payloadType: PAYLOAD_TYPES.trust, payload, signers: [this.root] }));
  }

  /** Of versions that are candidates, whom their letters are for; the letter for all is `promotions`. */
  readonly candidates = new Set<number>();
  sent: { readonly appliance: string; readonly version: number; readonly letter: Buffer }[] = [];
  readonly promotions = new Map<number, Buffer>();
  publisherTitle = '';

  letterOf(version: number, account: string | null, signer = this.publisher): Buffer {
    const manifest = sha256(this.manifests.get(String(version)) ?? Buffer.alloc(0));
    return signLetter({ appliance: 'demo', version, manifest, account }, signer);
  }

  /** A candidate, with a letter for the account of the tests unless there is to be none. */
  publishCandidate(version: number, { account = 'ursula' as string | undefined, signer = this.publisher } = {}): void {
    this.candidates.add(version);
    this.publish(version, signer);
    if (account !== undefined)
      this.sent.push({ appliance: 'demo', version, letter: this.letterOf(version, account, signer) });
  }

  promote(version: number, letter = this.letterOf(version, null)): void {
    this.candidates.delete(version);
    this.promotions.set(version, letter);
    this.headsNumber += 1;
  }

  async letters(): Promise<typeof this.sent> {
    return this.sent;
  }

  async promotion(_appliance: string, version: number): Promise<Buffer> {
    const found = this.promotions.get(version);
    if (found === undefined) throw new CollectiveError('not-found');
    return found;
  }

  publish(version: number, signer = this.publisher): void {
    const before = this.manifests.get(String(version - 1));
    const payload = encodeVersionManifest({
      format: 1,
      appliance: 'demo',
      version,
      parent: before === undefined ? null : { version: version - 1, manifest: sha256(before) },
      createdAt: 1,
      ...(this.candidates.has(version) ? { candidate: true as const } : {}),
      title: this.publisherTitle,
      notes: '',
      machine: DEFAULT_MACHINE,
      disks: [
        { name: 'system', kind: 'system', bus: 'virtio', diskBytes: 4096, blockBytes: 4096, root: null, base: null },
      ],
    });
    this.manifests.set(
      String(version),
      signEnvelope({ payloadType: PAYLOAD_TYPES.version, payload, signers: [signer] }),
    );
    this.headsNumber += 1;
  }

  async trustFile(number: number): Promise<Buffer | undefined> {
    return this.trustFiles[number - 1];
  }

  async heads(): Promise<Buffer> {
    const numbers = Array.from(this.manifests.keys(), Number);
    const named = (version: number) => ({
      appliance: 'demo',
      version,
      manifest: sha256(this.manifests.get(String(version)) ?? Buffer.alloc(0)),
    });
    const version = Math.max(0, ...numbers.filter((number) => !this.candidates.has(number)));
    const heads = version === 0 ? [] : [named(version)];
    const candidates = numbers.filter((number) => this.candidates.has(number)).sort((a, b) => a - b);
    const payload = encodeHeads({
      format: 1,
      number: this.headsNumber + 1,
      trust: this.trustFiles.length,
      createdAt: 1_700_000_000,
      expiresAt: this.expiresAt,
      heads,
      ...(candidates.length === 0 ? {} : { candidates: candidates.map(named) }),
    });
    return signEnvelope({ payloadType: PAYLOAD_TYPES.heads, payload, signers: [this.headsKey] });
  }

  async manifest(_appliance: string, version: number): Promise<Buffer> {
    this.asked.push(String(version));
    const found = this.manifests.get(String(version));
    if (found === undefined) throw new CollectiveError('not-found');
    return found;
  }
}

let folder: string;
let objects: ObjectCache;
let repository: MemoryRepository;
const paths = (): { trustDirectory: string; seenFile: string } => ({
  trustDirectory: join(folder, 'trust'),
  seenFile: join(folder, 'seen.json'),
});

const open = async (): Promise<TrustClient> =>
  TrustClient.open(paths(), objects, { identity: repository.identity, account: 'ursula' });
const joined = async (): Promise<TrustClient> => {
  const { files } = await introduce(repository, repository.identity);
  await keepTrustFiles(paths().trustDirectory, files);
  const client = await open();
  await client.refresh(repository);
  return client;
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-trust-'));
  await mkdir(join(folder, 'objects'));
  objects = await ObjectCache.open(join(folder, 'objects'));
  repository = new MemoryRepository();
});
afterEach(async () => {
  await objects.close();
  await rm(folder, { recursive: true, force: true });
});

describe('TrustClient', () => {
  it('refuses a server whose first trust file is another one', async () => {
    await expect(introduce(repository, sha256(Buffer.from('x')))).rejects.toMatchObject({
      code: 'wrong-server',
    });
  });

  it('refuses a server that has none', async () => {
    repository.trustFiles.length = 0;
    await expect(introduce(repository, sha256(Buffer.from('x')))).rejects.toMatchObject({
      code: 'wrong-server',
    });
  });

  it('walks up to the newest trust file, and a restarted one walks from the disk', async () => {
    repository.addTrust({});
    await joined();
    repository.addTrust({});
    const client = await open();
    expect(client.trust.number).toBe(2);
    await client.refresh(repository);
    expect((await open()).trust.number).toBe(3);
  });

  it('refuses a trust file that the root has not signed, and keeps the one that it holds', async () => {
    const client = await joined();
    const real = repository.root;
    Object.defineProperty(repository, 'root', { value: key() });
    repository.addTrust({ rootKeys: [real.publicKey] });
    await expect(client.refresh(repository)).rejects.toMatchObject({ code: 'untrusted' });
    expect(client.trust.number).toBe(1);
  });

  it('verifies the newest version, and again from what is at hand when the repository is away', async () => {
    repository.publish(1);
    const client = await joined();
    expect((await client.newest('demo', repository)).manifest.version).toBe(1);
    const later = await open();
    expect((await later.newest('demo', undefined)).manifest.version).toBe(1);
    expect(repository.asked).toEqual(['1']);
  });

  it('says that what is not at hand needs the repository', async () => {
    repository.publish(1);
    const client = await joined();
    await expect(client.newest('demo', undefined)).rejects.toMatchObject({ code: 'repository-unreachable' });
    await expect(client.newest('other', repository)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('follows the parent chain to an older version, with a warning', async () => {
    for (const version of [1, 2, 3]) repository.publish(version);
    const client = await joined();
    const older = await client.version('demo', 1, repository);
    expect(older.manifest.version).toBe(1);
    expect(older.notes.join()).toContain('not the newest');
    await expect(client.version('demo', 9, repository)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('refuses an older manifest that the chain does not name', async () => {
    for (const version of [1, 2]) repository.publish(version);
    const client = await joined();
    const first = repository.manifests.get('1');
    repository.publish(1, key());
    expect(repository.manifests.get('1')).not.toEqual(first);
    await expect(client.version('demo', 1, repository)).rejects.toMatchObject({ code: 'untrusted' });
  });

  it('refuses what is older than seen, also after a restart, and leaves seen.json as it was', async () => {
    repository.publish(1);
    repository.publish(2);
    await joined();
    const seen = await readFile(paths().seenFile, 'utf8');
    repository.manifests.delete('2');
    await expect((await open()).refresh(repository)).rejects.toMatchObject({ code: 'rollback' });
    repository.headsNumber = 0;
    await expect((await open()).refresh(repository)).rejects.toMatchObject({ code: 'rollback' });
    expect(await readFile(paths().seenFile, 'utf8')).toBe(seen);
  });

  it('of two refreshes at a time the one whose answer is the older one comes after the other sees no rollback', async () => {
    repository.publish(1);
    await joined();
    const client = await open();
    repository.publish(2);
    repository.headsNumber += 1;
    // The prefetcher's: asked before the next version was there, answered after a start has taken that.
    const early = await repository.heads();
    let answer: (() => void) | undefined;
    let asked = 0;
    const slow: TrustSource = {
      trustFile: async (number) => repository.trustFile(number),
      manifest: async (appliance, version) => repository.manifest(appliance, version),
      promotion: async (appliance, version) => repository.promotion(appliance, version),
      letters: async () => repository.letters(),
      heads: async () => {
        asked += 1;
        if (asked > 1) return repository.heads();
        await new Promise<void>((resolve) => (answer = resolve));
        return early;
      },
    };
    const late = client.refresh(slow);
    while (answer === undefined) await new Promise((resolve) => setImmediate(resolve));
    repository.publish(3);
    repository.headsNumber += 1;
    await client.refresh(repository);
    answer();
    await late;
    expect(client.seenVersion('demo')).toBe(3);
  });

  it('two refreshes at a time take a new trust file once', async () => {
    await joined();
    const client = await open();
    repository.addTrust({});
    repository.addTrust({});
    await Promise.all([1, 2, 3].map(async () => client.refresh(repository)));
    expect(client.trust.number).toBe(3);
  });

  it('an appliance that disappears keeps its last version as the floor', async () => {
    repository.publish(1);
    repository.publish(2);
    const client = await joined();
    const kept = new Map(repository.manifests);
    repository.manifests.clear();
    repository.headsNumber += 1;
    await client.refresh(repository);
    expect(client.seenVersion('demo')).toBe(2);
    repository.manifests.set('1', kept.get('1') ?? Buffer.alloc(0));
    repository.headsNumber += 1;
    await expect(client.refresh(repository)).rejects.toMatchObject({ code: 'rollback' });
  });

  it('a recount in a newer trust file lets counting begin again', async () => {
    repository.publish(1);
    repository.publish(2);
    const client = await joined();
    repository.manifests.delete('2');
    repository.headsNumber += 1;
    repository.addTrust({ recount: [{ appliance: 'demo', version: 1, since: 2 }] });
    await client.refresh(repository);
    expect((await client.newest('demo', repository)).manifest.version).toBe(1);
  });

  it("after a recount a thief's version is not started by name in the place of the one that was made since", async () => {
    const thief = key();
    repository.publish(1);
    repository.addTrust({ publishers: [{ name: 'pat', key: thief.publicKey, appliances: ['*'] }] });
    repository.publish(2, thief);
    const client = await joined();
    const stolen = await client.newest('demo', repository);
    repository.addTrust({ recount: [{ appliance: 'demo', version: 1, since: 3 }] });
    for (const version of [2, 3]) repository.publish(version);
    await client.refresh(repository);
    const second = await client.version('demo', 2, repository);
    expect(second.digest).not.toBe(stolen.digest);
    expect(second.digest).toBe(sha256(repository.manifests.get('2') ?? Buffer.alloc(0)));
  });

  it('without the repository an older version that was verified here starts by name, though a newer one is known', async () => {
    repository.publish(1);
    const client = await joined();
    await client.newest('demo', repository);
    repository.publish(2);
    await client.refresh(repository);
    await expect(client.newest('demo', undefined)).rejects.toMatchObject({ code: 'repository-unreachable' });
    const held = await client.version('demo', 1, undefined);
    expect(held.manifest.version).toBe(1);
    expect(held.notes.join()).toContain('there may be a newer version');
  });

  it('without heads it says that the newest version is not known, not that there is no such appliance', async () => {
    repository.publish(1);
    const { files } = await introduce(repository, repository.identity);
    await keepTrustFiles(paths().trustDirectory, files);
    await expect((await open()).newest('demo', undefined)).rejects.toMatchObject({ code: 'repository-unreachable' });
  });

  it("trust files of another repository, left by a login that was broken off, are in nobody's way", async () => {
    const other = new MemoryRepository();
    other.addTrust({});
    other.addTrust({});
    await keepTrustFiles(paths().trustDirectory, other.trustFiles);
    await joined();
    expect((await open()).trust.number).toBe(1);
  });

  it('expired heads are a note, never a refusal', async () => {
    repository.publish(1);
    repository.expiresAt = 1_700_000_100;
    const client = await joined();
    expect((await client.newest('demo', repository)).notes.join()).toContain('No news from the repository since');
  });

  it('a replaced heads key is followed, and the old heads on disk no longer count', async () => {
    repository.publish(1);
    await joined();
    repository.headsKey = key();
    repository.addTrust({});
    repository.headsNumber += 1;
    const client = await open();
    await client.refresh(repository);
    expect((await client.newest('demo', repository)).manifest.version).toBe(1);
  });

  it('a damaged seen.json is an error, never a fresh start', async () => {
    await joined();
    await writeFile(paths().seenFile, '{}');
    await expect(open()).rejects.toMatchObject({ code: 'malformed' });
  });
});

describe('candidates', () => {
  const newest = async (client: TrustClient, source: TrustSource | undefined = repository) =>
    client.newest('demo', source);

  it('is the newest version for whom it names, also without the repository afterwards', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    const found = await newest(client);
    expect(found.manifest.version).toBe(2);
    expect(found.notes.join()).toContain('candidate');
    expect((await newest(await open(), undefined)).manifest.version).toBe(2);
    expect((await client.released('demo', repository)).manifest.version).toBe(1);
    const byName = await client.version('demo', 1, repository);
    expect([byName.manifest.version, byName.notes]).toEqual([1, []]);
  });

  it('of a new appliance is all that there is of it', async () => {
    repository.publishCandidate(1);
    const client = await joined();
    expect((await newest(client)).manifest.version).toBe(1);
    await expect(client.released('demo', repository)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('is not used by somebody who is not named, whatever the server shows them', async () => {
    repository.publish(1);
    repository.publishCandidate(2, { account: undefined });
    const client = await joined();
    for (const letter of [
      repository.letterOf(2, 'otto'),
      repository.letterOf(2, null),
      repository.letterOf(2, 'ursula', key()),
      repository.letterOf(1, 'ursula'),
      Buffer.from('{"format":1}'),
    ]) {
      repository.sent = [{ appliance: 'demo', version: 2, letter }];
      await client.refresh(repository);
      const found = await newest(client);
      expect(found.manifest.version).toBe(1);
      expect(found.notes.join()).toContain('not for you');
      await expect(client.version('demo', 2, repository)).rejects.toMatchObject({ code: 'not-found' });
    }
    repository.sent = [];
    await client.refresh(repository);
    expect((await newest(client)).notes).toEqual([]);
  });

  it('whose letter is there counts no longer when its key may not publish any more', async () => {
    repository.publish(1);
    const second = key();
    repository.addTrust({
      publishers: [repository.publisher, second].map(({ publicKey }, at) => ({
        name: `p${String(at)}`,
        key: publicKey,
        appliances: ['*'],
      })),
    });
    repository.publishCandidate(2, { signer: second });
    const client = await joined();
    expect((await newest(client)).manifest.version).toBe(2);
    repository.addTrust({});
    await client.refresh(repository);
    expect((await newest(client)).manifest.version).toBe(1);
  });

  it('that the heads do not name, or with another manifest, is not used', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const stolen = repository.manifests.get('2') ?? Buffer.alloc(0);
    const { sent } = repository;
    repository.manifests.delete('2');
    const client = await joined();
    expect((await newest(client)).manifest.version).toBe(1);
    // Another candidate under that number: the letter was for the first.
    repository.sent = [];
    repository.publisherTitle = 'another';
    repository.publishCandidate(2, { account: undefined });
    expect(repository.manifests.get('2')?.equals(stolen)).toBe(false);
    repository.sent = sent;
    await client.refresh(repository);
    expect((await newest(client)).manifest.version).toBe(1);
  });

  it('that the server keeps back gives way to the version for all, and the person is told', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    const real = repository.manifest.bind(repository);
    repository.manifest = async (name, version) => {
      if (version === 2) throw new CollectiveError('not-found', 'there is no version 2');
      return real(name, version);
    };
    const found = await newest(client);
    expect(found.manifest.version).toBe(1);
    expect(found.notes.join()).toContain('cannot be had');
  });

  it('with wrong bytes is an error, not a reason to run something else', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    const first = repository.manifests.get('1') ?? Buffer.alloc(0);
    repository.manifest = async () => first;
    await expect(newest(client)).rejects.toMatchObject({ code: 'untrusted' });
  });

  it('that was withdrawn gives way to the version for all: a candidate is no floor', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    await newest(client);
    repository.manifests.delete('2');
    repository.headsNumber += 1;
    await client.refresh(repository);
    expect((await newest(client)).manifest.version).toBe(1);
  });
});

describe('promotion', () => {
  it('makes the candidate the version for all under its number, for everybody, also offline', async () => {
    repository.publish(1);
    repository.publishCandidate(2, { account: undefined });
    const client = await joined();
    repository.promote(2);
    await client.refresh(repository);
    const found = await client.newest('demo', repository);
    expect([found.manifest.version, found.notes]).toEqual([2, []]);
    repository.promotions.clear();
    expect((await (await open()).newest('demo', undefined)).manifest.version).toBe(2);
  });

  it('cannot be made by a server: heads that name a candidate as the version for all are not enough', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    repository.promote(2, repository.letterOf(2, null, key()));
    await client.refresh(repository);
    await expect(client.newest('demo', repository)).rejects.toMatchObject({ code: 'untrusted' });
    for (const forged of [repository.letterOf(2, 'ursula'), repository.letterOf(1, null)]) {
      repository.promotions.set(2, forged);
      await expect(client.newest('demo', repository)).rejects.toMatchObject({ code: 'untrusted' });
    }
    repository.promotions.clear();
    await expect(client.newest('demo', repository)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('cannot be taken back: the version before is a rollback then, also when it is shown as a candidate again', async () => {
    repository.publish(1);
    repository.publishCandidate(2);
    const client = await joined();
    repository.promote(2);
    await client.refresh(repository);
    repository.candidates.add(2);
    repository.headsNumber += 1;
    await expect(client.refresh(repository)).rejects.toMatchObject({ code: 'rollback' });
    await expect((await open()).refresh(repository)).rejects.toMatchObject({ code: 'rollback' });
  });
});
