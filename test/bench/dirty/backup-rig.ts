/**
 * The backup as it runs in earnest, around one disk: a blockd process with its overlay, the runner with its packing process, a repository
 * server with files and SQLite behind HTTP, and the emulated link between them. What is not there: the agent's login, QEMU, and the
 * profile's heads, which are kept in memory here.
 */
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { deriveEpochKeys, type Profile } from '@collective/shared';
import {
  BLOCKD_V8_OPTIONS,
  BackupRunner,
  BlockdDisks,
  ControlClient,
  LineMeter,
  LocalFileSystem,
  MachineBackup,
  openPackWork,
  RepositoryClient,
  UploadGate,
  type BackupClient,
  type BackupClock,
  type BackupEvent,
  type BackupPerson,
  type BlockdStatus,
  type PackWork,
  type SnapshotDisks,
} from '@collective/transceiver';
import { Child } from '../../support/child.js';
import { freePort, Link, type LinkRates } from '../../support/link.js';
import { ROOT } from '../../support/paths.js';
import { RepositoryProcess } from './repository-process.js';

const BLOCKD = path.join(ROOT, 'packages/transceiver/dist/blockd/main.js');
const PRELOAD = path.join(ROOT, 'packages/transceiver/dist/work/helpers-stand-behind.cjs');
export const DISK = 'user';
/** The guest's own; the backup works beside it. */
const SESSION = 'guest';
const WAIT_MS = 60_000;
const REST_MS = 15;
const BLOCK_BYTES = 16_384;
const keys = deriveEpochKeys(Buffer.alloc(32, 7));
const base64url = (bytes: Buffer): string => bytes.toString('base64url');
const BLOCK_KEYS = [
  { epoch: 1, blockNameKey: base64url(keys.blockNameKey), chunkKey: base64url(keys.chunkKey) },
] as const;
const DISK_KEY = base64url(Buffer.from(Array.from({ length: 64 }, (_none, at) => at)));

export type RigOptions = {
  /** Of the backup, and of the server. */
  readonly clock: BackupClock & { setOnLink?(isOnLink: boolean): void };
  readonly diskBytes: number;
  readonly periodSeconds: number;
  readonly onEvent?: (event: BackupEvent) => void;
  readonly onError?: (error: unknown) => void;
  /** When the backup asks for a seal, before it goes on; `sealed` with the layer's name. */
  readonly onSeal?: () => (layer: string) => void;
};

/** In the order in which they were made; closed the other way round. */
type Parts = {
  readonly folder: string;
  readonly repository: RepositoryProcess;
  readonly blockd: Child;
  readonly control: ControlClient;
  readonly work: PackWork;
};

export class BackupRig implements AsyncDisposable {
  readonly folder: string;
  readonly #parts: Parts;
  readonly #options: RigOptions;
  readonly #linkPort: number;
  #link: Link;
  #client: RepositoryClient | undefined;
  #backup: MachineBackup | undefined;
  #runner: BackupRunner | undefined;
  #underWay = 0;
  #endedRealMs = 0;
  /** Of each call that is not scaled. */
  #callMs = 0;
  #partsOnLink = 0;

  private constructor(parts: Parts, options: RigOptions, link: Link) {
    this.folder = parts.folder;
    this.#parts = parts;
    this.#options = options;
    this.#link = link;
    this.#linkPort = link.port;
  }

  /** With a disk of zeroes that is attached and backed up over a link without limits, until `setLink`. */
  static async open(options: RigOptions): Promise<BackupRig> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'bench-rig-'));
    for (const name of ['repository', 'machine', 'blockd']) await mkdir(path.join(folder, name));
    const repository = await RepositoryProcess.open(path.join(folder, 'repository'));
    const link = await Link.open({ toPort: repository.is.port, profile: 'none', port: await freePort() });
    const home = path.join(folder, 'blockd');
    const blockd = new Child('blockd', process.execPath, [
      ...BLOCKD_V8_OPTIONS,
      ...['--require', PRELOAD],
      BLOCKD,
      '--home',
      home,
      '--cache-reserve-bytes',
      '0',
    ]);
    const control = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: WAIT_MS });
    await control.request('repository', { origin: `http://127.0.0.1:${link.port}`, token: repository.is.token });
    const work = openPackWork();
    const rig = new BackupRig({ folder, repository, blockd, control, work }, options, link);
    await rig.#begin();
    return rig;
  }

  get socket(): string {
    return path.join(this.folder, 'disk.sock');
  }

  get blockdPid(): number {
    const { pid } = this.#parts.blockd.process;
    if (pid === undefined) throw new Error('the block daemon did not start');
    return pid;
  }

  get backup(): MachineBackup {
    if (this.#backup === undefined) throw new Error('there is no backup yet');
    return this.#backup;
  }

  get runner(): BackupRunner {
    if (this.#runner === undefined) throw new Error('there is no runner yet');
    return this.#runner;
  }

  /** True while something is pending, asked or being looked at: then time has to pass by itself. */
  get isBusy(): boolean {
    // Between two of its steps nothing of it is seen from here.
    const isResting = performance.now() - this.#endedRealMs > REST_MS;
    return this.backup.state.pending !== null || this.#underWay > 0 || !isResting;
  }

  /** Bytes of bodies that went to the repository, and came from it. */
  get transferred(): RepositoryClient['transferred'] {
    return this.#client?.transferred ?? { sentBytes: 0, receivedBytes: 0 };
  }

  /** What a person's changes take of the local disk until they are saved: layers, and the object that is being sent; then bases and maps. */
  async localBytes(): Promise<{ readonly changes: number; readonly maps: number }> {
    const object = await allocatedBytes(path.join(this.folder, 'machine'));
    const layers = await allocatedBytes(path.join(this.#overlay, 'layers'));
    const maps = await allocatedBytes(path.join(this.#overlay, 'maps'));
    return { changes: object + layers, maps: maps + (await allocatedBytes(path.join(this.#overlay, 'bases'))) };
  }

  async diskStatus(): Promise<BlockdStatus['disks'][number]> {
    const { disks } = await this.#parts.control.request('status', {});
    const found = disks.find(({ session }) => session === SESSION);
    if (found === undefined) throw new Error('the disk is not attached');
    return found;
  }

  /**
   * In the place of the one before; nothing may be under way. `factor`: rates times, round trip by, for parts of objects; each other call
   * is given the whole round trip.
   */
  async setLink(rates: LinkRates, factor = 1): Promise<void> {
    await this.#link.close();
    const toPort = this.#parts.repository.is.port;
    const scaled = {
      downBitsPerSecond: rates.downBitsPerSecond * factor,
      upBitsPerSecond: rates.upBitsPerSecond * factor,
      roundTripMs: rates.roundTripMs / factor,
    };
    this.#link = await Link.open({ toPort, profile: 'none', rates: scaled, port: this.#linkPort });
    this.#callMs = rates.roundTripMs - scaled.roundTripMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { folder, repository, blockd, control, work } = this.#parts;
    await this.#runner?.close();
    await this.#client?.close();
    await work.close();
    control.close();
    await blockd.stop();
    await this.#link[Symbol.asyncDispose]();
    await repository[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  }

  get #overlay(): string {
    return path.join(this.folder, 'overlay');
  }

  async #begin(): Promise<void> {
    const { diskBytes, periodSeconds, clock, onError, onEvent } = this.#options;
    const { control, repository } = this.#parts;
    await control.request('attach', {
      ...{ session: SESSION, disk: DISK, source: { kind: 'zero', diskBytes }, waitMs: WAIT_MS },
      overlay: { path: this.#overlay, mode: 'persistent', key: DISK_KEY },
      blockKeys: [...BLOCK_KEYS],
      listen: { path: this.socket },
    });
    const person = this.#person();
    const parts = {
      ...{ name: 'debian', folder: path.join(this.folder, 'machine'), overlayOf: () => this.#overlay, person, clock },
      ...{ disks: this.#disks(), work: this.#parts.work, gate: new UploadGate(), line: new LineMeter() },
      isRunning: () => true,
      ...(onEvent === undefined ? {} : { onEvent }),
    };
    this.#backup = await MachineBackup.create(parts, {
      ...{ appliance: 'debian', periodSeconds, writer: repository.is.version },
      disks: [{ name: DISK, bus: 'virtio', diskBytes, blockBytes: BLOCK_BYTES, base: null }],
    });
    this.#runner = new BackupRunner({ person, clock, ...(onError === undefined ? {} : { onError }) });
    this.#runner.add(this.#backup);
  }

  #disks(): SnapshotDisks {
    const { control } = this.#parts;
    const disks: SnapshotDisks = new BlockdDisks({
      name: 'debian',
      control: async () => ({
        request: async (method, params) => control.request(method as 'seal', params as never),
      }),
      session: () => SESSION,
      attachment: async () => Promise.reject(new Error('the machine runs')),
      ...{ overlayOf: () => this.#overlay, runDirectory: this.folder, fileSystem: new LocalFileSystem() },
      blockKeys: () => [...BLOCK_KEYS],
    });
    const counted = this.#counted.bind(this);
    return {
      seal: async (disk) => {
        const sealed = this.#options.onSeal?.();
        const done = await counted(disks.seal(disk));
        sealed?.(done.layer);
        return done;
      },
      view: async (disk, layer, work) => counted(disks.view(disk, layer, work)),
      changedBlocks: async (disk, layer, blockBytes) => counted(disks.changedBlocks(disk, layer, blockBytes)),
      rebase: async (disk, layer, base) => counted(disks.rebase(disk, layer, base)),
      replace: async (disk, base) => counted(disks.replace(disk, base)),
      putOver: async (disk, base) => counted(disks.putOver(disk, base)),
      liesOver: async (disk) => disks.liesOver(disk),
      sealedLayers: async (disk) => disks.sealedLayers(disk),
      heldBytes: async (disk) => counted(disks.heldBytes(disk)),
      isTouched: async (disk) => counted(disks.isTouched(disk)),
      release: async () => disks.release(),
    };
  }

  #person(): BackupPerson {
    const { repository } = this.#parts;
    const { clock } = this.#options;
    const { account, deviceId, identity, personKey } = repository.is;
    let { token } = repository.is;
    const client = new RepositoryClient(
      { origin: `http://127.0.0.1:${this.#linkPort}` },
      {
        tokens: {
          token: async (refused) => {
            if (refused === token) token = await repository.login(clock.nowSeconds());
            return token;
          },
        },
      },
    );
    this.#client = client;
    let profile: Profile = {
      ...{ format: 1, number: 1, account, devices: [], epochs: [], formerIdentities: [] },
      repository: { identity, origin: 'http://127.0.0.1:1', pin: null },
      subscriptions: [],
    };
    const counting: BackupClient = {
      call: async (name, options) =>
        this.#counted(
          repository.setClock(clock.nowSeconds()).then(async () => {
            if (name === 'uploadSnapshotPart') return this.#onLink(async () => client.call(name, options));
            await delay(this.#callMs);
            return client.call(name, options);
          }),
        ),
      objectRange: async (of) => this.#counted(client.objectRange(of)),
    };
    return {
      ...{ client: counting, account, repository: identity },
      ...{ device: deviceId, deviceName: 'here', deviceKey: repository.device },
      identityKeys: [personKey],
      packKeys: { epoch: 1, chunkKey: keys.chunkKey, nameKeys: [keys.blockNameKey] },
      epochKeys: () => keys,
      get profile() {
        return profile;
      },
      updateProfile: async (change) => {
        profile = change(profile);
      },
    };
  }

  async #onLink<T>(work: () => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    this.#partsOnLink += 1;
    clock.setOnLink?.(true);
    try {
      return await work();
    } finally {
      this.#partsOnLink -= 1;
      clock.setOnLink?.(this.#partsOnLink > 0);
    }
  }

  async #counted<T>(work: Promise<T>): Promise<T> {
    this.#underWay += 1;
    try {
      return await work;
    } finally {
      this.#underWay -= 1;
      this.#endedRealMs = performance.now();
    }
  }
}

const allocatedBytes = async (folder: string): Promise<number> => {
  let bytes = 0;
  // What goes away between the two looks takes nothing.
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    bytes += await stat(path.join(entry.parentPath, entry.name)).then(
      ({ blocks }) => blocks * 512,
      () => 0,
    );
  }
  return bytes;
};
