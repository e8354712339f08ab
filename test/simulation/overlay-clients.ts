/** What the clients of a simulated overlay do at the same time, and the model's books of it. */
import { hasCode, type ErrorCode } from '@collective/shared';
import { faultOfRequest, type Overlay } from '@collective/transceiver';
import type { SimulatedBelow } from './overlay-below.js';
import { fillSectors, SECTOR_BYTES, ZERO_TAG, type ModelWrite, type OverlayModel } from './overlay-model.js';
import type { Places } from './overlay-places.js';
import type { Random } from './random.js';

/** One life of the process that has the overlay open. */
export type Life = {
  readonly overlay: Overlay;
  readonly writes: ModelWrite[];
  /** Turned by whatever ends the life. */
  isOver: boolean;
};

/** What the clients see of their world. */
export type ClientWorld = {
  readonly random: Random;
  readonly places: Places;
  /** Another one after a rebase. */
  readonly below: SimulatedBelow;
  readonly model: OverlayModel;
  /** Errors of the local disk are to be expected. */
  readonly hasFaults: boolean;
  /** Layers' data decays on its medium: what was decayed must be refused, or be right. */
  readonly hasDamage: boolean;
  /** A layer's sync failed in this boot. `settled`: its process had time to say so. */
  readonly syncFailure: 'none' | 'fresh' | 'settled';
  /** The layer whose sync failed has left the overlay meanwhile; its content is in the disk below. */
  readonly isFailedLayerForgotten: boolean;
  /** What is going on, for the message of a hang. */
  step: string;
  readonly tally: {
    writes: number;
    'partial granules': number;
    'writes with the link down': number;
    zeroes: number;
    reads: number;
    flushes: number;
    'FUA writes': number;
    'refused writes': number;
    'reads refused for damage': number;
    'writes refused for damage': number;
  };
};

const FAULTS: readonly ErrorCode[] = ['disk-full', 'local-io', 'too-large'];

/** An error that a full or failing disk explains. */
export const isFault = (error: unknown): boolean => FAULTS.some((code) => hasCode(error, code));

/** That a layer's data is not what was written. Never where nothing decays, unless a sync that just failed has lost pages. */
export const isDamage = (error: unknown): boolean => faultOfRequest(error) === 'layer-damaged';

export class OverlayClients {
  readonly #world: ClientWorld;

  constructor(world: ClientWorld) {
    this.#world = world;
  }

  /** Some operations, one after the other. */
  async run(life: Life): Promise<void> {
    const random = this.#world.random.fork();
    for (let steps = random.between(4, 20); steps > 0 && !life.isOver; steps -= 1) {
      const kind = random.int(100);
      if (kind < 50) await this.#write(life, random);
      else if (kind < 62) await this.#zero(life, random);
      else if (kind < 80) await this.#read(life, random);
      else if (kind < 92) await this.flush(life);
      else this.#world.below.link = random.pick(['near', 'late', 'down']);
    }
  }

  /** Any range of sectors: mostly a few, sometimes whole granules, sometimes nearly all. */
  #range(random: Random): { first: number; end: number } {
    const { sectorCount } = this.#world.model;
    const shape = random.int(10);
    const length =
      shape < 5 ? random.between(1, 8) : shape < 9 ? random.between(1, 40) : random.between(1, sectorCount);
    let first = random.int(sectorCount);
    const place = this.#world.places.placeOf(first);
    let end = Math.min(place.end, first + length);
    if (random.chance(0.3)) {
      // Places begin with a granule.
      first -= (first - place.first) % 8;
      end = Math.min(place.end, place.first + Math.ceil((end - place.first) / 8) * 8);
    }
    return { first, end };
  }

  /** Runs a change and keeps the model's books: acknowledged, refused, or cut off. */
  async #change(
    life: Life,
    tag: number,
    range: { first: number; end: number },
    work: () => Promise<boolean>,
  ): Promise<boolean> {
    const write = this.#world.model.beginWrite(tag, range.first, range.end);
    life.writes.push(write);
    const failedBefore = this.#world.syncFailure === 'settled';
    let isFua: boolean;
    try {
      isFua = await work();
    } catch (error) {
      if (life.isOver) return false;
      const isDamaged = this.#isExpectedDamage(error);
      if (!isDamaged && (!this.#world.hasFaults || !isFault(error))) throw error;
      this.#world.tally[isDamaged ? 'writes refused for damage' : 'refused writes'] += 1;
      this.#world.model.failWrite(write);
      return false;
    }
    if (life.isOver) return false;
    if (isFua && failedBefore && !this.#world.isFailedLayerForgotten)
      throw new Error('a FUA write was acknowledged after a failed sync');
    if (isFua) this.#world.model.endFuaWrite(write);
    else this.#world.model.endWrite(write);
    return true;
  }

  async #write(life: Life, random: Random): Promise<void> {
    const range = this.#range(random);
    const tag = this.#world.model.nextTag();
    const bytes = fillSectors(Buffer.allocUnsafeSlow((range.end - range.first) * SECTOR_BYTES), range.first, tag);
    const isFua = random.chance(0.15);
    const isDown = this.#world.below.link === 'down';
    this.#world.step = `write of sectors ${range.first} to ${range.end}, link ${this.#world.below.link}`;
    const isDone = await this.#change(life, tag, range, async () => {
      const at = this.#world.places.byteOffsetOf(range.first);
      if (!life.overlay.tryWrite(bytes, at)) await life.overlay.write(bytes, at);
      life.overlay.publishWrites();
      if (isFua) await life.overlay.flush();
      return isFua;
    });
    if (!isDone) return;
    this.#world.tally.writes += 1;
    if (isFua) this.#world.tally['FUA writes'] += 1;
    if (isDown && this.#world.below.link === 'down') this.#world.tally['writes with the link down'] += 1;
    const place = this.#world.places.placeOf(range.first);
    if ((range.first - place.first) % 8 !== 0 || ((range.end - place.first) % 8 !== 0 && range.end !== place.end))
      this.#world.tally['partial granules'] += 1;
  }

  async #zero(life: Life, random: Random): Promise<void> {
    const range = this.#range(random);
    this.#world.step = `zero of sectors ${range.first} to ${range.end}, link ${this.#world.below.link}`;
    const isDone = await this.#change(life, ZERO_TAG, range, async () => {
      const keepAllocated = random.chance(0.5);
      const at = this.#world.places.byteOffsetOf(range.first);
      const byteLength = (range.end - range.first) * SECTOR_BYTES;
      if (random.chance(0.5)) await life.overlay.zero(at, byteLength, { keepAllocated });
      else await life.overlay.trim(at, byteLength);
      life.overlay.publishWrites();
      return false;
    });
    if (isDone) this.#world.tally.zeroes += 1;
  }

  async #read(life: Life, random: Random): Promise<void> {
    const range = this.#range(random);
    const bytes = Buffer.alloc((range.end - range.first) * SECTOR_BYTES, 0xee);
    const at = this.#world.places.byteOffsetOf(range.first);
    this.#world.step = `read of sectors ${range.first} to ${range.end}, link ${this.#world.below.link}`;
    // Pages that a sync lost may show their old content until its failure is known.
    const isFailing = (): boolean => this.#world.syncFailure === 'fresh';
    const wasFailing = isFailing();
    const read = this.#world.model.beginRead(range.first, range.end);
    const abort = new AbortController();
    try {
      if (!life.overlay.tryRead(bytes, at)) {
        const reading = life.overlay.read(bytes, at, { signal: abort.signal });
        if (random.chance(0.1)) setImmediate(() => abort.abort());
        await reading;
      }
    } catch (error) {
      this.#world.model.dropRead(read);
      if (life.isOver || abort.signal.aborted || hasCode(error, 'block-unavailable')) return;
      if (this.#isExpectedDamage(error)) {
        this.#world.tally['reads refused for damage'] += 1;
        return;
      }
      if (this.#world.hasFaults && isFault(error)) return;
      throw error;
    }
    if (life.isOver || wasFailing || isFailing()) return this.#world.model.dropRead(read);
    this.#world.model.endRead(read, bytes, 'a read');
    this.#world.tally.reads += 1;
  }

  /** Throws what is told as damage where nothing can be damaged. */
  #isExpectedDamage(error: unknown): boolean {
    if (!isDamage(error)) return false;
    if (!this.#world.hasDamage && this.#world.syncFailure === 'none') throw error;
    return true;
  }

  /** A flush that is acknowledged makes durable what was acknowledged before it. */
  async flush(life: Life): Promise<void> {
    const startedAt = this.#world.model.tick();
    const failedBefore = this.#world.syncFailure === 'settled';
    try {
      await life.overlay.flush();
    } catch (error) {
      if (life.isOver) return;
      if (!this.#world.hasFaults || !isFault(error)) throw error;
      return;
    }
    if (life.isOver) return;
    if (failedBefore && !this.#world.isFailedLayerForgotten)
      throw new Error('a flush was acknowledged after a failed sync');
    this.#world.model.endFlush(startedAt);
    this.#world.tally.flushes += 1;
  }
}
