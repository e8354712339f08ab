/**
 * A transceiver of the storm: what a first start fetches, by the product's own clients, and nothing around it. The description (heads, manifest,
 * maps, boot trace) comes over the agent's RepositoryClient, the trace's blocks through the block path from single-flight down to HTTP, in the class
 * and order in which the block daemon asks for them ahead of a guest. Each block is decoded and checked by its digest, then dropped: there is no
 * cache file, no guest and no process of its own.
 */
import {
  decodeBootTrace,
  decodeChunk,
  decodeChunkBatch,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  TRACE_BYTES_MAX,
  type BootSegment,
  type DiskDescription,
} from '@collective/shared';
import {
  buildPublicSource,
  FaultCounters,
  LinkMeter,
  RANK,
  RepositoryClient,
  systemClock,
  type BlockRequest,
} from '@collective/transceiver';

export type StormVersion = {
  readonly appliance: string;
  readonly version: number;
  readonly disks: readonly DiskDescription[];
};

export type StormClientOptions = {
  /** Of this client's own link. */
  readonly origin: string;
  readonly token: string;
  readonly version: StormVersion;
};

/** What came through the block path since the client was opened. */
export type Fetched = {
  /** That were answered. */
  readonly requests: number;
  readonly chunkBytes: number;
  /** Attempts that were followed by another. */
  readonly failures: number;
};

export class StormClient {
  readonly #options: StormClientOptions;
  readonly #repository: RepositoryClient;
  readonly #meter = new LinkMeter(() => systemClock.nowMs());
  readonly #source: ReturnType<typeof buildPublicSource>;
  #failures = 0;

  constructor(options: StormClientOptions) {
    const { origin, token } = options;
    this.#options = options;
    this.#repository = new RepositoryClient({ origin });
    this.#source = buildPublicSource(
      { origin, token },
      {
        meter: this.#meter,
        faults: new FaultCounters(),
        onFailure: () => {
          this.#failures += 1;
        },
      },
    );
  }

  /** As the agent asks before a first start (agent/disk-maps.ts, agent/boot-traces.ts); gives what to fetch ahead, in its order. */
  async describe(): Promise<BlockRequest[]> {
    const { token, version } = this.#options;
    const { appliance: name, disks } = version;
    await this.#repository.call('heads', { token });
    await this.#repository.call('versionManifest', { token, params: { name, version: version.version } });
    const published = disks.filter(({ root }) => root !== null);
    const perDisk = await Promise.all(published.map(async (disk) => this.#describeDisk(disk)));
    return perDisk.flat();
  }

  /** All of them, verified. Nobody waits for one of them before the others. */
  async fetch(requests: readonly BlockRequest[]): Promise<void> {
    await Promise.all(
      requests.map(async (request) => void (await this.#source.singleFlight.get(request, { rank: RANK.trace }))),
    );
  }

  get fetched(): Fetched {
    const { requests, bytes } = this.#meter.status;
    return { requests, chunkBytes: bytes, failures: this.#failures };
  }

  async close(): Promise<void> {
    await this.#source.http.close();
    await this.#repository.close();
  }

  async #describeDisk({ name: disk, kind, root, diskBytes, blockBytes }: DiskDescription): Promise<BlockRequest[]> {
    const { token, version } = this.#options;
    const params = { name: version.appliance, version: version.version, disk };
    const isTraced = kind === 'system';
    const [batch, traced] = await Promise.all([
      this.#repository.call('diskMap', { token, params, query: { part: 'all' } }),
      isTraced ? this.#repository.call('bootTrace', { token, params, responseBytesMax: TRACE_BYTES_MAX }) : undefined,
    ]);
    if (root === null || traced === undefined) return [];
    const pages = new Map(decodeChunkBatch(batch).map(({ digest, chunk }) => [digest, chunk]));
    const map = DiskMap.fromPages({
      ...{ diskBytes, blockBytes, root },
      pages: (digest) => {
        const chunk = pages.get(digest);
        return chunk === undefined ? undefined : decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX });
      },
    });
    const { touches, segments = [] } = decodeBootTrace(traced);
    const requests = touches.flatMap(({ blockIndex, chunkBytes }): BlockRequest[] => {
      const digest = map.digestAt(blockIndex);
      return digest === undefined ? [] : [{ digest, blockBytes, neighbourhood: 0, chunkBytes }];
    });
    return segments.length === 0 || requests.length < touches.length ? requests : inSegments(requests, segments);
  }
}

/** As blockd asks for them that has none of them (blockd/image-device.ts). */
const inSegments = (requests: readonly BlockRequest[], segments: readonly BootSegment[]): BlockRequest[] => {
  const placed: BlockRequest[] = [];
  for (const { digest, touches, chunkBytes } of segments) {
    const held = requests.slice(placed.length, placed.length + touches);
    const segment = { digest, chunkBytes, digests: held.map((request) => request.digest) };
    placed.push(...held.map((request) => ({ ...request, segment })));
  }
  return placed;
};
