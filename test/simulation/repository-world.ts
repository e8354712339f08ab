/**
 * What the simulated repository consists of: disk, catalogue file, clock, people, and the processes over them. A fuse counts
 * the steps of all processes and then kills one of them or cuts the power, wherever they are, recovery included.
 */
import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import {
  type Caller,
  ChunkMemory,
  DEFAULT_LIMITS,
  assembleRepository,
  FolderBlobStore,
  housekeeping,
  type Repository,
  RETENTION_DEFAULT,
  trustName,
} from '@collective/repository-server';
import {
  encodeTrustFile,
  openFirstTrust,
  PAYLOAD_TYPES,
  sha256,
  signEnvelope,
  type SigningKey,
  type TrustFile,
} from '@collective/shared';
import { type CatalogueFile } from './repository-catalogue.js';
import { type Random } from './random.js';
import { SimulatedDisk } from './simulated-disk.js';
import { KilledError, SimulatedLife, SimulatedServerFiles } from './simulated-server-files.js';

export const FOLDER = '/repository';
export const UPLOAD_IDLE_SECONDS = 2_000;

export type Disaster = 'power cut' | 'server killed' | 'collector killed';
/** A running process with the repository open. */
export type RunningProcess = { readonly life: SimulatedLife; readonly repository: Repository };
export type Person = { readonly caller: Caller; readonly key: SigningKey; readonly appliances: readonly string[] };

/** A manifest gets its name, where a commit is narrowest; or something is written that a power cut may take away. */
export type FuseBegin = 'manifest' | 'losable row';

/** As `signingKeyFromSeed`, fifty times as fast. */
export const quickKey = (seed: Buffer): SigningKey => {
  const key = createPrivateKey({
    key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]),
    format: 'der',
    type: 'pkcs8',
  });
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
  return { publicKey: spki.subarray(-32).toString('base64url'), sign: (bytes) => sign(null, bytes, key) };
};

export class RepositoryWorld {
  readonly random: Random;
  readonly disk: SimulatedDisk;
  readonly catalogue: CatalogueFile;
  readonly people: readonly Person[];
  readonly trust: TrustFile;
  readonly tally = { cuts: 0, kills: 0, recoveryCuts: 0, faults: 0, cataloguesLost: 0 };
  /** Steps until the disaster. */
  #fuse = Number.POSITIVE_INFINITY;
  #fuseWaitsFor: FuseBegin | undefined;
  #disaster: Disaster = 'power cut';
  #server: SimulatedLife | undefined;
  #collector: SimulatedLife | undefined;
  #isRecovering = false;
  #faultProbability = 0;
  #seconds = 1_800_000_000;
  #steps = 0;
  readonly #headsKey: SigningKey;
  readonly #trustFile: Buffer;
  readonly #hasChunkMemory: boolean;

  constructor(random: Random, catalogue: CatalogueFile) {
    this.random = random;
    this.catalogue = catalogue;
    this.#hasChunkMemory = random.chance(0.5);
    this.disk = new SimulatedDisk({ random: random.fork(), nowMs: () => this.#seconds * 1_000 });
    this.disk.fault = (call, path) => {
      if (call === 'name' && path.endsWith('/manifest')) this.#beginFuse('manifest');
      if (call === 'read' || this.#faultProbability === 0 || !random.chance(this.#faultProbability)) return undefined;
      this.tally.faults += 1;
      return call === 'sync' || call === 'syncFolder' ? 'EIO' : 'ENOSPC';
    };
    this.catalogue.isFull = () => {
      if (this.#faultProbability === 0 || !random.chance(this.#faultProbability)) return false;
      this.tally.faults += 1;
      return true;
    };
    this.catalogue.onLosable = () => this.#beginFuse('losable row');
    const key = (): SigningKey => quickKey(random.bytes(32));
    const rootKeys = [key(), key(), key()];
    this.#headsKey = key();
    this.people = [
      person('alice', key(), ['one', 'two']),
      person('bob', key(), ['two']),
      person('carol', key(), ['three']),
    ];
    const trust: TrustFile = {
      format: 1,
      number: 1,
      createdAt: this.#seconds,
      rootKeys: rootKeys.map(({ publicKey }) => publicKey),
      rootThreshold: 2,
      headsKeys: [this.#headsKey.publicKey],
      publishers: this.people.map(({ caller, key: { publicKey } }) => ({
        name: caller.account,
        key: publicKey,
        appliances: ['*'],
      })),
      recount: [],
    };
    this.#trustFile = signEnvelope({
      payloadType: PAYLOAD_TYPES.trust,
      payload: encodeTrustFile(trust),
      signers: rootKeys.slice(0, 2),
    });
    this.trust = openFirstTrust(this.#trustFile, sha256(this.#trustFile));
  }

  nowSeconds(): number {
    return this.#seconds;
  }
  advance(seconds: number): void {
    this.#seconds += seconds;
  }
  get steps(): number {
    return this.#steps;
  }
  get isServerDead(): boolean {
    return this.#server?.isDead !== false;
  }

  /** What `init` does, and the operator: trust file, accounts. */
  async init(): Promise<void> {
    const process = this.disk.newProcess();
    process.mkdir(FOLDER);
    process.fsyncFolder('/');
    process.kill();
    await this.addPeople();
    const store = await this.#store(new SimulatedLife(this.disk, this.random.fork(), () => undefined));
    await store.create(trustName(1), this.#trustFile);
  }

  /** Accounts are in the catalogue alone: after its loss the operator makes them again. */
  async addPeople(): Promise<void> {
    const { people } = this.catalogue.rows;
    for (const { caller, key, appliances } of this.people) {
      if ((await people.account(caller.account)) !== undefined) continue;
      const invitation = { tokenHash: sha256(Buffer.from(caller.account)), account: caller.account } as const;
      const times = { createdAt: 0, expiresAt: Number.MAX_SAFE_INTEGER };
      const all = appliances.map((name) => ({ name, access: 'publish' }) as const);
      await people.addInvitation({ ...invitation, ...times, role: 'publisher', appliances: all });
      await people.acceptInvitation(invitation.tokenHash, {
        name: caller.account,
        role: 'publisher',
        createdAt: 0,
        revokedAt: undefined,
        passwordParameters: '{}',
        loginSecretHash: invitation.tokenHash,
        publishingKey: key.publicKey,
      });
    }
    this.catalogue.settle();
  }

  /** Burns from now on, or after what it waits for. */
  setFuse(steps: number, disaster: Disaster, after?: FuseBegin): void {
    this.#fuse = steps;
    this.#fuseWaitsFor = after;
    this.#disaster = disaster;
  }

  setFaults(probability: number): void {
    this.#faultProbability = probability;
  }

  /** The catalogue's file is gone, or an older one takes its place; everything must be down. */
  async loseCatalogue(putBack: (() => void) | undefined): Promise<void> {
    this.strike('server killed');
    this.disk.crash();
    this.catalogue.killed();
    await this.catalogue.ready();
    if (putBack === undefined) this.catalogue.lose();
    else putBack();
    await this.catalogue.ready();
    await this.addPeople();
    this.tally.cataloguesLost += 1;
  }

  /** Starts the server as `serve` does, again when it dies on the way. Error: what a start throws that was not killed. */
  async startServer(): Promise<RunningProcess> {
    this.#isRecovering = true;
    for (;;) {
      await this.catalogue.ready();
      const life = this.#newLife();
      this.#server = life;
      try {
        const repository = await this.#open(life, { isServer: true });
        await housekeeping(repository);
        this.#isRecovering = false;
        return { life, repository };
      } catch (error) {
        if (!life.isDead && !this.#hasFaults) throw error;
        if (!life.isDead) this.#kill(life);
      }
    }
  }

  /** As `gc` opens the repository, in a process of its own. */
  async startCollector(): Promise<RunningProcess> {
    const life = this.#newLife();
    this.#collector = life;
    return { life, repository: await this.#open(life, { isServer: false }) };
  }

  /** The end of a round, when the fuse did not burn down in it. */
  strike(disaster: Disaster): void {
    this.#fuse = Number.POSITIVE_INFINITY;
    if (disaster === 'power cut') {
      this.tally.cuts += 1;
      if (this.#isRecovering) this.tally.recoveryCuts += 1;
      this.disk.powerCut(this.random);
      this.catalogue.powerCut(this.random);
      return;
    }
    const life = disaster === 'server killed' ? this.#server : this.#collector;
    if (life === undefined || life.isDead) return;
    this.tally.kills += 1;
    this.#kill(life);
  }

  /** Opens the folder with nothing in front of it, for checks: no faults, no fuse. */
  async openForCheck(): Promise<FolderBlobStore> {
    return this.#store(new SimulatedLife(this.disk, this.random.fork(), () => undefined));
  }

  #beginFuse(by: FuseBegin): void {
    if (this.#fuseWaitsFor === by) this.#fuseWaitsFor = undefined;
  }

  get #hasFaults(): boolean {
    return this.#faultProbability > 0;
  }

  #kill(life: SimulatedLife): void {
    life.process.kill();
    if (this.catalogue.killsTogether) this.disk.crash();
    this.catalogue.killed();
  }

  #newLife(): SimulatedLife {
    return new SimulatedLife(this.disk, this.random.fork(), () => {
      this.#steps += 1;
      if (this.#fuseWaitsFor === undefined) this.#fuse -= 1;
      if (this.#fuse <= 0) this.strike(this.#disaster);
    });
  }

  #store(life: SimulatedLife): Promise<FolderBlobStore> {
    return FolderBlobStore.open(FOLDER, {
      fileSystem: new SimulatedServerFiles(life),
      freeBytesMin: 0,
      nowMs: () => 0,
    });
  }

  async #open(life: SimulatedLife, { isServer }: { readonly isServer: boolean }): Promise<Repository> {
    const store = await this.#store(life);
    const catalogue = this.catalogue.open(life);
    if (isServer) await catalogue.exclusively(() => store.emptyTempFolder());
    const limits = {
      ...DEFAULT_LIMITS,
      uploadIdleSeconds: UPLOAD_IDLE_SECONDS,
      openUploadsPerAccountMax: 6,
      retention: { ...RETENTION_DEFAULT, newestCount: 2 },
    };
    const memory = new ChunkMemory(store, { bytesMax: 20_000 });
    const repository = await assembleRepository({
      blobStore: isServer && this.#hasChunkMemory ? memory : store,
      catalogue,
      keys: { heads: this.#headsKey, nameSecret: Buffer.alloc(32) },
      limits,
      clock: this,
    });
    if (repository.problems.length > 0 && !this.#hasFaults && !life.isDead)
      throw new Error(`a start could not heal: ${repository.problems.join('; ')}`);
    return repository;
  }
}

export const isKilled = (error: unknown): boolean => error instanceof KilledError;

const person = (account: string, key: SigningKey, appliances: readonly string[]): Person => ({
  caller: { account, role: 'publisher', scope: 'session', device: undefined, tokenHash: sha256(Buffer.from(account)) },
  key,
  appliances,
});
