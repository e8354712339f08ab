/** Publishes small made-up disks through the routes: blocks that say where they belong. */
import {
  type ChangedPairs,
  DiskMap,
  type DiskShape,
  type Digest,
  encodeChangedPairs,
  encodeChunk,
  encodeChunkBatch,
  encodeVersionManifest,
  PAYLOAD_TYPES,
  sha256,
  signEnvelope,
  type SigningKey,
  type VersionManifest,
} from '@collective/shared';
import { type TestPerson, type TestReply, type TestRepository } from './test-repository.js';

export const BLOCK_BYTES = 4_096;

/** Block content by position: 0 is a zero block, every other number a block of its own. */
export type DiskPlan = readonly number[];

export const blockOf = (seed: number): Buffer => {
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let at = 0; at < BLOCK_BYTES && seed !== 0; at += 8) {
    block.writeUInt32LE(seed, at);
    block.writeUInt32LE(at, at + 4);
  }
  return block;
};

export type TestChunk = { readonly digest: Digest; readonly chunk: Buffer };

const chunks = new Map<number, TestChunk>();
/** Made once for each seed. */
export const chunkOf = (seed: number): TestChunk => {
  const known = chunks.get(seed);
  if (known !== undefined) return known;
  const block = blockOf(seed);
  const made = { digest: sha256(block), chunk: encodeChunk(block) };
  chunks.set(seed, made);
  return made;
};

export const mapOf = (plan: DiskPlan): DiskMap => {
  const map = DiskMap.empty({ diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  plan.forEach((seed, index) => {
    if (seed !== 0) map.set(index, { kind: 'public', digest: chunkOf(seed).digest });
  });
  return map;
};

export type ManifestOptions = {
  readonly appliance: string;
  readonly version: number;
  readonly parent: VersionManifest['parent'];
  readonly plan: DiskPlan;
  readonly title?: string;
  readonly change?: (manifest: VersionManifest) => VersionManifest;
};

/** A version whose only disk is its system disk. */
export const systemManifest = (of: {
  readonly appliance: string;
  readonly version: number;
  readonly parent: VersionManifest['parent'];
  readonly title: string;
  readonly disk: DiskShape & { readonly root: Digest | null };
}): VersionManifest => ({
  format: 1,
  appliance: of.appliance,
  version: of.version,
  parent: of.parent,
  createdAt: 1_800_000_000,
  title: of.title,
  notes: '',
  machine: {
    memoryBytes: 268_435_456,
    cpus: 1,
    chipset: 'q35',
    firmware: 'bios',
    network: 'virtio',
    display: 'none',
    guestAgent: false,
    clock: 'utc',
  },
  disks: [
    {
      name: 'system',
      kind: 'system',
      bus: 'virtio',
      diskBytes: of.disk.diskBytes,
      blockBytes: of.disk.blockBytes,
      root: of.disk.root,
      base: null,
    },
  ],
});

export const manifestOf = ({ plan, change, ...options }: ManifestOptions): VersionManifest => {
  const disk = { diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES, root: mapOf(plan).build().root };
  const manifest = systemManifest({ title: `Version ${options.version}`, ...options, disk });
  return change?.(manifest) ?? manifest;
};

export const signManifest = (manifest: VersionManifest, ...signers: SigningKey[]): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.version, payload: encodeVersionManifest(manifest), signers });

export class TestPublisher {
  readonly #server: TestRepository;
  readonly #person: TestPerson;

  constructor(server: TestRepository, person: TestPerson) {
    this.#server = server;
    this.#person = person;
  }

  async openUpload(appliance: string, parent: number | null): Promise<string> {
    const reply = await this.tryOpenUpload(appliance, parent);
    if (reply.status !== 200) throw new Error(`no upload: ${reply.body.toString('utf8')}`);
    return String(reply.json()['upload']);
  }

  tryOpenUpload(appliance: string, parent: number | null): Promise<TestReply> {
    return this.#server.request('createUpload', {
      token: this.#person.token,
      params: { name: appliance },
      body: { parent },
    });
  }

  async lacking(upload: string, digests: readonly Digest[]): Promise<Digest[]> {
    const reply = await this.#server.request('lackingChunks', {
      token: this.#person.token,
      params: { upload },
      body: Buffer.from(digests.join(''), 'hex'),
    });
    if (reply.status !== 200) throw new Error(`lacking: ${reply.body.toString('utf8')}`);
    return (reply.body.toString('hex').match(/.{64}/g) ?? []) as Digest[];
  }

  sendChunks(upload: string, seeds: Iterable<number>): Promise<TestReply> {
    const records = [...new Set(seeds)].filter((seed) => seed !== 0).map(chunkOf);
    return this.sendBatch(upload, encodeChunkBatch(records));
  }

  sendBatch(upload: string, body: Buffer): Promise<TestReply> {
    return this.#server.request('uploadChunks', { token: this.#person.token, params: { upload }, body });
  }

  sendDisk(
    upload: string,
    plan: DiskPlan,
    since?: { readonly version: number; readonly plan: DiskPlan },
  ): Promise<TestReply> {
    const pairs: ChangedPairs = mapOf(plan).changesSince(since === undefined ? undefined : mapOf(since.plan));
    return this.#server.request('uploadDisk', {
      token: this.#person.token,
      params: { upload, disk: 'system' },
      query: { since: since?.version ?? 'none' },
      body: encodeChangedPairs(pairs),
    });
  }

  /** Another disk than `system`; gives its root. */
  async sendNamedDisk(upload: string, disk: string, plan: DiskPlan): Promise<Digest> {
    const reply = await this.#server.request('uploadDisk', {
      token: this.#person.token,
      params: { upload, disk },
      query: { since: 'none' },
      body: encodeChangedPairs(mapOf(plan).changesSince(undefined)),
    });
    if (reply.status !== 200) throw new Error(`disk: ${reply.body.toString('utf8')}`);
    return mapOf(plan).build().root;
  }

  commit(upload: string, body: Buffer): Promise<TestReply> {
    return this.#server.request('commitUpload', { token: this.#person.token, params: { upload }, body });
  }

  /** A whole publication; returns the reply of the commit and the manifest file. */
  async publish(
    options: ManifestOptions,
  ): Promise<{ readonly reply: TestReply; readonly file: Buffer; readonly upload: string }> {
    const upload = await this.openUpload(options.appliance, options.parent?.version ?? null);
    const seeds = [...new Set(options.plan)].filter((seed) => seed !== 0);
    const lacking = new Set(
      await this.lacking(
        upload,
        seeds.map((seed) => chunkOf(seed).digest),
      ),
    );
    const sent = await this.sendChunks(
      upload,
      seeds.filter((seed) => lacking.has(chunkOf(seed).digest)),
    );
    if (sent.status !== 200) throw new Error(`chunks: ${sent.body.toString('utf8')}`);
    const disk = await this.sendDisk(upload, options.plan);
    if (disk.status !== 200) throw new Error(`disk: ${disk.body.toString('utf8')}`);
    const file = signManifest(manifestOf(options), this.#person.publishing);
    return { reply: await this.commit(upload, file), file, upload };
  }
}
