/**
 * A transceiver that backs up small made-up user disks through the routes: takes the lease, builds map pages and private
 * chunks, uploads the object in parts and commits. Blocks say what they are; keys are the device's and protect nothing.
 */
import {
  deriveEpochKeys,
  type Digest,
  DiskMap,
  encodeChunk,
  encodePrivateChunk,
  encodeSnapshotManifest,
  encodeSnapshotObject,
  PAYLOAD_TYPES,
  privateBlockDigest,
  type RouteName,
  sha256,
  signEnvelope,
  type SigningKey,
  type SnapshotManifest,
} from '@collective/shared';
import { BLOCK_BYTES, blockOf, chunkOf } from './test-publisher.js';
import { type TestPerson, type TestReply, type TestRequest, type TestRepository } from './test-repository.js';

const EPOCH = 1;
const KEYS = deriveEpochKeys(Buffer.alloc(32, 7));
const CHUNKS = new Map<number, StoredRecord>();

/** Of each block: `inherit`, a number as in a DiskPlan (0 is zero) that is private, or `p` and a number that is public. */
export type UserPlan = readonly (number | 'inherit' | `p${number}`)[];

export type StoredRecord = { readonly digest: Digest; readonly chunk: Buffer };
export type MadeSnapshot = {
  readonly manifest: SnapshotManifest;
  /** The object; empty when it adds nothing. */
  readonly data: Buffer;
  readonly file: Buffer;
};
export type SnapshotOptions = {
  readonly plan: UserPlan;
  readonly reason?: SnapshotManifest['reason'];
  readonly lease?: number;
  readonly change?: (manifest: SnapshotManifest) => SnapshotManifest;
  readonly records?: (records: StoredRecord[]) => StoredRecord[];
  /** Objects that it lists beside its own; those of the head when absent. */
  readonly objects?: readonly number[];
  readonly signer?: SigningKey;
};
type Head = { readonly number: number; readonly manifest: Digest };

/** Made once for each seed, as a device has it from its committed map. */
export const privateChunkOf = (seed: number): StoredRecord => {
  const known = CHUNKS.get(seed);
  if (known !== undefined) return known;
  const plain = blockOf(seed);
  const digest = privateBlockDigest(KEYS.blockNameKey, plain);
  const made = { digest, chunk: encodePrivateChunk(plain, { key: KEYS.chunkKey, epoch: EPOCH, digest }) };
  CHUNKS.set(seed, made);
  return made;
};

export const userMapOf = (plan: UserPlan): DiskMap => {
  const map = DiskMap.empty({ diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  plan.forEach((entry, index) => {
    if (entry === 'inherit') map.set(index, { kind: 'inherit' });
    else if (typeof entry === 'string')
      map.set(index, { kind: 'public', digest: chunkOf(Number(entry.slice(1))).digest });
    else if (entry !== 0) map.set(index, { kind: 'private', digest: privateChunkOf(entry).digest });
  });
  return map;
};

export class TestBackup {
  readonly subscription: string;
  readonly person: TestPerson;
  lease = 0;
  head: Head | undefined;
  /** What the objects hold that the head lists. */
  objects: readonly number[] = [];
  readonly #server: TestRepository;
  readonly #written: SnapshotManifest['writtenBy'];
  readonly #base: Digest | null;
  readonly #stored = new Set<Digest>();

  constructor(
    server: TestRepository,
    person: TestPerson,
    options: {
      readonly subscription: string;
      readonly writtenBy: SnapshotManifest['writtenBy'];
      readonly base?: Digest | null;
    },
  ) {
    this.#server = server;
    this.person = person;
    this.subscription = options.subscription;
    this.#written = options.writtenBy;
    this.#base = options.base ?? null;
  }

  request(name: RouteName, request: TestRequest = {}): Promise<TestReply> {
    const params = { subscription: this.subscription, ...request.params };
    return this.#server.request(name, { token: this.person.token, ...request, params });
  }

  create(appliance = this.#written.appliance): Promise<TestReply> {
    return this.request('createSubscription', { body: { appliance } });
  }

  async take(mode: 'free' | 'steal' = 'free'): Promise<TestReply> {
    const basedOn = this.head?.number ?? null;
    const reply = await this.request('takeLease', { body: { mode, basedOn } });
    if (reply.status === 200) this.lease = Number(reply.json()['lease']);
    return reply;
  }

  /** The next snapshot of this state, signed; only chunks and pages that no listed object has are in its object. */
  make(options: SnapshotOptions): MadeSnapshot {
    const number = (this.head?.number ?? 0) + 1;
    const { root, pages } = userMapOf(options.plan).build();
    const wanted = new Map<Digest, Buffer>();
    for (const [digest, page] of pages) if (!this.#stored.has(digest)) wanted.set(digest, encodeChunk(page));
    for (const entry of options.plan) {
      if (typeof entry !== 'number' || entry === 0) continue;
      const { digest, chunk } = privateChunkOf(entry);
      if (!this.#stored.has(digest)) wanted.set(digest, chunk);
    }
    const added = [...wanted].map(([digest, chunk]) => ({ digest, chunk }));
    const records = options.records?.(added) ?? added;
    const listed = options.objects ?? this.objects;
    const manifest: SnapshotManifest = {
      format: 1,
      subscription: this.subscription,
      number,
      parent: this.head ?? null,
      createdAt: this.#server.clock.nowSeconds(),
      reason: options.reason ?? 'periodic',
      lease: options.lease ?? this.lease,
      device: this.person.deviceId,
      epoch: EPOCH,
      writtenBy: this.#written,
      disks: [
        {
          name: 'user',
          kind: 'user',
          bus: 'virtio',
          diskBytes: options.plan.length * BLOCK_BYTES,
          blockBytes: BLOCK_BYTES,
          root,
          base: this.#base,
        },
      ],
      objects: records.length > 0 ? [...listed, number] : [...listed],
      memory: null,
    };
    const signed = options.change?.(manifest) ?? manifest;
    const data = records.length > 0 ? encodeSnapshotObject(records) : Buffer.alloc(0);
    return { manifest: signed, data, file: signSnapshot(signed, options.signer ?? this.person.device) };
  }

  open(manifest: Pick<SnapshotManifest, 'number' | 'parent' | 'lease'>): Promise<TestReply> {
    const { number, parent, lease } = manifest;
    return this.request('openSnapshotUpload', { body: { number, parent, lease } });
  }

  send(upload: string, bytes: Uint8Array, offset = 0): Promise<TestReply> {
    return this.request('uploadSnapshotPart', { params: { upload }, query: { offset }, body: bytes });
  }

  commit(upload: string, file: Buffer): Promise<TestReply> {
    return this.request('commitSnapshot', { params: { upload }, body: file });
  }

  /** Remembers a committed snapshot as the head. */
  committed({ manifest, file }: MadeSnapshot): void {
    this.head = { number: manifest.number, manifest: sha256(file) };
    this.objects = manifest.objects;
    for (const disk of manifest.disks) if (disk.root !== null) this.#stored.add(disk.root);
  }

  /** Opens, sends everything and commits; when it is taken it is the head. */
  async upload(made: MadeSnapshot): Promise<{ readonly reply: TestReply; readonly upload: string }> {
    let opened = await this.open(made.manifest);
    if (opened.status === 200 && opened.json()['receivedBytes'] !== 0) {
      // Of an object that was made before this one: its nonces were others.
      await this.request('abandonSnapshotUpload', { params: { upload: String(opened.json()['upload']) } });
      opened = await this.open(made.manifest);
    }
    if (opened.status !== 200) return { reply: opened, upload: '' };
    const upload = String(opened.json()['upload']);
    if (made.data.length > 0) {
      const sent = await this.send(upload, made.data);
      if (sent.status !== 200) return { reply: sent, upload };
    }
    const reply = await this.commit(upload, made.file);
    if (reply.status === 201) this.committed(made);
    return { reply, upload };
  }

  /** The same for a plan; what it stored is not sent again. */
  async save(options: SnapshotOptions): Promise<MadeSnapshot> {
    const made = this.make(options);
    const { reply } = await this.upload(made);
    if (reply.status !== 201) throw new Error(`commit: ${reply.status} ${reply.body.toString('utf8')}`);
    const { pages } = userMapOf(options.plan).build();
    for (const digest of pages.keys()) this.#stored.add(digest);
    for (const entry of options.plan)
      if (typeof entry === 'number' && entry !== 0) this.#stored.add(privateChunkOf(entry).digest);
    return made;
  }
}

export const signSnapshot = (manifest: SnapshotManifest, ...signers: SigningKey[]): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.snapshot, payload: encodeSnapshotManifest(manifest), signers });
