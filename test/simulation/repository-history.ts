/**
 * Publish, commit, withdraw, delete, collect garbage, read, lose the catalogue, by several people at once on one simulated disk, with
 * power cuts and kills at any step, recovery included: what was acknowledged is there whole, what was not is there whole
 * or not at all, heads never go back, nothing that a version names is ever missing, and garbage goes.
 */
import {
  changeVersionState,
  checkRepository,
  collectGarbage,
  commitVersion,
  HEADS,
  housekeeping,
  lackingChunks,
  MapStore,
  openOwnUpload,
  openUpload,
  ownUpload,
  readableAppliances,
  readVersionFile,
  setDisk,
  storeBatch,
} from '@collective/repository-server';
import { CollectiveError, encodeChangedPairs, encodeChunkBatch } from '@collective/shared';
import {
  type Attempt,
  attemptOf,
  blockOf,
  buildOf,
  HeadsReader,
  mapOf,
  type Plan,
  rankOf,
  RepositoryModel,
} from './repository-model.js';
import {
  type Disaster,
  isKilled,
  type Person,
  RepositoryWorld,
  type RunningProcess,
  UPLOAD_IDLE_SECONDS,
} from './repository-world.js';
import { type Random } from './random.js';
import { type CatalogueFile } from './repository-catalogue.js';
import { type Tally } from './simulate.js';

const ROUNDS = 12;
/** Blocks there are: few, so that garbage is wanted again and appliances share. */
const SEEDS = 14;
const APPLIANCES = ['one', 'two', 'three'] as const;
/** Errors after which a version may be there although the commit failed. */
const UNKNOWN = ['internal', 'local-io', 'disk-full'];

type History = {
  readonly world: RepositoryWorld;
  readonly model: RepositoryModel;
  readonly random: Random;
  readonly readers: readonly HeadsReader[];
  /** What a publisher means to go on with. */
  readonly pending: Map<string, Pending>;
  readonly tally: Record<string, number>;
  readonly isWide: boolean;
};
type Pending = { readonly upload: string; readonly attempt: Attempt };

const count = (history: History, what: string, by = 1): void => {
  history.tally[what] = (history.tally[what] ?? 0) + by;
};

/** An actor's work: ends quietly when its process was killed or the product says a typed error that `allowed` names. */
const attempt = async (allowed: readonly string[], work: () => Promise<void>): Promise<'done' | 'killed' | string> => {
  try {
    await work();
    return 'done';
  } catch (error) {
    if (isKilled(error)) return 'killed';
    if (error instanceof CollectiveError && allowed.includes(error.code)) return error.code;
    // What SQLite says when it is full: `internal` on the wire.
    if (error instanceof Error && error.message.startsWith('SQLITE_FULL')) return 'internal';
    throw error;
  }
};

const newPlan = (history: History, before: Plan | undefined): Plan => {
  const { random, isWide } = history;
  const plan = [...(before ?? Array.from({ length: isWide ? 130 : 4 }, () => 0))];
  const places = isWide ? [0, 1, 128, 129] : [0, 1, 2, 3];
  for (let change = random.between(before === undefined ? 3 : 1, 3); change > 0; change -= 1)
    plan[random.pick(places)] = random.chance(0.1) ? 0 : random.between(1, SEEDS);
  return plan;
};

/** A publication, from the session to the commit, or as far as it comes; goes on with what was begun before a death. */
const publish = async (history: History, { repository }: RunningProcess, person: Person): Promise<void> => {
  const { random, model, pending } = history;
  const { caller } = person;
  let begun = pending.get(caller.account);
  pending.delete(caller.account);
  if (begun !== undefined && random.chance(0.2)) begun = undefined;
  if (begun === undefined) {
    const appliance = random.pick(person.appliances);
    const head = await repository.catalogue.versions.head(appliance);
    const upload = await openUpload(repository, caller, appliance, head?.version);
    const before = head === undefined ? undefined : model.shown(appliance, head.version, head.manifest);
    const parent = head === undefined ? null : { version: head.version, manifest: head.manifest };
    const version = (head?.version ?? 0) + random.pick([1, 1, 1, 2]);
    const plan = newPlan(history, before?.plan);
    const title = `${caller.account} ${random.int(1_000_000)}`;
    begun = { upload: upload.id, attempt: attemptOf({ appliance, version, plan, title }, parent, person.key) };
    if (random.chance(0.6)) pending.set(caller.account, begun);
  } else count(history, 'uploads resumed');
  const { bytes } = begun.attempt;
  if (random.chance(0.9)) await send(history, repository, person, begun);
  if (random.chance(0.2)) {
    count(history, 'uploads abandoned');
    pending.delete(caller.account);
    return repository.catalogue.uploads.removeUpload(begun.upload);
  }
  if (random.chance(0.08)) return;
  const known = model.attempt(begun.attempt);
  try {
    const upload = await ownUpload(repository, caller, begun.upload);
    const readable = await readableAppliances(repository, caller);
    const committed = await commitVersion(repository, upload, readable, bytes);
    if (committed.version !== known.version || committed.manifest !== known.digest)
      throw new Error(`the commit of ${known.appliance}@${known.version} was answered as version ${committed.version}`);
    model.acknowledge(known);
    pending.delete(caller.account);
    // The answer got lost: asked again, it is the same.
    if (random.chance(0.2)) await commitVersion(repository, upload, readable, bytes);
    // It is in the heads from the moment when it was acknowledged.
    const heads = new HeadsReader().read(await repository.blobStore.read(HEADS), history.world.trust, model);
    if ((heads.find(({ appliance }) => appliance === known.appliance)?.version ?? 0) < known.version)
      throw new Error(`the heads do not name ${known.appliance}@${known.version}, which was acknowledged`);
  } catch (error) {
    if (error instanceof CollectiveError && !UNKNOWN.includes(error.code)) {
      count(history, `commits refused: ${error.code}`);
      // A session that has ended says nothing of what it did before.
      if (error.code !== 'not-found') model.refused(known);
      if (error.code !== 'block-missing') pending.delete(caller.account);
    }
    throw error;
  }
};

const send = async (
  history: History,
  repository: RunningProcess['repository'],
  { caller }: Person,
  { upload: id, attempt: { plan } }: Pending,
): Promise<void> => {
  const { random } = history;
  const blocks = [...new Set(plan)].filter((seed) => seed !== 0).map(blockOf);
  let upload = await openOwnUpload(repository, caller, id);
  const readable = await readableAppliances(repository, caller);
  const lacking = new Set(
    await lackingChunks(
      repository,
      upload,
      readable,
      blocks.map(({ digest }) => digest),
    ),
  );
  const records = blocks.filter(({ digest }) => lacking.has(digest));
  const cut = random.int(records.length + 1);
  for (const part of [records.slice(0, cut), records.slice(cut)]) {
    if (part.length === 0) continue;
    upload = await openOwnUpload(repository, caller, id);
    await storeBatch(repository, upload, readable, encodeChunkBatch(part));
  }
  upload = await openOwnUpload(repository, caller, id);
  const pairs = encodeChangedPairs(mapOf(plan).changesSince(undefined));
  const root = await setDisk(repository, upload, readable, { name: 'system', since: undefined, pairs });
  if (root !== buildOf(plan).root) throw new Error(`the server rebuilt the root ${root}`);
};

const endVersion = async (history: History, { repository }: RunningProcess): Promise<void> => {
  const { random, model } = history;
  const known = model.versionsOf(random.pick(APPLIANCES));
  if (known.length === 0) return;
  const version = random.pick(known);
  const state = random.pick(['withdrawn', 'deleted'] as const);
  // The collector may take it from there.
  version.rankMax = rankOf('forgotten');
  await changeVersionState(repository, version.appliance, version.version, state);
  version.rank = Math.max(version.rank, rankOf(state));
  count(history, 'versions ended');
};

/** Walks versions that are in use as a client does; what they name is there at that moment. */
const read = async (history: History, { repository, life }: RunningProcess, reader: HeadsReader): Promise<void> => {
  const { random, model, world } = history;
  const { blobStore, catalogue } = repository;
  reader.read(await blobStore.read(HEADS), world.trust, model);
  const all = await catalogue.versions.versions(random.pick(APPLIANCES));
  if (all.length === 0) return;
  const record = random.chance(0.5) ? all.at(-1) : random.pick(all);
  if (record === undefined) return;
  const known = model.shown(record.appliance, record.version, record.manifest);
  const file = await readVersionFile(blobStore, record.appliance, record.version);
  if (file?.bytes.equals(known.bytes) !== true)
    throw new Error(`${record.appliance}@${record.version}: not its manifest`);
  for (const [digest, chunk] of buildOf(known.plan).chunks) {
    const found = await blobStore.readChunk(digest);
    life.requireAlive();
    if (found?.equals(chunk) === true) {
      count(history, 'chunks read beside');
      continue;
    }
    const now = await catalogue.versions.version(record.appliance, record.version);
    if (now?.state === 'forgotten') return count(history, 'versions forgotten under a reader');
    model.checkChunk(`${record.appliance}@${record.version} (${now?.state ?? 'gone'})`, digest, chunk, found);
  }
};

const collect = async (history: History, process: RunningProcess): Promise<void> => {
  const graceSeconds = history.random.pick([0, 0, 300]);
  const result = await collectGarbage(process.repository, { graceSeconds });
  count(history, 'collections');
  count(history, 'chunks collected', result.chunksDeleted);
  count(history, 'versions forgotten', result.versionsForgotten);
};

/** gc as a command, beside the server or without it. */
const collectBeside = async (history: History): Promise<void> => {
  for (let run = history.random.int(3); run > 0; run -= 1) {
    const process = await history.world.startCollector();
    await collect(history, process);
    if (!process.life.isDead) process.life.process.kill();
  }
};

const FAULTS = ['local-io', 'disk-full'];

const round = async (history: History): Promise<void> => {
  const { world, random, readers } = history;
  const disaster: Disaster = random.pick(['power cut', 'power cut', 'power cut', 'server killed', 'collector killed']);
  // In a commit, after a row that is not synced, after all work, early in the recovery, late in it, or anywhere in the work.
  if (random.chance(0.3)) world.setFuse(random.int(40), disaster, 'manifest');
  else if (random.chance(0.2)) world.setFuse(random.int(6), disaster, 'losable row');
  else if (random.chance(0.4)) world.setFuse(Number.POSITIVE_INFINITY, disaster);
  else world.setFuse(random.pick([random.int(60), random.int(300), random.int(1_200)]), disaster);
  if (random.chance(0.25)) world.setFaults(random.pick([0.002, 0.02]));
  // Sessions have ended, so that what earlier rounds left is garbage that is wanted again while it is collected.
  if (random.chance(0.6)) world.advance(UPLOAD_IDLE_SECONDS + 1);
  const collecting = random.chance(0.3) ? attempt(FAULTS, () => collectBeside(history)) : undefined;
  // Looked at below; a start that fails is told first.
  collecting?.catch(() => undefined);
  let server = await world.startServer();
  const refusals = [...FAULTS, 'conflict', 'not-found', 'block-missing', 'rate-limited', 'digest-mismatch'];
  const actors = [
    ...world.people.map((person) => async () => {
      for (let turn = random.between(1, 2); turn > 0; turn -= 1) {
        if (server.life.isDead) return;
        await attempt(refusals, () => publish(history, server, person));
      }
    }),
    ...readers.map((reader) => async () => {
      for (let turn = 3; turn > 0; turn -= 1) await attempt(FAULTS, () => read(history, server, reader));
    }),
    ...[1, 2].map(() => () => attempt(refusals, () => endVersion(history, server))),
    ...(collecting === undefined && random.chance(0.6)
      ? [() => attempt([...FAULTS, 'in-use'], () => collectBeside(history))]
      : []),
    ...(random.chance(0.5) ? [() => attempt(FAULTS, () => collect(history, server))] : []),
    async () => {
      world.advance(random.chance(0.1) ? random.between(-50_000, 50_000) : random.int(400));
      await attempt(FAULTS, () => housekeeping(server.repository));
    },
  ];
  const results = await Promise.allSettled([...actors.map((actor) => actor()), collecting]);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  world.setFaults(0);
  if (disaster !== 'power cut' && random.chance(0.5)) {
    world.strike('power cut');
    server = await world.startServer();
  }
};

/** After the disaster of a round: the server starts, and everything is looked at. */
const recoverAndCheck = async (history: History): Promise<RunningProcess> => {
  const { world, model, readers } = history;
  const server = await world.startServer();
  world.setFuse(Number.POSITIVE_INFINITY, 'power cut');
  const current = server.life.isDead ? await world.startServer() : server;
  await model.check(world, world.catalogue.rows.versions);
  for (const reader of readers) reader.read(await current.repository.blobStore.read(HEADS), world.trust, model);
  return current;
};

/** One history, over this catalogue; throws when something does not hold. */
export const repositoryHistory = async (random: Random, catalogue: CatalogueFile): Promise<Tally> => {
  const world = new RepositoryWorld(random.fork(), catalogue);
  await world.init();
  const model = new RepositoryModel();
  const all: History = {
    world,
    model,
    random,
    readers: [new HeadsReader(), new HeadsReader()],
    pending: new Map(),
    tally: {},
    isWide: random.chance(0.2),
  };
  let backup: (() => void) | undefined;
  for (let number = 0; number < ROUNDS; number += 1) {
    await round(all);
    world.strike(random.chance(0.8) ? 'power cut' : 'server killed');
    world.setFuse(random.pick([random.int(40), random.int(400)]), 'power cut');
    await recoverAndCheck(all);
    if (random.chance(0.05)) {
      await world.loseCatalogue(random.chance(0.5) ? backup : undefined);
      all.pending.clear();
      await recoverAndCheck(all);
    }
    if (random.chance(0.3)) backup = world.catalogue.backup();
  }
  const server = await recoverAndCheck(all);
  // At rest: sessions end, and the collector leaves what versions name and nothing else.
  world.advance(200_000);
  await collectGarbage(server.repository, { graceSeconds: 0 });
  await model.check(world, world.catalogue.rows.versions);
  await model.checkNothingElse(world, world.catalogue.rows.versions);
  const store = await world.openForCheck();
  const maps = new MapStore(store, server.repository.limits);
  const found = await checkRepository({ blobStore: store, catalogue: world.catalogue.rows, maps });
  // Accounts are made without their key files here.
  const problems = found.problems.filter(({ kind }) => kind !== 'account');
  if (problems.length > 0) throw new Error(`check: ${JSON.stringify(problems.slice(0, 3))}`);
  return { ...world.tally, ...model.tally, steps: world.steps, ...all.tally };
};
