/**
 * One disk of one session as blockd serves it: what lies below, its overlay, its NBD server, and the views of it that are open.
 */
import type net from 'node:net';
import { setImmediate, setTimeout } from 'node:timers/promises';
import {
  type BootPhase,
  type BootTrace,
  CollectiveError,
  isBlockBytes,
  isDigest,
  type Digest,
} from '@collective/shared';
import { AttachedViews } from './attached-views.js';
import type { BlockDevice } from './block-device.js';
import type { DiskTrace, GuestReads } from './boot-trace.js';
import { checkCommit } from './commit-check.js';
import type { ControlParams, DiskStatus } from './control/control-protocol.js';
import { openSnapshot, openSource, type BelowContext, type BelowOptions, type DiskBelow } from './disk-below.js';
import type { ImageCounters, ImageDevice } from './image-device.js';
import { NbdExport } from './nbd/nbd-export.js';
import { NbdServer } from './nbd/nbd-server.js';
import { Overlay } from './overlay/overlay.js';
import { openUserDiskTrace } from './user-disk-trace.js';
import type { RequestRecording } from './request-recording.js';

export type AttachParams = ControlParams<'attach'>;
export type Listen = AttachParams['listen'];

export type AttachContext = BelowContext & {
  readonly listener: (
    listen: Listen,
  ) => Promise<{ readonly path: string } | { readonly fd: number } | { readonly server: net.Server }>;
  readonly onFailed: (error: unknown) => void;
};

/** Between two blocks of work in the background, while the guest uses the disk. */
const REST_MS = 1;
const IN_USE_MS = 50;

export class AttachedDisk {
  readonly session: string;
  readonly disk: string;
  readonly #params: KeptParams;
  readonly #context: AttachContext;
  /** What is below now, last; while a rebase ends, also what was before. */
  #belows: readonly DiskBelow[];
  readonly #top: BlockDevice;
  readonly #overlay: Overlay | undefined;
  /** Of a user disk; a published one has its trace below the overlay. */
  readonly #trace: DiskTrace | undefined;
  readonly #server: NbdServer;
  readonly #export: NbdExport;
  readonly #views: AttachedViews;
  #waitMs: number;
  #lastRebase: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  private constructor(params: KeptParams, context: AttachContext, path: DevicePath, nbd: Nbd) {
    this.session = params.session;
    this.disk = params.disk;
    this.#params = params;
    this.#context = context;
    this.#belows = [path.below];
    this.#top = path.top;
    this.#overlay = path.overlay;
    this.#trace = path.trace;
    this.#server = nbd.server;
    this.#export = nbd.export;
    this.#views = new AttachedViews(context.onFailed);
    this.#waitMs = params.waitMs;
  }

  /** Resolves when clients can connect. What was opened is closed again when it fails. */
  static async open(params: AttachParams, context: AttachContext): Promise<AttachedDisk> {
    const { overlay, source, trace } = params;
    if (trace !== undefined && (overlay?.mode !== 'persistent' || overlay.key === undefined))
      throw new CollectiveError('bad-request', 'the trace of a user disk is sealed: its overlay has no key');
    if (overlay?.fresh === true) {
      if (source.kind === 'snapshot' && source.folder === overlay.path)
        throw new CollectiveError('bad-request', 'the base of a disk would be removed with its fresh overlay');
      await context.fileSystem.remove(overlay.path);
    }
    const path = await openPath(params, context);
    try {
      const nbdExport = new NbdExport({
        name: params.disk,
        device: path.top,
        description: `${params.session}/${params.disk}`,
      });
      const server = await NbdServer.open({
        listen: await context.listener(params.listen),
        exports: [nbdExport],
        failed: context.onFailed,
      });
      return new AttachedDisk(withoutKeys(params), context, path, { server, export: nbdExport });
    } catch (error) {
      path.trace?.close();
      await closePath(path.overlay, [path.below], { abandonOverlay: false });
      throw error;
    }
  }

  get byteLength(): number {
    return this.#top.byteLength;
  }

  get unavailableCount(): number {
    return this.#images.reduce(
      (count, image) => count + image.waiting.filter((block) => block.isUnavailable).length,
      0,
    );
  }

  status(reasonOf: (digest: Digest) => string | undefined): DiskStatus {
    const images = this.#images;
    const overlay = this.#overlay;
    const waiting = images
      .flatMap((image) => image.waiting)
      .map((block) => {
        const reason = reasonOf(block.digest);
        return reason === undefined ? block : { ...block, reason };
      });
    return {
      session: this.session,
      disk: this.disk,
      byteLength: this.byteLength,
      clients: this.#server.sessionCount,
      busyMs: this.#export.busy.totalMs,
      ...(images.length === 0 ? {} : { counters: sumCounters(images.map(({ counters }) => counters)) }),
      ...(overlay === undefined
        ? {}
        : { base: overlay.base, sealedLayers: overlay.sealedLayerIds, seals: overlay.sealStatus }),
      waiting,
    };
  }

  /** Brings blocks into the cache and waits for them. */
  async warm(blocks: readonly number[], signal: AbortSignal): Promise<void> {
    const below = this.#below;
    await Promise.all(blocks.map((block) => below.fetch(block, { signal })));
  }

  /** Which blocks its overlay touches, while nobody writes. Errors: `not-found` for a disk without an overlay. */
  async touchedBlocks(blockBytes: number): Promise<Uint32Array> {
    if (this.#overlay === undefined)
      throw new CollectiveError('not-found', `${this.session}/${this.disk} has no overlay`);
    return await this.#overlay.touchedBlocks(blockBytes);
  }

  /** Records what is asked from now on; undefined: no longer. */
  record(recording: RequestRecording | undefined): void {
    this.#export.recording = recording?.disk(this.disk, this.byteLength);
  }

  beginTrace(guest: () => GuestReads): void {
    for (const trace of this.#traces) trace.begin(guest);
  }

  get reads(): GuestReads {
    return {
      isWaiting: this.#images.some(({ waiting }) => waiting.length > 0),
      touches: this.#traces.reduce((sum, { touchCount }) => sum + touchCount, 0),
    };
  }

  setPhase(phase: BootPhase): void {
    for (const trace of this.#traces) trace.setPhase(phase);
  }

  /** How long reads wait for their block from now on, those that wait already included. */
  setWaitMs(waitMs: number): void {
    this.#waitMs = waitMs;
    for (const image of this.#images) image.setWaitMs(waitMs);
  }

  /** The boot trace so far; undefined for a disk that has none. */
  get trace(): BootTrace | undefined {
    return this.#below.trace?.now;
  }

  /** As Overlay.seal. Error also: `not-found` without an overlay. */
  seal(): Promise<string> {
    return this.#writable().seal();
  }

  /** Serves the disk up to and with a sealed layer. Errors: `exists`, `not-found`, `local-io`. */
  async openView(
    layer: string,
    listen: Listen,
    { listener }: Pick<AttachContext, 'listener'>,
  ): Promise<{ readonly byteLength: number }> {
    await this.#views.open(layer, () => listener(listen), {
      name: this.disk,
      description: `${this.session}/${this.disk} up to ${layer}`,
      openView: () => this.#writable().openView(layer),
    });
    return { byteLength: this.byteLength };
  }

  /** False when it was not open. */
  closeView(layer: string): Promise<boolean> {
    return this.#views.close(layer);
  }

  /** As Overlay.changedBlocks. */
  async changedBlocks(layer: string, blockBytes: number): Promise<Uint32Array> {
    if (!isBlockBytes(blockBytes)) throw new CollectiveError('bad-request', `no block has ${blockBytes} bytes`);
    return await this.#writable().changedBlocks(layer, blockBytes);
  }

  /**
   * The state that a base file in the overlay's folder says takes the place of the layers up to and with that one, when it is what they hold. Private
   * blocks of them are in their cache afterwards. Errors, after which nothing has changed: those of openBase and of checkCommit, `not-found`,
   * `wrong-key`, `disk-full`, `local-io`, `shutting-down`.
   */
  rebase(layer: string, base: Digest): Promise<void> {
    const rebase = this.#lastRebase.then(() => this.#rebase(layer, base));
    this.#lastRebase = rebase.catch(() => undefined);
    return rebase;
  }

  /** Ends the server, its sessions and views, flushes and closes the layers; `removeTemporary` deletes a temporary overlay instead of flushing it. */
  close(options: { readonly removeTemporary: boolean }): Promise<void> {
    this.#closed ??= (async () => {
      const { overlay } = this.#params;
      this.#trace?.close();
      const removedPath = options.removeTemporary && overlay?.mode === 'temporary' ? overlay.path : undefined;
      try {
        await Promise.all([this.#server.close(), this.#views.closeAll()]);
      } finally {
        // A rebase that is under way ends with the overlay, one way or the other.
        await closePath(this.#overlay, () => this.#belows, {
          abandonOverlay: removedPath !== undefined,
          afterOverlay: () => this.#lastRebase,
        }).finally(async () => {
          if (removedPath !== undefined) await this.#context.fileSystem.remove(removedPath);
        });
      }
    })();
    return this.#closed;
  }

  async #rebase(layer: string, base: Digest): Promise<void> {
    const overlay = this.#writable();
    const { path } = this.#params.overlay ?? { path: '' };
    const from = this.#below;
    const view = await overlay.openView(layer);
    let to: DiskBelow | undefined;
    try {
      to = await openSnapshot({ folder: path, digest: base }, belowOptions(this.#params, this.#waitMs), this.#context);
      const { map, privateUse, placementTag } = to;
      if (map === undefined || map.diskBytes !== this.byteLength)
        throw new CollectiveError('bad-image', `base ${base} is not of a disk of ${this.byteLength} bytes`);
      const changed = await overlay.changedBlocks(layer, map.blockBytes);
      await checkCommit({
        view,
        changed,
        from: from.map,
        to: map,
        fill: privateUse?.fill,
        placementTag,
        rest: this.#rest(),
      });
      for (const image of to.images) image.setWaitMs(this.#waitMs); // it may be another by now
      this.#belows = [from, to];
      await overlay.rebase(layer, { base, below: to.device });
    } catch (error) {
      this.#belows = [from];
      await to?.close();
      throw error;
    } finally {
      await view.close();
    }
    this.#belows = [to];
    // What a machine is paused for is asked of the new images when it goes on: nothing comes to the old ones any more.
    const lost = from.images.flatMap(({ waiting }) => waiting.filter(({ isUnavailable }) => isUnavailable));
    await from.close();
    for (const { blockIndex, waitedMs } of lost) this.#context.onArrived(blockIndex, waitedMs);
  }

  /** For work in the background: while the guest uses the disk most of the thread is its. */
  #rest(): () => Promise<void> {
    const { busy } = this.#export;
    let before = { busyMs: busy.totalMs, atMs: performance.now() };
    return async () => {
      if (busy.totalMs !== before.busyMs) before = { busyMs: busy.totalMs, atMs: performance.now() };
      await (performance.now() - before.atMs < IN_USE_MS ? setTimeout(REST_MS) : setImmediate());
    };
  }

  get #below(): DiskBelow {
    const below = this.#belows.at(-1);
    if (below === undefined) throw new RangeError('a disk lies on nothing');
    return below;
  }

  get #traces(): readonly DiskTrace[] {
    return [this.#trace, this.#below.trace].filter((trace) => trace !== undefined);
  }

  get #images(): readonly ImageDevice[] {
    return this.#belows.flatMap(({ images }) => images);
  }

  #writable(): Overlay {
    if (this.#closed !== undefined) throw new CollectiveError('shutting-down', `${this.disk} is being detached`);
    if (this.#overlay === undefined) throw new CollectiveError('not-found', `${this.disk} has no overlay`);
    return this.#overlay;
  }
}

/** What is kept for status and detach: no key of any kind. */
type KeptParams = Omit<AttachParams, 'overlay' | 'diskKey' | 'blockKeys'> & {
  readonly overlay?: Pick<NonNullable<AttachParams['overlay']>, 'path' | 'mode'>;
};

const withoutKeys = ({ overlay, diskKey: _diskKey, blockKeys: _blockKeys, ...params }: AttachParams): KeptParams => ({
  ...params,
  ...(overlay === undefined ? {} : { overlay: { path: overlay.path, mode: overlay.mode } }),
});

type DevicePath = {
  readonly top: BlockDevice;
  readonly overlay: Overlay | undefined;
  readonly trace: DiskTrace | undefined;
  readonly below: DiskBelow;
};
type Nbd = { readonly server: NbdServer; readonly export: NbdExport };

const belowOptions = (params: KeptParams, waitMs: number): BelowOptions => ({
  disk: params.disk,
  waitMs,
  graceMs: params.graceMs ?? 0,
});

const openPath = async (params: AttachParams, context: AttachContext): Promise<DevicePath> => {
  const { source, overlay: to } = params;
  const options = belowOptions(withoutKeys(params), params.waitMs);
  if (to === undefined) {
    const below = await openSource(source, options, context);
    return { top: below.device, overlay: undefined, trace: undefined, below };
  }
  let below: DiskBelow | undefined;
  try {
    const openBelow = async (base: Digest | null): Promise<BlockDevice> => {
      below =
        base === null
          ? await openSource(source, options, context)
          : await openSnapshot({ folder: to.path, digest: base }, options, context);
      return below.device;
    };
    const overlay = await Overlay.open(context.fileSystem, to.path, openBelow, {
      key: to.key === undefined ? undefined : Buffer.from(to.key, 'base64url'),
      newBase: source.kind === 'snapshot' && source.folder === to.path && isDigest(source.base) ? source.base : null,
    });
    if (below === undefined) throw new RangeError('the overlay opened nothing below it');
    if (params.trace === undefined || to.key === undefined) return { top: overlay, overlay, trace: undefined, below };
    const traced = await openUserDiskTrace(params.trace, { ...context, overlay, below, key: to.key });
    return { overlay, below, ...traced };
  } catch (error) {
    await below?.close();
    throw error;
  }
};

/** From the top down; every part is closed even when one before it fails, and the first error is kept. */
const closePath = async (
  overlay: Overlay | undefined,
  belows: readonly DiskBelow[] | (() => readonly DiskBelow[]),
  options: { readonly abandonOverlay: boolean; readonly afterOverlay?: () => Promise<unknown> },
): Promise<void> => {
  try {
    await (options.abandonOverlay ? overlay?.abandon() : overlay?.close());
  } finally {
    await options.afterOverlay?.();
    await Promise.all((typeof belows === 'function' ? belows() : belows).map((below) => below.close()));
  }
};

const sumCounters = (all: readonly ImageCounters[]): ImageCounters => {
  const sum: ImageCounters = { reads: 0, bytes: 0, hits: 0, misses: 0, unavailable: 0 };
  for (const counters of all) {
    sum.reads += counters.reads;
    sum.bytes += counters.bytes;
    sum.hits += counters.hits;
    sum.misses += counters.misses;
    sum.unavailable += counters.unavailable;
  }
  return sum;
};
