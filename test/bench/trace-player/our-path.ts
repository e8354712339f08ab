/**
 * Our block path as it runs in earnest, without agent and supervisor: a blockd process, its disks attached with temporary overlays, and
 * before that what a start fetches: heads, manifest and maps, through the same link.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { encodeChangedPairs, type DiskDescription } from '@collective/shared';
import { ControlClient, type BlockdStatus } from '@collective/transceiver';
import { Child } from '../../support/child.js';
import { ROOT } from '../../support/paths.js';
import type { ServerClient } from '../../faults/server-client.js';
import type { PublishedVersion } from './published-disks.js';

/** Boot traces by the name of the disk. */
export type Traces = ReadonlyMap<string, Buffer>;

const BLOCKD = path.join(ROOT, 'packages/transceiver/dist/blockd/main.js');
const SESSION = 'bench';
/** As on virtio; then a read is answered EIO. */
const WAIT_MS = 5_000;
const WARM_MS = 120_000;
/** How the agent asks for maps (agent/disk-maps.ts). */
const MAP_ENTRY_BYTES = 33;
const WHOLE_MAP_BYTES_MAX = 2 ** 21 + 2 ** 16;
const MAP_FANOUT = 128;
const LEAVES_A_REQUEST = 512;
const HOARDED_AT_ONCE = 4_096;

export class OurPath implements AsyncDisposable {
  readonly #home: string;
  readonly #process: Child;
  readonly #control: ControlClient;
  readonly #version: PublishedVersion;

  private constructor(home: string, process: Child, control: ControlClient, version: PublishedVersion) {
    this.#home = home;
    this.#process = process;
    this.#control = control;
    this.#version = version;
  }

  /** A blockd with an empty cache, which knows where the repository is and has no disk, as it is after a login. */
  static async start(version: PublishedVersion, repositoryPort: number): Promise<OurPath> {
    const home = await mkdtemp(path.join(os.tmpdir(), 'player-'));
    const child = new Child('blockd', process.execPath, [BLOCKD, '--home', home, '--cache-reserve-bytes', '0']);
    const control = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: 60_000 });
    await control.request('repository', { origin: `http://127.0.0.1:${repositoryPort}` });
    await control.request('status', {}); // its fetching thread is there, too
    return new OurPath(home, child, control, version);
  }

  /** Where everything of it lies: its cache, and the overlays of what is attached. */
  get home(): string {
    return this.#home;
  }

  get pid(): number {
    const { pid } = this.#process.process;
    if (pid === undefined) throw new Error('blockd was not started');
    return pid;
  }

  /** From now on it fetches there. */
  async moveTo(repositoryPort: number): Promise<void> {
    await this.#control.request('repository', { origin: `http://127.0.0.1:${repositoryPort}` });
  }

  /** Fetches those blocks of a disk into the cache, at the full rate of the line; without a list all of it. */
  async hoard(diskName: string, blocks?: readonly number[]): Promise<void> {
    const disk = this.#version.disks.find(({ name }) => name === diskName);
    if (disk === undefined) throw new Error(`there is no disk ${diskName}`);
    const { blockBytes, map, description } = disk;
    const all = Array.from({ length: Math.ceil(description.diskBytes / blockBytes) }, (_none, index) => index);
    const digests = [...new Set((blocks ?? all).flatMap((block) => map.digestAt(block) ?? []))];
    const file = path.join(this.#home, 'wanted');
    for (let first = 0; first < digests.length; first += HOARDED_AT_ONCE) {
      await writeFile(file, Buffer.from(digests.slice(first, first + HOARDED_AT_ONCE).join(''), 'hex'));
      await this.#control.request('hoard', { blockBytes, path: file });
    }
  }

  /**
   * What a first start on this machine fetches before its disks can be attached, as the agent asks for it: heads, manifest, then maps beside
   * boot traces. `isTraced`: the traces are asked for, and come back.
   */
  async fetchDescription(client: ServerClient, { isTraced }: { readonly isTraced: boolean }): Promise<Traces> {
    const { appliance, version, disks } = this.#version;
    const traces = new Map<string, Buffer>();
    await client.expect(200, 'heads');
    await client.expect(200, 'versionManifest', { params: { name: appliance, version } });
    await Promise.all(
      disks.map(async ({ name, description }) => {
        if (description.root === null) return;
        const params = { name: appliance, version, disk: name };
        const asked =
          isTraced && description.kind === 'system' ? client.expect(200, 'bootTrace', { params }) : undefined;
        await fetchMap(client, params, description);
        if (asked !== undefined) traces.set(name, (await asked).body);
      }),
    );
    return traces;
  }

  /** Tells the repository what this boot has touched. */
  async tellTraces(client: ServerClient): Promise<void> {
    const { appliance, version, disks } = this.#version;
    for (const { name, description } of disks) {
      if (description.root === null || description.kind !== 'system') continue;
      const file = path.join(this.#home, `${name}.trace`);
      await this.#control.request('trace', { session: SESSION, disk: name, path: file });
      const params = { name: appliance, version, disk: name };
      await client.expect(200, 'addBootTrace', { params, body: await readFile(file) });
    }
  }

  /** Attaches every disk on fresh overlays and has sector 0 of each; gives each disk's socket. `traces`: by disk, replayed from then on. */
  async attach(traces: Traces = new Map()): Promise<ReadonlyMap<string, string>> {
    const { appliance, version, disks } = this.#version;
    const sockets = new Map<string, string>();
    await Promise.all(
      disks.map(async ({ name, description, map }) => {
        const { diskBytes, blockBytes, root } = description;
        const mapFile = path.join(this.#home, `${name}.map`);
        if (root !== null) await writeFile(mapFile, encodeChangedPairs(map.changesSince(undefined)));
        const socket = path.join(this.#home, `${name}.sock`);
        const trace = traces.get(name);
        const traceFile = path.join(this.#home, `${name}.trace`);
        if (trace !== undefined) await writeFile(traceFile, trace);
        const replay = trace === undefined ? {} : { trace: { replay: traceFile } };
        await this.#control.request('attach', {
          session: SESSION,
          disk: name,
          source:
            root === null
              ? { kind: 'zero', diskBytes }
              : { kind: 'published', appliance, version, diskBytes, blockBytes, root, map: mapFile, ...replay },
          overlay: { path: path.join(this.#home, `overlay-${name}`), mode: 'temporary', fresh: true },
          waitMs: WAIT_MS,
          listen: { path: socket },
        });
        sockets.set(name, socket);
      }),
    );
    await Promise.all(
      disks.map(({ name }) => this.#control.request('warm', { session: SESSION, disk: name, timeoutMs: WARM_MS })),
    );
    return sockets;
  }

  /** First touches count from here. */
  async startTraces(): Promise<void> {
    await this.#control.request('trace-start', { session: SESSION });
  }

  /** Throws the overlays away. */
  async detach(): Promise<void> {
    await this.#control.request('detach', { session: SESSION });
  }

  async startRecording(): Promise<void> {
    await this.#control.request('recording-start', { session: SESSION });
  }

  async stopRecording(file: string): Promise<void> {
    const { truncated } = await this.#control.request('recording-stop', { session: SESSION, path: file });
    if (truncated) throw new Error('the recording is full');
  }

  async status(): Promise<BlockdStatus> {
    return await this.#control.request('status', {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#control.close();
    await this.#process.stop();
    await rm(this.#home, { recursive: true, force: true });
  }
}

const fetchMap = async (
  client: ServerClient,
  params: { readonly name: string; readonly version: number; readonly disk: string },
  { diskBytes, blockBytes }: DiskDescription,
): Promise<void> => {
  const blockCount = Math.ceil(diskBytes / blockBytes);
  if (blockCount * MAP_ENTRY_BYTES < WHOLE_MAP_BYTES_MAX) {
    await client.expect(200, 'diskMap', { params, query: { part: 'all' } });
    return;
  }
  await client.expect(200, 'diskMap', { params, query: { part: 'upper' } });
  const leaves = Math.ceil(blockCount / MAP_FANOUT);
  for (let first = 0; first < leaves; first += LEAVES_A_REQUEST) {
    const positions = Array.from({ length: Math.min(LEAVES_A_REQUEST, leaves - first) }, (_none, at) => first + at);
    await client.expect(200, 'diskMap', { params, query: { part: 'leaves', positions: positions.join(',') } });
  }
};
