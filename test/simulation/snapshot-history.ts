/**
 * Two devices of one person that back up one subscription, steal its lease from each other and are killed with the server;
 * thinning, pinning and collecting beside them; power cuts and kills at any step, recovery included. What was acknowledged
 * is there whole, what was not is there whole or not at all, there is one head, and what nothing names goes.
 */
import {
  abandonSnapshotUpload,
  checkRepository,
  collectGarbage,
  commitSnapshot,
  createSubscription,
  housekeeping,
  MapStore,
  openSnapshotUpload,
  pinSnapshot,
  restoreSnapshot,
  takeLease,
  thinSubscription,
  uploadPart,
} from '@collective/repository-server';
import {
  CollectiveError,
  type Digest,
  encodeSnapshotManifest,
  encodeSnapshotObject,
  PAYLOAD_TYPES,
  sha256,
  signEnvelope,
  type SnapshotManifest,
} from '@collective/shared';
import { BLOCK_BYTES, buildOf } from './repository-model.js';
import { type Disaster, isKilled, quickKey, RepositoryWorld, type RunningProcess } from './repository-world.js';
import { type CatalogueFile } from './repository-catalogue.js';
import { type Random } from './random.js';
import { type Tally } from './simulate.js';
import { INITIAL, OF, ownChunksOf, type SnapshotAttempt, SnapshotModel, type UserPlan } from './snapshot-model.js';
import { APPLIANCE, type Device, enrol, publish } from './snapshot-people.js';

const ROUNDS = 10;
const PLACES = [0, 1, 128, 129];
/** Blocks there are: few, so that what was left out is wanted again. */
const SEEDS = 10;
/** Errors after which a snapshot may be there although the commit failed. */
const UNKNOWN = ['internal', 'local-io', 'disk-full'];
const FAULTS = ['local-io', 'disk-full', 'internal'];
const REFUSALS = [
  ...FAULTS,
  'conflict',
  'not-found',
  'block-missing',
  'lease-lost',
  'lease-held',
  'wrong-offset',
  'rate-limited',
  'in-use',
];

type History = {
  readonly world: RepositoryWorld;
  readonly model: SnapshotModel;
  readonly random: Random;
  readonly devices: readonly Device[];
  readonly version: SnapshotManifest['writtenBy'];
  /** What a device means to go on with. */
  readonly pending: Map<Digest, SnapshotAttempt>;
  /** Of which object a device has sent parts to an upload. */
  readonly sent: Map<string, Digest>;
  readonly tally: Record<string, number>;
};

const count = (history: History, what: string, by = 1): void => {
  history.tally[what] = (history.tally[what] ?? 0) + by;
};

/** An actor's work: ends quietly when its process was killed, or with a typed error that may come. */
const attempt = async (work: () => Promise<unknown>): Promise<void> => {
  try {
    await work();
  } catch (error) {
    const isTyped = error instanceof CollectiveError && REFUSALS.includes(error.code);
    // What SQLite says when it is full: `internal` on the wire.
    const isFull = error instanceof Error && error.message.startsWith('SQLITE_FULL');
    if (!isKilled(error) && !isTyped && !isFull) throw error;
  }
};

/** The next snapshot after the head, or the one that a death has interrupted. */
const nextAttempt = async (
  history: History,
  { repository }: RunningProcess,
  device: Device,
): Promise<SnapshotAttempt> => {
  const { random, model, pending } = history;
  const begun = pending.get(device.id);
  if (begun !== undefined && random.chance(0.8)) {
    count(history, 'uploads resumed');
    return begun;
  }
  const head = await repository.catalogue.subscriptions.head(OF);
  const before = head === undefined ? undefined : model.shown(head.number, head.manifest);
  const plan: UserPlan[number][] = [...(before?.plan ?? INITIAL.map(() => 'i' as const))];
  for (let change = random.between(1, 2); change > 0; change -= 1)
    plan[random.pick(PLACES)] = random.pick([
      0,
      'i',
      ...Array.from({ length: SEEDS }, (_, index) => index + 1),
    ] as const);
  const { root, chunks } = ownChunksOf(plan);
  // Often it begins a new object with everything, so that old ones are listed no more.
  const isAnew = random.chance(0.25);
  const stored = isAnew || before === undefined ? new Map() : ownChunksOf(before.plan).chunks;
  const records = [...chunks].filter(([digest]) => !stored.has(digest)).map(([digest, chunk]) => ({ digest, chunk }));
  const number = (head?.number ?? 0) + random.pick([1, 1, 1, 2]);
  const manifest: SnapshotManifest = {
    format: 1,
    subscription: OF.subscription,
    number,
    parent: head === undefined ? null : { number: head.number, manifest: head.manifest },
    createdAt: random.int(1_000_000),
    reason: 'periodic',
    lease: random.chance(0.1) ? 0 : device.lease,
    device: device.id,
    epoch: 1,
    writtenBy: history.version,
    disks: [
      {
        name: 'user',
        kind: 'user',
        bus: 'virtio',
        diskBytes: plan.length * BLOCK_BYTES,
        blockBytes: BLOCK_BYTES,
        root,
        base: buildOf(INITIAL).root,
      },
    ],
    objects: [...(isAnew ? [] : (before?.manifest.objects ?? [])), ...(records.length > 0 ? [number] : [])],
    memory: null,
  };
  const bytes = signEnvelope({
    payloadType: PAYLOAD_TYPES.snapshot,
    payload: encodeSnapshotManifest(manifest),
    signers: [device.key],
  });
  const data = records.length > 0 ? encodeSnapshotObject(records) : Buffer.alloc(0);
  return { manifest, bytes, digest: sha256(bytes), plan, data };
};

const backUp = async (history: History, process: RunningProcess, device: Device): Promise<void> => {
  const { random, model, pending } = history;
  const { repository } = process;
  await createSubscription(repository, device.caller, { subscription: OF.subscription, appliance: APPLIANCE });
  if (device.lease === 0 || random.chance(0.3)) {
    const mode = random.pick(['free', 'steal'] as const);
    // As a start does it: it gets what is newest, then takes the lease.
    const basedOn = (await repository.catalogue.subscriptions.head(OF))?.number ?? null;
    device.lease = (await takeLease(repository, device.caller, OF.subscription, { mode, basedOn })).lease;
  }
  const next = await nextAttempt(history, process, device);
  pending.set(device.id, next);
  const { number, parent, lease } = next.manifest;
  const upload = await openSnapshotUpload(repository, device.caller, OF.subscription, { number, parent, lease });
  let byteOffset = upload.receivedBytes;
  if (byteOffset > 0 && history.sent.get(upload.id) !== next.digest) {
    // What is there is of an object that was made before this one.
    await abandonSnapshotUpload(repository, OF, upload.id);
    return;
  }
  history.sent.set(upload.id, next.digest);
  while (byteOffset < next.data.length) {
    const bytes = next.data.subarray(byteOffset, byteOffset + random.between(1, next.data.length));
    byteOffset = await uploadPart(repository, OF, { upload: upload.id, byteOffset, bytes });
  }
  if (random.chance(0.1)) return;
  const known = model.attempt(next);
  try {
    const commit = { upload: upload.id, bytes: next.bytes };
    const committed = await commitSnapshot(repository, OF, [APPLIANCE], commit);
    if (committed.number !== number || committed.manifest !== next.digest)
      throw new Error(`the commit of snapshot ${number} was answered as ${committed.number}`);
    model.acknowledge(known);
    pending.delete(device.id);
    if (random.chance(0.2)) await commitSnapshot(repository, OF, [APPLIANCE], commit);
    await thinSubscription(repository, OF);
  } catch (error) {
    if (error instanceof CollectiveError && !UNKNOWN.includes(error.code) && !known.isSure) {
      count(history, `commits refused: ${error.code}`);
      // A session that has ended says nothing of what it did before.
      if (error.code !== 'not-found') model.refused(known);
      pending.delete(device.id);
    }
    throw error;
  }
};

const changeSome = async ({ random }: History, { repository }: RunningProcess): Promise<void> => {
  const all = await repository.catalogue.subscriptions.snapshots(OF, ['kept', 'deleted']);
  if (all.length === 0) return;
  const { number } = random.pick(all);
  if (random.chance(0.3)) await restoreSnapshot(repository, OF, number);
  else await pinSnapshot(repository, OF, number, random.chance(0.3));
};

const collect = async (history: History, { repository }: RunningProcess): Promise<void> => {
  const result = await collectGarbage(repository, { graceSeconds: history.random.pick([0, 0, 90_000]) });
  count(history, 'snapshots thinned', result.snapshotsThinned);
  count(history, 'snapshots forgotten', result.snapshotsForgotten);
  count(history, 'objects deleted', result.objectsDeleted);
  count(history, 'objects rewritten', result.objectsRewritten);
};

const collectBeside = async (history: History): Promise<void> => {
  const process = await history.world.startCollector();
  await collect(history, process);
  if (!process.life.isDead) process.life.process.kill();
};

const round = async (history: History): Promise<void> => {
  const { world, random, devices } = history;
  const disaster: Disaster = random.pick(['power cut', 'power cut', 'server killed', 'collector killed']);
  const isInCommit = random.chance(0.3);
  if (isInCommit) world.setFuse(random.int(30), disaster, 'manifest');
  else world.setFuse(random.pick([random.int(80), random.int(800), random.int(4_000), random.int(4_000)]), disaster);
  if (random.chance(0.2)) world.setFaults(random.pick([0.002, 0.02]));
  world.advance(random.pick([30, 400, 100_000, 300_000]));
  const server = await world.startServer();
  const actors = [
    ...devices.map((device) => async () => {
      for (let turn = random.between(1, 4); turn > 0; turn -= 1) {
        if (server.life.isDead) return;
        await attempt(() => backUp(history, server, device));
        world.advance(random.pick([1, 20, 4_000]));
      }
    }),
    () => attempt(() => changeSome(history, server)),
    ...(random.chance(0.6) ? [() => attempt(() => collectBeside(history))] : []),
    ...(random.chance(0.4) ? [() => attempt(() => collect(history, server))] : []),
    () => attempt(() => housekeeping(server.repository)),
  ];
  for (const result of await Promise.allSettled(actors.map((actor) => actor())))
    if (result.status === 'rejected') throw result.reason;
  world.setFaults(0);
};

const recoverAndCheck = async ({ world, model }: History): Promise<RunningProcess> => {
  const server = await world.startServer();
  world.setFuse(Number.POSITIVE_INFINITY, 'power cut');
  const current = server.life.isDead ? await world.startServer() : server;
  await model.check(world, world.catalogue.rows.subscriptions);
  return current;
};

/** One history, over this catalogue; throws when something does not hold. */
export const snapshotHistory = async (random: Random, catalogue: CatalogueFile): Promise<Tally> => {
  const world = new RepositoryWorld(random.fork(), catalogue);
  await world.init();
  const first = await world.startServer();
  const version = await publish(world, first);
  const identity = quickKey(random.bytes(32));
  const devices = await enrol(world, identity, first.repository.identity);
  const model = new SnapshotModel();
  const history: History = {
    world,
    model,
    random,
    devices,
    version,
    pending: new Map(),
    sent: new Map(),
    tally: {},
  };
  for (let number = 0; number < ROUNDS; number += 1) {
    await round(history);
    world.strike(random.chance(0.8) ? 'power cut' : 'server killed');
    world.setFuse(random.pick([random.int(40), random.int(400)]), 'power cut');
    await recoverAndCheck(history);
  }
  const server = await recoverAndCheck(history);
  // At rest: sessions end, and the collector leaves what kept snapshots name and nothing else.
  world.advance(200_000);
  await collectGarbage(server.repository, { graceSeconds: 0 });
  await model.check(world, world.catalogue.rows.subscriptions);
  await model.checkNothingElse(world, world.catalogue.rows.subscriptions);
  const store = await world.openForCheck();
  const maps = new MapStore(store, server.repository.limits);
  const found = await checkRepository({ blobStore: store, catalogue: world.catalogue.rows, maps });
  // The other accounts are made without their key files here.
  const problems = found.problems.filter(({ kind }) => kind !== 'account');
  if (problems.length > 0) throw new Error(`check: ${JSON.stringify(problems.slice(0, 3))}`);
  return { ...world.tally, ...model.tally, steps: world.steps, ...history.tally };
};
