/**
 * One history of an overlay: lives of a block daemon one after the other on one simulated disk, each ended by a close, by kill -9 or by a
 * power cut at a random call of the disk (also while it opens), and the model that says what each of them must find. One thing is left
 * out: kill -9 (or a failing write) between the moment a sync fails and the note of it in the live map, microseconds later. Over 400
 * lines, because every part of a life looks into the same books.
 */
import { hasCode, sha256, type Digest } from '@collective/shared';
import { Overlay, type BlockDevice } from '@collective/transceiver';
import { SimulatedBelow } from './overlay-below.js';
import { Decay } from './overlay-decay.js';
import { isDamage, isFault, OverlayClients, type ClientWorld, type Life } from './overlay-clients.js';
import { composeLayers, GRANULE_BYTES, layerDigest, namedLayerIds, OVERLAY_FOLDER } from './overlay-layer-files.js';
import { BASE_TAG, fillSectors, OverlayModel, SECTOR_BYTES, tagOf } from './overlay-model.js';
import { Places } from './overlay-places.js';
import type { Random } from './random.js';
import { SimulatedDisk } from './simulated-disk.js';
import { SimulatedFileSystem } from './simulated-file-system.js';

const CLIENTS = 3;
/** Disk calls in a life until it is cut off; a fresh overlay takes about 45 to open, a used one 25. */
const CALLS_MAX = 290;

type End = 'close' | 'kill' | 'cut';
export type WorldOptions = {
  /** The disk runs full, and syncs of layers fail. */
  readonly hasFaults: boolean;
  /** Bits of layers' data flip on the medium, of granules whose damage must be noticed, and pages leave the memory. */
  readonly hasDamage?: boolean;
};

export class OverlayWorld implements ClientWorld {
  readonly tally = {
    cuts: 0,
    kills: 0,
    closes: 0,
    'cuts while opening': 0,
    'kills while opening': 0,
    writes: 0,
    'partial granules': 0,
    'writes with the link down': 0,
    zeroes: 0,
    reads: 0,
    flushes: 0,
    'FUA writes': 0,
    seals: 0,
    'seals cut off': 0,
    rebases: 0,
    'rebases of several layers': 0,
    'opens over a base': 0,
    'looks through views': 0,
    'views ended by a rebase': 0,
    'open sectors': 0,
    'refused writes': 0,
    'full disks': 0,
    'failed writes': 0,
    'failed syncs': 0,
    'opens refused after a failed sync': 0,
    'bits flipped': 0,
    'reads refused for damage': 0,
    'writes refused for damage': 0,
    'first looks refused for damage': 0,
    encrypted: 0,
  };
  step = 'begin';
  readonly random: Random;
  readonly hasFaults: boolean;
  readonly hasDamage: boolean;
  readonly #clients = new OverlayClients(this);
  readonly #disk: SimulatedDisk;
  readonly #decay: Decay;
  /** Of half of the histories. */
  readonly #diskKey: Buffer | undefined;
  readonly places: Places;
  /** What lies below the overlay in this life. */
  below: SimulatedBelow;
  readonly model: OverlayModel;
  /** Content of what `overlay.json` may name now: what it names for sure, and what a rebase that failed may have left there. */
  readonly #bases = new Map<Digest | null, Buffer>();
  /** Digest of every layer that was sealed: its files never change. */
  readonly #sealed = new Map<string, string>();
  /** What happened since the disk was last looked at as a whole. */
  #unseen: 'nothing' | 'kill' | 'cut' = 'nothing';
  #callsLeft = Infinity;
  #nextEnd: End = 'close';
  #onEnd = (): void => {};
  #life: Life | undefined;
  syncFailure: 'none' | 'fresh' | 'settled' = 'none';
  #failedLayerId: string | undefined;
  /** The last that were, or are being, replaced by a base. */
  #replacedLayerIds: readonly string[] = [];

  constructor(random: Random, options: WorldOptions) {
    this.random = random;
    this.hasFaults = options.hasFaults;
    this.hasDamage = options.hasDamage ?? false;
    this.#disk = new SimulatedDisk({ random: random.fork() });
    const process = this.#disk.newProcess();
    process.mkdir('/home');
    process.fsyncFolder('/');
    process.kill();
    this.places = Places.random(random);
    if (random.chance(0.5)) {
      this.#diskKey = Buffer.from(Array.from({ length: 64 }, () => random.int(256)));
      this.tally.encrypted = 1;
    }
    this.#decay = new Decay(this.#disk, this.places, { isEncrypted: this.#diskKey !== undefined });
    const { sectorCount } = this.places;
    const base = Buffer.alloc(sectorCount * SECTOR_BYTES);
    fillSectors(base, 0, BASE_TAG);
    const holeStart = random.int(sectorCount);
    base.fill(0, holeStart * SECTOR_BYTES, Math.min(sectorCount, holeStart + random.int(24)) * SECTOR_BYTES);
    this.#bases.set(null, base);
    this.below = this.#newBelow(base);
    this.model = new OverlayModel(base);
    this.#disk.fault = (call, path) => this.#beforeCall(call, path);
  }

  get isFailedLayerForgotten(): boolean {
    const layerId = this.#failedLayerId ?? '';
    return this.#replacedLayerIds.includes(layerId) && this.#life?.overlay.sealedLayerIds.includes(layerId) === false;
  }

  async run(): Promise<void> {
    for (let lives = this.random.between(4, 8); lives > 0; lives -= 1) await this.#live();
    // The last look: with everything working.
    this.#nextEnd = 'close';
    this.#callsLeft = Infinity;
    this.#disk.capacityBytes = Number.MAX_SAFE_INTEGER;
    this.#disk.fault = undefined;
    if (this.syncFailure !== 'none') this.#crash('cut');
    const life = await this.#open();
    if (life === undefined) throw new Error('the last open was cut off');
    await this.#close(life);
  }

  async #live(): Promise<void> {
    const random = this.random;
    this.below.link = random.pick(['near', 'near', 'late']);
    const ends: End[] = ['close', 'kill', 'cut', 'cut', 'cut', 'cut'];
    this.#nextEnd = random.pick(ends);
    this.#callsLeft = this.#nextEnd === 'close' ? Infinity : random.between(1, random.chance(0.3) ? 40 : CALLS_MAX);
    if (this.hasFaults) this.#setFaults();
    const life = await this.#open();
    if (life === undefined) return;
    this.step = 'clients';
    const ended = new Promise<void>((resolve) => (this.#onEnd = resolve));
    // A flush before anything is written makes durable what a killed predecessor wrote.
    if (this.random.chance(0.2)) await this.#clients.flush(life);
    const clients = Array.from({ length: CLIENTS }, () => this.#clients.run(life));
    const operator = this.#operate(life);
    const decay = this.hasDamage ? this.#decaySlowly(life) : undefined;
    const all = Promise.all([...clients, operator, decay]);
    if (this.#nextEnd === 'close') await all;
    else {
      await Promise.race([ended, all]);
      if (!life.isOver) this.#crash(this.#nextEnd); // it did less than was planned for it
    }
    if (!life.isOver) await this.#close(life);
    else {
      this.step = 'the end of a dead process';
      await all;
      await life.overlay.abandon().catch(() => {});
    }
  }

  // --- crashes and faults

  /** Every call of the disk; the one that the plan names is the last. */
  #beforeCall(call: string, path: string): string | undefined {
    if (this.#callsLeft !== Infinity && (this.#callsLeft -= 1) <= 0 && this.syncFailure !== 'fresh') {
      this.#callsLeft = Infinity;
      this.#crash(this.#nextEnd === 'close' ? 'kill' : this.#nextEnd);
      return undefined;
    }
    return this.hasFaults ? this.#faultOf(call, path) : undefined;
  }

  #setFaults(): void {
    const room = this.random.pick([0, 1, 4, 16, 64]) * GRANULE_BYTES;
    this.#disk.capacityBytes = this.#disk.usedBytes + room;
    this.tally['full disks'] += 1;
  }

  #faultOf(call: string, path: string): string | undefined {
    if (this.syncFailure !== 'none') return undefined;
    if (call === 'write' && this.random.chance(0.003)) {
      this.tally['failed writes'] += 1;
      return 'EIO';
    }
    if (call !== 'sync' || !this.random.chance(0.02)) return undefined;
    const layerId = /\/layers\/([0-9a-f]+)\/(data|durable)$/.exec(path)?.[1];
    if (layerId === undefined || !namedLayerIds(this.#disk).includes(layerId)) return 'EIO'; // of a file that is being made
    this.tally['failed syncs'] += 1;
    this.syncFailure = 'fresh';
    this.#failedLayerId = layerId;
    const { bootId } = this.#disk;
    const settle = (): void => {
      if (this.#disk.bootId === bootId && this.#failedLayerId === layerId) this.syncFailure = 'settled';
    };
    setImmediate(() => setImmediate(settle));
    return 'EIO';
  }

  #crash(kind: End, options: { readonly isAfterClose?: boolean } = {}): void {
    const life = this.#life;
    this.#life = undefined;
    // Nobody knows afterwards what was right, unless the sums were kept.
    if (this.hasDamage && options.isAfterClose !== true) this.#decay.repair();
    if (kind === 'cut') {
      this.tally.cuts += 1;
      if (life === undefined) this.tally['cuts while opening'] += 1;
      this.tally['open sectors'] += this.model.openSectors;
      this.#disk.powerCut(this.random);
      this.#unseen = 'cut';
      this.syncFailure = 'none';
    } else {
      this.tally.kills += 1;
      if (life === undefined) this.tally['kills while opening'] += 1;
      this.#disk.crash();
      if (this.#unseen === 'nothing') this.#unseen = 'kill';
    }
    if (life !== undefined) {
      life.isOver = true;
      for (const write of life.writes) if (write.endedAt === Infinity) this.model.failWrite(write);
    }
    this.below.crash();
    this.#onEnd();
  }

  // --- the beginning and the end of a life

  /** Opens the overlay and looks at all of it. Undefined: the process was ended before that was done. */
  async #open(): Promise<Life | undefined> {
    this.step = 'open';
    const fileSystem = new SimulatedFileSystem(this.#disk, this.random);
    const { link } = this.below;
    let overlay: Overlay;
    try {
      const openBelow = (base: Digest | null) => Promise.resolve(this.#openBelow(base));
      overlay = await Overlay.open(fileSystem, OVERLAY_FOLDER, openBelow, { key: this.#diskKey });
    } catch (error) {
      if (fileSystem.process.isDead) return undefined;
      if (this.syncFailure === 'settled' && hasCode(error, 'local-io'))
        this.tally['opens refused after a failed sync'] += 1;
      else if (!this.hasFaults || !isFault(error)) throw error;
      // A full disk, or a new file that could not be synced: made well by an administrator.
      this.#disk.capacityBytes = Number.MAX_SAFE_INTEGER;
      this.#crash(this.syncFailure === 'none' ? 'kill' : 'cut');
      return undefined;
    }
    this.step = 'first look';
    const bytes = Buffer.alloc(this.model.sectorCount * SECTOR_BYTES);
    const look = async (): Promise<unknown> => {
      const looks = this.places.list.map(({ first, end, byteOffset }) =>
        overlay.read(bytes.subarray(first * SECTOR_BYTES, end * SECTOR_BYTES), byteOffset),
      );
      const failed = (await Promise.allSettled(looks)).find(({ status }) => status === 'rejected');
      return failed?.status === 'rejected' ? failed.reason : undefined;
    };
    let failure = await look();
    if (this.hasDamage && isDamage(failure)) {
      // What was damaged while nobody had the disk open was noticed; all the rest, and with the medium as it was all, is right.
      this.tally['first looks refused for damage'] += 1;
      this.#decay.repair();
      failure = await look();
    }
    if (fileSystem.process.isDead) {
      await overlay.abandon().catch(() => {});
      return undefined;
    }
    if (failure !== undefined) throw new Error('the first read failed', { cause: failure });
    if (this.hasDamage) this.#decay.repair(); // what lies under other layers was not looked at
    if (this.syncFailure === 'settled') {
      if (namedLayerIds(this.#disk).includes(this.#failedLayerId ?? ''))
        throw new Error('a disk was opened after a failed sync in the same boot');
      this.#forgetFailure(); // a rebase was cut off after it had named the base
    }
    if (this.#unseen !== 'nothing')
      this.model.endCrash(bytes, { isPowerCut: this.#unseen === 'cut' }, `after a ${this.#unseen}`);
    this.#unseen = 'nothing';
    this.#checkSealed();
    this.#settleBase(overlay.base);
    if (overlay.base !== null) this.tally['opens over a base'] += 1;
    this.below.link = link;
    this.#life = { overlay, writes: [], isOver: false };
    return this.#life;
  }

  async #close(life: Life): Promise<void> {
    this.step = 'close';
    const startedAt = this.model.tick();
    const isFlushed = await life.overlay.close().then(
      () => true,
      (error: unknown) => {
        if (!this.hasFaults || !isFault(error)) throw error;
        return false;
      },
    );
    if (life.isOver) return;
    this.tally.closes += 1;
    if (isFlushed) {
      if (this.syncFailure === 'settled') throw new Error('a close said that all is durable after a failed sync');
      this.model.endFlush(startedAt);
    }
    if (this.hasDamage) {
      this.#decay.repair();
      // Of the bits that flip now some lie where nothing is read, or is not noticed because it is hidden.
      for (let flips = this.random.int(4); flips > 0; flips -= 1) this.#flip(life);
    }
    // As a process that ended well, or failed: what it closed may be cut as well.
    this.#crash(this.syncFailure !== 'none' || this.random.chance(0.5) ? 'cut' : 'kill', { isAfterClose: true });
  }

  // --- damage

  async #decaySlowly(life: Life): Promise<void> {
    const random = this.random.fork();
    for (let steps = random.int(10); steps > 0 && !life.isOver; steps -= 1) {
      for (let turn = random.int(6); turn > 0; turn -= 1) await new Promise((resolve) => setImmediate(resolve));
      if (life.isOver) return;
      if (random.chance(0.8)) this.#flip(life);
      this.#disk.dropPages();
    }
  }

  #flip(life: Life): void {
    const random = this.random;
    const layerId = random.pick(namedLayerIds(this.#disk));
    const sector = random.int(this.model.sectorCount);
    if (!life.overlay.isSummed(layerId, this.places.byteOffsetOf(sector))) return;
    this.#decay.flip(random, layerId, sector);
    this.tally['bits flipped'] += 1;
  }

  // --- layers

  async #operate(life: Life): Promise<void> {
    const random = this.random.fork();
    const looks: Promise<void>[] = [];
    for (let steps = random.int(4); steps > 0 && !life.isOver; steps -= 1) {
      for (let turn = random.int(12); turn > 0; turn -= 1) await new Promise((resolve) => setImmediate(resolve));
      if (life.isOver) break;
      if (random.chance(0.7)) {
        const sealed = await this.#seal(life);
        if (sealed !== undefined && random.chance(0.6)) looks.push(this.#look(life, sealed, random.fork()));
      } else await this.#rebase(life);
    }
    await Promise.all(looks);
  }

  async #seal(life: Life): Promise<{ readonly layerId: string; readonly bytes: Buffer } | undefined> {
    if (life.overlay.sealedLayerIds.length >= 6) {
      await this.#rebase(life);
      return undefined;
    }
    const read = this.model.beginRead(0, this.model.sectorCount);
    let layerId: string;
    try {
      layerId = await life.overlay.seal();
    } catch (error) {
      this.model.dropRead(read);
      if (life.isOver) this.tally['seals cut off'] += 1;
      else if (!this.hasFaults || !isFault(error)) throw error;
      return undefined;
    }
    if (life.isOver) {
      this.model.dropRead(read);
      return undefined;
    }
    if (this.hasDamage) this.#decay.repair();
    const { sealedLayerIds } = life.overlay;
    const below = sealedLayerIds.slice(0, sealedLayerIds.indexOf(layerId) + 1);
    const bytes = composeLayers(this.#files, this.below.content, below);
    const tags = Array.from({ length: this.model.sectorCount }, (_, sector) =>
      tagOf(bytes, sector * SECTOR_BYTES, sector),
    );
    this.model.checkCut(tags, read, life.writes, 'a sealed layer');
    this.#sealed.set(layerId, layerDigest(this.#disk, layerId));
    this.tally.seals += 1;
    return { layerId, bytes };
  }

  /** A view shows the cut that its layer's seal made, whatever is written or rebased meanwhile, or says that it has ended. */
  async #look(life: Life, sealed: { readonly layerId: string; readonly bytes: Buffer }, random: Random): Promise<void> {
    const view = await life.overlay.openView(sealed.layerId).catch((error: unknown) => {
      // Not-found: a rebase was faster.
      if (life.isOver || hasCode(error, 'not-found') || (this.hasFaults && isFault(error))) return undefined;
      throw error;
    });
    for (let looks = random.between(1, 4); view !== undefined && looks > 0 && !life.isOver; looks -= 1) {
      const found = Buffer.alloc(sealed.bytes.length);
      const reads = this.places.list.map(({ first, end, byteOffset }) =>
        readNowOrLater(view, found.subarray(first * SECTOR_BYTES, end * SECTOR_BYTES), byteOffset),
      );
      const failed = (await Promise.allSettled(reads)).find((result) => result.status === 'rejected');
      if (life.isOver) break;
      if (failed === undefined) {
        if (!found.equals(sealed.bytes)) throw new Error(`the view of ${sealed.layerId} shows other bytes`);
        this.tally['looks through views'] += 1;
      } else if (hasCode(failed.reason, 'shutting-down')) this.tally['views ended by a rebase'] += 1;
      else if (!hasCode(failed.reason, 'block-unavailable') && !isDamage(failed.reason) && !isFault(failed.reason))
        throw failed.reason;
      for (let turn = random.int(12); turn > 0; turn -= 1) await new Promise((resolve) => setImmediate(resolve));
    }
    await view?.close();
  }

  /** Any number of sealed layers, from the bottom, become a base. */
  async #rebase(life: Life): Promise<void> {
    const { sealedLayerIds } = life.overlay;
    const known = sealedLayerIds.findIndex((layerId) => !this.#sealed.has(layerId));
    const candidates = known < 0 ? sealedLayerIds.length : known;
    if (candidates === 0) return;
    const replaced = sealedLayerIds.slice(0, this.random.between(1, candidates));
    if (this.hasDamage) this.#decay.repair();
    const content = composeLayers(this.#files, this.below.content, replaced);
    const base = sha256(Buffer.concat([content, Buffer.from(replaced.join())]));
    this.#bases.set(base, content);
    const below = this.#newBelow(content);
    below.link = this.below.link;
    for (const layerId of replaced) this.#sealed.delete(layerId);
    this.#replacedLayerIds = replaced;
    try {
      await life.overlay.rebase(replaced.at(-1) ?? '', { base, below });
    } catch (error) {
      if (life.isOver) return;
      if (!this.hasFaults || !isFault(error)) throw error;
      return;
    }
    if (life.isOver) return;
    this.below = below;
    this.#settleBase(base);
    for (const layerId of replaced) {
      if (this.#disk.nodeAt(`${OVERLAY_FOLDER}/layers/${layerId}`) !== undefined && !this.hasFaults)
        throw new Error('a layer that a base replaced is still there');
    }
    this.tally.rebases += 1;
    if (replaced.length > 1) this.tally['rebases of several layers'] += 1;
    if (this.#failedLayerId === undefined || !replaced.includes(this.#failedLayerId)) return;
    this.#forgetFailure();
  }

  /** The failed layer's content is in the disk below. */
  #forgetFailure(): void {
    this.#failedLayerId = undefined;
    this.syncFailure = 'none';
  }

  #newBelow(content: Buffer): SimulatedBelow {
    return new SimulatedBelow(content, this.random.fork(), this.places);
  }

  #openBelow(base: Digest | null): SimulatedBelow {
    const content = this.#bases.get(base);
    if (content === undefined)
      throw new Error(`the medium names base ${base ?? 'none'}, which nothing can have left there`);
    this.below = this.#newBelow(content);
    return this.below;
  }

  /** From now on the medium names this one. */
  #settleBase(base: Digest | null): void {
    for (const other of this.#bases.keys()) if (other !== base) this.#bases.delete(other);
  }

  get #files() {
    return { disk: this.#disk, places: this.places, diskKey: this.#diskKey };
  }

  #checkSealed(): void {
    for (const [layerId, digest] of this.#sealed)
      if (layerDigest(this.#disk, layerId) !== digest) throw new Error(`sealed layer ${layerId} has changed`);
  }
}

const readNowOrLater = async (device: BlockDevice, target: Buffer, byteOffset: number): Promise<void> => {
  if (!device.tryRead(target, byteOffset)) await device.read(target, byteOffset);
};
