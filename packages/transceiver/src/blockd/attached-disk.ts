/**
 * One disk of one session as blockd serves it: the block path for it, its overlay's folder, and its NBD server.
 */
import type net from 'node:net';
import { CollectiveError, DiskMap, encodeBootTrace, isDigest, sha256, type Digest } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import type { BlockDevice } from './block-device.js';
import { buildServingHalf, type ServingHalf } from './block-path.js';
import type { CachedStore } from './cache/cached-store.js';
import type { ControlParams, DiskStatus } from './control/control-protocol.js';
import { readMapFile } from './control/map-file.js';
import { NbdExport } from './nbd/nbd-export.js';
import { NbdServer } from './nbd/nbd-server.js';
import { Overlay } from './overlay/overlay.js';
import { ZeroDevice } from './zero-device.js';

export type AttachParams = ControlParams<'attach'>;

export type AttachContext = {
  readonly fileSystem: FileSystem;
  readonly store: CachedStore;
  /** Makes sure that the store has a reader for blocks of that size. */
  readonly openBlockSize: (blockBytes: number) => Promise<void>;
  readonly listener: (
    listen: AttachParams['listen'],
  ) => Promise<{ readonly path: string } | { readonly fd: number } | { readonly server: net.Server }>;
  readonly onUnavailable: (blockIndex: number, digest: Digest) => void;
  readonly onArrived: (blockIndex: number, waitedMs: number) => void;
  readonly onFailed: (error: unknown) => void;
};

export class AttachedDisk {
  readonly session: string;
  readonly disk: string;
  readonly #params: AttachParams;
  readonly #fileSystem: FileSystem;
  /** Undefined for a disk that nobody published. */
  readonly #published: ServingHalf | undefined;
  readonly #top: BlockDevice;
  readonly #overlay: Overlay | undefined;
  readonly #server: NbdServer;
  readonly #export: NbdExport;
  #closed: Promise<void> | undefined;

  private constructor(
    params: AttachParams,
    fileSystem: FileSystem,
    path: DevicePath,
    server: NbdServer,
    nbdExport: NbdExport,
  ) {
    this.session = params.session;
    this.disk = params.disk;
    this.#params = params;
    this.#fileSystem = fileSystem;
    this.#published = path.published;
    this.#top = path.top;
    this.#overlay = path.overlay;
    this.#server = server;
    this.#export = nbdExport;
  }

  /** Resolves when clients can connect. What was opened is closed again when it fails. */
  static async open(params: AttachParams, context: AttachContext): Promise<AttachedDisk> {
    const { fileSystem } = context;
    if (params.overlay?.fresh === true) await fileSystem.remove(params.overlay.path);
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
      return new AttachedDisk(params, fileSystem, path, server, nbdExport);
    } catch (error) {
      await closePath(path, { abandonOverlay: false });
      throw error;
    }
  }

  get byteLength(): number {
    return this.#top.byteLength;
  }

  get unavailableCount(): number {
    return this.#published?.image.waiting.filter((block) => block.isUnavailable).length ?? 0;
  }

  status(reasonOf: (digest: Digest) => string | undefined): DiskStatus {
    const waiting = (this.#published?.image.waiting ?? []).map((block) => {
      const reason = reasonOf(block.digest);
      return reason === undefined ? block : { ...block, reason };
    });
    const counters = this.#published?.image.counters;
    return {
      session: this.session,
      disk: this.disk,
      byteLength: this.byteLength,
      clients: this.#server.sessionCount,
      busyMs: this.#export.busy.totalMs,
      ...(counters === undefined ? {} : { counters }),
      waiting,
    };
  }

  /** Brings blocks into the cache and waits for them. */
  async warm(blocks: readonly number[], signal: AbortSignal): Promise<void> {
    const image = this.#published?.image;
    if (image !== undefined) await Promise.all(blocks.map((block) => image.fetch(block, { signal })));
  }

  restartTrace(): void {
    this.#published?.recorder.restart();
  }

  setPhase(phase: 0 | 1 | 2 | 3): void {
    this.#published?.recorder.setPhase(phase);
  }

  /** The boot trace so far; undefined for a disk that has none. */
  trace(): { readonly bytes: Buffer; readonly touches: number } | undefined {
    const { source } = this.#params;
    const recorder = this.#published?.recorder;
    if (source.kind !== 'published' || recorder === undefined || source.root === null || !isDigest(source.root))
      return undefined;
    const { touches } = recorder;
    return {
      bytes: encodeBootTrace({ version: source.version, root: source.root, blockBytes: source.blockBytes, touches }),
      touches: touches.length,
    };
  }

  /** Ends the server and its sessions, flushes and closes the layers; `removeTemporary` deletes a temporary overlay instead of flushing it. */
  close(options: { readonly removeTemporary: boolean }): Promise<void> {
    this.#closed ??= (async () => {
      const { overlay } = this.#params;
      const removedPath = options.removeTemporary && overlay?.mode === 'temporary' ? overlay.path : undefined;
      try {
        await this.#server.close();
      } finally {
        const path = { top: this.#top, overlay: this.#overlay, published: this.#published };
        await closePath(path, { abandonOverlay: removedPath !== undefined }).finally(async () => {
          if (removedPath !== undefined) await this.#fileSystem.remove(removedPath);
        });
      }
    })();
    return this.#closed;
  }
}

type DevicePath = {
  readonly top: BlockDevice;
  readonly overlay: Overlay | undefined;
  readonly published: ServingHalf | undefined;
};

const openPath = async (params: AttachParams, context: AttachContext): Promise<DevicePath> => {
  const { source, overlay: overlayParams, waitMs } = params;
  const { fileSystem, store } = context;
  if (source.kind === 'zero') {
    const zero = new ZeroDevice(source.diskBytes);
    const overlay = overlayParams === undefined ? undefined : await Overlay.open(fileSystem, overlayParams.path, zero);
    return { top: overlay ?? zero, overlay, published: undefined };
  }
  const map = await readMap(source, fileSystem);
  await context.openBlockSize(map.blockBytes);
  const name = `${source.appliance}@${source.version}/${params.disk}`;
  const published = await buildServingHalf(map, store, {
    name,
    waitMs,
    placementTag: Number.parseInt(sha256(Buffer.from(`${source.appliance}/${params.disk}`)).slice(0, 7), 16),
    fileSystem,
    overlayFolder: overlayParams?.path,
    onUnavailable: (blockIndex) => {
      const digest = map.digestAt(blockIndex);
      if (digest !== undefined) context.onUnavailable(blockIndex, digest);
    },
    onArrived: context.onArrived,
  });
  return { top: published.top, overlay: published.overlay, published };
};

const readMap = async (
  source: Extract<AttachParams['source'], { kind: 'published' }>,
  fileSystem: FileSystem,
): Promise<DiskMap> => {
  const { diskBytes, blockBytes, root } = source;
  if (root === null) return DiskMap.empty({ diskBytes, blockBytes });
  if (!isDigest(root) || source.map === undefined)
    throw new CollectiveError('bad-request', 'a disk with a root needs a map file');
  return await readMapFile(fileSystem, source.map, { diskBytes, blockBytes, root });
};

/** From the top down; every part is closed even when one before it fails, and the first error is kept. */
const closePath = async (path: DevicePath, options: { readonly abandonOverlay: boolean }): Promise<void> => {
  try {
    await (options.abandonOverlay ? path.overlay?.abandon() : path.overlay?.close());
  } finally {
    await path.published?.image.close();
  }
};
