/**
 * A repository in memory, a person with several transceivers, and on each a machine with a user disk in memory. The disk
 * and its folder outlive the backup that runs on them: `restart` is what a kill of the agent leaves.
 */
import { constants } from 'node:fs';
import { access, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {
  CollectiveError,
  PAYLOAD_TYPES,
  checkStoredChunk,
  decodePrivateChunk,
  decodeSnapshotManifest,
  deriveEpochKeys,
  openEnvelope,
  type BootTrace,
  type Digest,
  type EpochKeys,
  type Profile,
  type SigningKey,
  type SnapshotManifest,
} from '@collective/shared';
import {
  BLOCK_BYTES,
  INITIAL,
  blockOf,
  mapOf,
  newKey,
  openSubscriber,
  type DiskPlan,
  type Subscriber,
} from '@collective/repository-server';
import {
  BaseFolder,
  LineMeter,
  MachineBackup,
  MemoryDisks,
  SnapshotObjects,
  SnapshotTrust,
  UploadGate,
  fetchSnapshotMap,
  openPackWork,
  prepareStart,
  restoreMachine,
  stateBytes,
  type BackupClock,
  type BackupEvent,
  type BackupPerson,
  type BackupStep,
  type BaseMaps,
  type DiskBeginning,
  type MachineParts,
  type PrivateTraces,
  type RestoreParts,
} from '@collective/transceiver';
import { InjectedClient } from './injected-client.js';
import { LabClock } from './lab-clocks.js';

export { LabClock, ManualClock } from './lab-clocks.js';

export const DISK = 'user';
export const DISK_BYTES = INITIAL.length * BLOCK_BYTES;
export const INITIAL_BYTES = Buffer.concat(INITIAL.map((seed) => blockOf(seed)));
const signal = new AbortController().signal;

/** What a kill is in these tests. */
export class Killed extends Error {
  constructor(readonly step: BackupStep) {
    super(`killed at ${step}`);
  }
}

type Identity = {
  readonly name: string;
  readonly device: SigningKey;
  readonly deviceId: Digest;
  readonly token: string;
};

export class Transceiver {
  readonly identity: Identity;
  readonly name: string;
  readonly folder: string;
  readonly client: InjectedClient;
  readonly person: BackupPerson;
  readonly disks: MemoryDisks;
  clock: BackupClock;
  readonly events: BackupEvent[] = [];
  readonly steps: BackupStep[] = [];
  /** As they lie here, by disk. */
  readonly traces = new Map<string, BootTrace>();
  readonly traceFailures: unknown[] = [];
  /** Throws Killed to end the agent there. */
  onStep: (step: BackupStep) => void = () => undefined;
  isRunning = false;
  objectLimits: MachineParts['objectLimits'];
  epoch = 1;
  #backup: MachineBackup | undefined;
  readonly #lab: BackupLab;

  constructor(lab: BackupLab, of: Identity & { readonly folder: string }) {
    this.#lab = lab;
    this.identity = of;
    this.name = of.name;
    this.folder = of.folder;
    this.clock = lab.clock;
    this.client = new InjectedClient(lab.subscriber.server, of.token);
    this.person = lab.personOn(this, of);
    this.disks = this.#newDisks();
  }

  get backup(): MachineBackup {
    if (this.#backup === undefined) throw new Error('the agent does not run');
    return this.#backup;
  }

  get overlay(): string {
    return this.overlayOf(DISK);
  }

  readonly overlayOf = (disk: string): string => path.join(this.folder, 'overlays', disk);

  get parts(): MachineParts {
    return {
      ...{ name: this.name, folder: this.folder, person: this.person, disks: this.disks, clock: this.clock },
      overlayOf: this.overlayOf,
      work: this.#lab.work,
      traces: this.#privateTraces,
      gate: new UploadGate(),
      line: new LineMeter(),
      isRunning: () => this.isRunning,
      ...(this.objectLimits === undefined ? {} : { objectLimits: this.objectLimits }),
      onEvent: (event) => void this.events.push(event),
      onStep: (step) => {
        this.steps.push(step);
        this.onStep(step);
      },
    };
  }

  /** The first use of the appliance on this machine. */
  async create(): Promise<MachineBackup> {
    const disks = [await this.diskOf(DISK, 1)];
    const writer = this.#lab.subscriber.version;
    this.#backup = await MachineBackup.create(this.parts, { appliance: 'debian', disks, writer });
    return this.#backup;
  }

  /** A user disk as it begins with a version, with its map where blockd looks for it. */
  async diskOf(name: string, version: number): Promise<DiskBeginning> {
    const plan = this.#lab.planOf(name);
    const pairs = mapOf(plan).changesSince(undefined);
    const map = await (await BaseFolder.open(this.overlayOf(name))).putMap(pairs);
    return {
      ...{ name, bus: 'virtio', diskBytes: plan.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES },
      base: { appliance: 'debian', version, root: mapOf(plan).build().root, map },
    };
  }

  /** In memory here, as it begins. */
  addDisk(name: string): void {
    this.disks.add(name, this.overlayOf(name), this.#lab.initialOf(name));
  }

  /** A new agent over what the killed one left. */
  async restart(): Promise<MachineBackup> {
    this.onStep = () => undefined;
    this.#backup = await MachineBackup.open(this.parts);
    return this.backup;
  }

  get trust(): SnapshotTrust {
    return new SnapshotTrust(this.person);
  }

  get restoreParts(): RestoreParts {
    return {
      ...{ person: this.person, trust: this.trust, baseMaps: this.#lab.baseMaps },
      overlayOf: this.overlayOf,
      traces: this.#privateTraces,
    };
  }

  get #privateTraces(): PrivateTraces {
    return {
      read: async (disk) => this.traces.get(disk),
      write: async (disk, trace) => void this.traces.set(disk, trace),
      onFailed: (error) => void this.traceFailures.push(error),
    };
  }

  /** The first use of the appliance on a machine that has nothing, of a person who has: as a start does it. */
  async restore(subscription: string): Promise<MachineBackup> {
    await restoreMachine(this.restoreParts, { folder: this.folder, subscription, appliance: 'debian' });
    const backup = await this.restart();
    await prepareStart(backup);
    await this.attach();
    return backup;
  }

  /** The block path opens each disk: in an overlay that names no base over what is committed, whatever layers it has. */
  async attach(): Promise<void> {
    for (const { name, committed } of this.backup.state.disks) {
      if (committed === null || this.disks.baseOf(name) !== undefined) continue;
      const folder = await BaseFolder.open(this.overlayOf(name));
      await this.disks.attachBase(name, await folder.base(committed.base));
    }
  }

  /** Writes whole blocks of a seed; 0 zeroes. */
  write(block: number, seed: number): void {
    this.disks.write(DISK, block * BLOCK_BYTES, blockOf(seed));
  }

  get content(): Buffer {
    return this.disks.content(DISK);
  }

  /** Steps until there is nothing to do. */
  async drain(): Promise<'idle' | 'apart'> {
    for (let steps = 0; steps < 100; steps += 1) {
      const did = await this.backup.step(signal);
      if (did !== 'more') return did;
    }
    throw new Error('the backup does not come to an end');
  }

  async save(reason: Parameters<MachineBackup['seal']>[0] = 'request'): Promise<'idle' | 'apart'> {
    await this.backup.seal(reason);
    return this.drain();
  }

  #newDisks(): MemoryDisks {
    const disks = new MemoryDisks({
      fetch: async (digest, file) => this.#lab.fetchBlock(digest, file),
      nameKeys: this.#lab.nameKeys,
      begin: (name) => ({ overlay: this.overlayOf(name), initial: this.#lab.initialOf(name) }),
    });
    disks.add(DISK, this.overlay, INITIAL_BYTES);
    return disks;
  }
}

export class BackupLab implements AsyncDisposable {
  readonly subscriber: Subscriber;
  readonly clock = new LabClock();
  readonly work = openPackWork({ workers: 0 });
  /** Of two epochs: the second one begins when a test says so. */
  readonly epochKeys = [7, 8].map((byte) => deriveEpochKeys(Buffer.alloc(32, byte)));
  profile: Profile;
  readonly #folder: string;
  #count = 0;

  private constructor(subscriber: Subscriber, folder: string) {
    this.subscriber = subscriber;
    this.#folder = folder;
    this.profile = {
      ...{ format: 1, number: 1, account: subscriber.person.account, devices: [], epochs: [], formerIdentities: [] },
      repository: { identity: subscriber.server.repository.identity, origin: 'http://127.0.0.1:1', pin: null },
      subscriptions: [],
    };
  }

  static async open(options: Parameters<typeof openSubscriber>[0] = {}): Promise<BackupLab> {
    // Kills are exceptions here: nothing of it needs a medium, and thousands of syncs would wait for one.
    const shared = await access('/dev/shm', constants.W_OK).then(
      () => '/dev/shm',
      () => os.tmpdir(),
    );
    const folder = await mkdtemp(path.join(shared, 'backup-'));
    return new BackupLab(await openSubscriber(options), folder);
  }

  /** Initial user disks by name. */
  readonly plans = new Map<string, DiskPlan>([[DISK, INITIAL]]);

  planOf(name: string): DiskPlan {
    const plan = this.plans.get(name);
    if (plan === undefined) throw new Error(`no version has a disk ${name}`);
    return plan;
  }

  initialOf(name: string): Buffer {
    return Buffer.concat(this.planOf(name).map((seed) => blockOf(seed)));
  }

  /** As the agent finds the initial disk of a version. */
  readonly baseMaps: BaseMaps = {
    find: async ({ root }) => {
      const map = [...this.plans.values()].map((plan) => mapOf(plan)).find((each) => each.build().root === root);
      if (map === undefined) throw new CollectiveError('not-found', 'no version begins so');
      return { version: 1, map };
    },
  };

  get nameKeys(): readonly Uint8Array[] {
    return this.epochKeys.map(({ blockNameKey }) => blockNameKey);
  }

  /** Another device of the person, with its home. */
  async transceiver(): Promise<Transceiver> {
    const { server, person } = this.subscriber;
    this.#count += 1;
    const device = this.#count === 1 ? person.device : newKey();
    const deviceId = this.#count === 1 ? person.deviceId : await server.registerDevice({ ...person, device });
    const token = await server.deviceLogin(device);
    const name = `device-${String(this.#count)}`;
    return new Transceiver(this, { name, folder: path.join(this.#folder, name), device, deviceId, token });
  }

  /** The same device with an empty home. */
  emptyHome(of: Transceiver): Transceiver {
    this.#count += 1;
    return new Transceiver(this, { ...of.identity, folder: path.join(this.#folder, `home-${String(this.#count)}`) });
  }

  personOn(
    transceiver: Transceiver,
    of: { readonly name: string; readonly device: SigningKey; readonly deviceId: Digest },
  ): BackupPerson {
    const { person, server } = this.subscriber;
    const newestProfile = (): Profile => this.profile;
    const keysOf = (epoch: number) => this.#packKeys(epoch);
    return {
      client: transceiver.client.client,
      account: person.account,
      repository: server.repository.identity,
      ...{ device: of.deviceId, deviceName: of.name, deviceKey: of.device },
      identityKeys: [person.identity.publicKey],
      get packKeys() {
        return keysOf(transceiver.epoch);
      },
      epochKeys: (epoch) => this.#epochKeysOf(epoch),
      get profile() {
        return newestProfile();
      },
      updateProfile: async (change) => {
        const changed = change(this.profile);
        if (changed !== this.profile) this.profile = { ...changed, number: this.profile.number + 1 };
      },
    };
  }

  #epochKeysOf(epoch: number): EpochKeys {
    const keys = this.epochKeys[epoch - 1];
    if (keys === undefined) throw new CollectiveError('not-found', `no epoch ${String(epoch)}`);
    return keys;
  }

  #packKeys(epoch: number): BackupPerson['packKeys'] {
    const [first, second] = this.epochKeys;
    if (first === undefined || second === undefined) throw new Error('no keys');
    return epoch === 1
      ? { epoch, chunkKey: first.chunkKey, nameKeys: [first.blockNameKey] }
      : { epoch, chunkKey: second.chunkKey, nameKeys: [second.blockNameKey, first.blockNameKey] };
  }

  /** A block by its digest, from the server, opened with the person's keys. */
  async fetchBlock(
    digest: Digest,
    file: { readonly subscription: string; readonly objects: readonly number[]; readonly blockBytes: number },
  ): Promise<Buffer> {
    const client = new InjectedClient(this.subscriber.server, this.subscriber.person.token).client;
    for await (const [, chunk] of new SnapshotObjects(client, file.subscription).chunks([digest], file.objects))
      return this.#opened(digest, chunk, file.blockBytes);
    throw new Error(`the repository does not have block ${digest}`);
  }

  #opened(digest: Digest, chunk: Buffer, plainBytes: number): Buffer {
    const { epoch } = checkStoredChunk(chunk);
    const { chunkKey: key, blockNameKey: nameKey } = this.#epochKeysOf(epoch);
    return decodePrivateChunk(chunk, { key, nameKey, epoch, digest, plainBytes });
  }

  async manifest(subscription: string, number: number): Promise<SnapshotManifest> {
    const { client } = new InjectedClient(this.subscriber.server, this.subscriber.person.token);
    const bytes = await client.call('snapshotManifest', { params: { subscription, number } });
    return decodeSnapshotManifest(openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot }).payload);
  }

  /** The bytes of a snapshot's user disk, as any reader gets them from the server. */
  async snapshotBytes(subscription: string, number: number, name = DISK): Promise<Buffer> {
    const { client } = new InjectedClient(this.subscriber.server, this.subscriber.person.token);
    const manifest = await this.manifest(subscription, number);
    const disk = manifest.disks.find((each) => each.name === name);
    if (disk === undefined) throw new Error(`it has no disk ${name}`);
    const objects = new SnapshotObjects(client, subscription);
    const map = await fetchSnapshotMap({ disk, numbers: manifest.objects, objects, client });
    const wanted = new Set<Digest>();
    for (let index = 0; index < map.blockCount; index += 1) {
      const digest = map.digestAt(index);
      if (digest !== undefined) wanted.add(digest);
    }
    const blocks = new Map<Digest, Buffer>();
    for await (const [digest, chunk] of objects.chunks(wanted, manifest.objects))
      blocks.set(digest, this.#opened(digest, chunk, disk.blockBytes));
    return stateBytes(map, {
      ...{ initial: this.initialOf(name), nameKeys: this.nameKeys },
      fetch: async (digest) => {
        const block = blocks.get(digest);
        if (block === undefined) throw new Error(`the repository does not have block ${digest}`);
        return block;
      },
    });
  }

  async head(subscription: string): Promise<{ readonly number: number; readonly manifest: string } | null> {
    const { client } = new InjectedClient(this.subscriber.server, this.subscriber.person.token);
    const all = await client.call('subscriptions', {});
    return all.find((one) => one.subscription === subscription)?.head ?? null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.work.close();
    await this.subscriber.server.close();
    await rm(this.#folder, { recursive: true, force: true });
  }
}
