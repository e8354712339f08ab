/**
 * A blockd process and a real repository server in this process with a person's snapshots: what an agent tells blockd of them is written here by
 * hand. The server can be taken away, and its answers be looked at, counted and replaced.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { deriveEpochKeys, encodeChangedPairs, sha256, type Digest, type DiskMap } from '@collective/shared';
import {
  BLOCK_BYTES as BLOCK,
  blockOf,
  INITIAL,
  mapOf,
  openSubscriber,
  SUBSCRIPTION,
  userMapOf,
  type MadeSnapshot,
  type Subscriber,
  type UserPlan,
} from '@collective/repository-server';
import { ControlClient, BaseFolder, NbdReader, type ControlEvent, type ControlParams } from '@collective/transceiver';
import type { Child } from '../support/child.js';
import { startBlockd } from './blockd-process.js';

export { BLOCK };
export const DISK_BYTES = INITIAL.length * BLOCK;
export const DISK_KEY = Buffer.from(Array.from({ length: 64 }, (_, at) => at)).toString('base64url');

const keysOf = (epoch: number, secret: Buffer) => {
  const { blockNameKey, chunkKey } = deriveEpochKeys(secret);
  return { epoch, blockNameKey: blockNameKey.toString('base64url'), chunkKey: chunkKey.toString('base64url') };
};
/** Of the epoch in which TestBackup writes. */
export const BLOCK_KEYS = [keysOf(1, Buffer.alloc(32, 7))];
export const keysOfOtherEpoch = (epoch: number, fill: number) => keysOf(epoch, Buffer.alloc(32, fill));

const INITIAL_PAIRS = mapOf(INITIAL).changesSince(undefined);
/** The name of its map. */
export const INITIAL_MAP = sha256(encodeChangedPairs(INITIAL_PAIRS));

/** What a disk of that plan holds. */
export const contentOf = (plan: UserPlan): Buffer =>
  Buffer.concat(
    plan.map((entry, index) => {
      if (entry === 'inherit') return blockOf(INITIAL[index] ?? 0);
      return blockOf(typeof entry === 'string' ? Number(entry.slice(1)) : entry);
    }),
  );

/** The initial disk with these blocks. */
export const planWith = (blocks: Readonly<Record<number, UserPlan[number]>>): UserPlan =>
  INITIAL.map((_, index) => blocks[index] ?? 'inherit');

export class SnapshotHome implements AsyncDisposable {
  readonly home: string;
  readonly world: Subscriber;
  /** Of each request that reached the server: path, and its range. */
  readonly requests: string[] = [];
  readonly events: ControlEvent[] = [];
  /** Answers instead of the server when it returns true. */
  answer: (request: IncomingMessage, response: ServerResponse) => boolean = () => false;
  process: Child;
  client!: ControlClient;
  #server: Server | undefined;
  #port = 0;

  private constructor(home: string, world: Subscriber) {
    this.home = home;
    this.world = world;
    this.process = startBlockd(home);
  }

  static async open(): Promise<SnapshotHome> {
    const world = await openSubscriber();
    await world.server.app.ready();
    const opened = new SnapshotHome(await mkdtemp(path.join(os.tmpdir(), 'collective-snapshot-')), world);
    await mkdir(opened.overlay);
    await opened.serverBack();
    await opened.#connect();
    return opened;
  }

  get overlay(): string {
    return path.join(this.home, 'overlay');
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Requests of snapshot objects, and of public chunks. */
  get dataRequests(): string[] {
    return this.requests.filter((request) => request.includes('/data '));
  }

  async serverAway(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  async serverBack(): Promise<void> {
    const server = createServer((request, response) => {
      this.requests.push(`${request.url ?? ''} ${request.headers.range ?? ''}`);
      if (!this.answer(request, response)) this.world.server.app.routing(request, response);
    });
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** As the agent after a commit: maps and base file durably, the changed pairs since `before` only. Gives the base. */
  async writeBase(
    { manifest }: { readonly manifest: Pick<MadeSnapshot['manifest'], 'number' | 'objects'> },
    plan: UserPlan,
    options: { readonly change?: (map: DiskMap) => DiskMap } = {},
  ): Promise<Digest> {
    const bases = await BaseFolder.open(this.overlay);
    const map = options.change?.(userMapOf(plan)) ?? userMapOf(plan);
    const { name } = await bases.putBase({
      ...{ format: 1, subscription: SUBSCRIPTION, number: manifest.number, diskBytes: DISK_BYTES, blockBytes: BLOCK },
      root: map.build().root,
      maps: [await bases.putMap(map.changesSince(userMapOf(planWith({}))))],
      base: { appliance: 'debian', version: 1, root: this.world.base, map: await bases.putMap(INITIAL_PAIRS) },
      objects: [...manifest.objects],
    });
    return name;
  }

  /** Takes a snapshot of that plan, and writes its base. */
  async save(plan: UserPlan): Promise<{ readonly base: Digest; readonly made: MadeSnapshot }> {
    const made = await this.world.backup.save({ plan });
    return { base: await this.writeBase(made, plan), made };
  }

  source(base: Digest): ControlParams<'attach'>['source'] {
    return { kind: 'snapshot', folder: this.overlay, base };
  }

  async attach(params: Partial<ControlParams<'attach'>> & Pick<ControlParams<'attach'>, 'source'>): Promise<void> {
    const overlay = { path: this.overlay, mode: 'persistent' as const, key: DISK_KEY };
    await this.client.request('attach', {
      ...{ session: 's', disk: 'user', overlay, blockKeys: BLOCK_KEYS, waitMs: 60_000 },
      listen: { path: path.join(this.home, 'disk.sock') },
      ...params,
    });
  }

  /** The same, read-only. */
  async attachSnapshot(base: Digest, params: Partial<ControlParams<'attach'>> = {}): Promise<void> {
    await this.client.request('attach', {
      ...{ session: 's', disk: 'user', source: this.source(base), diskKey: DISK_KEY, blockKeys: BLOCK_KEYS },
      ...{ waitMs: 60_000, listen: { path: path.join(this.home, 'disk.sock') } },
      ...params,
    });
  }

  async detach(): Promise<void> {
    await this.client.request('detach', { session: 's', keep: true });
  }

  /** All of the disk, or of the view on another socket. */
  async read(socket = 'disk.sock'): Promise<Buffer> {
    return await this.readPart(0, DISK_BYTES, socket);
  }

  async readPart(byteOffset: number, byteLength: number, socket = 'disk.sock'): Promise<Buffer> {
    const reader = await NbdReader.open(path.join(this.home, socket));
    try {
      const bytes = Buffer.alloc(byteLength);
      // As a guest: pieces that begin and end anywhere.
      const step = 5 * BLOCK + 512;
      for (let at = 0; at < byteLength; at += step)
        await reader.read(bytes.subarray(at, Math.min(byteLength, at + step)), byteOffset + at);
      return bytes;
    } finally {
      reader.close();
    }
  }

  /** How long reads wait from now on. */
  async setWait(waitMs: number): Promise<void> {
    await this.client.request('wait', { session: 's', waitMs });
  }

  async waitForEvent(name: ControlEvent['event'], timeoutMs = 120_000): Promise<ControlEvent> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const found = this.events.find((event) => event.event === name);
      if (found !== undefined) return found;
      if (performance.now() > deadlineMs)
        throw new Error(`no event ${name}; there were ${JSON.stringify(this.events)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async tellRepository(token = this.world.backup.person.token): Promise<void> {
    await this.client.request('repository', { origin: this.origin, token });
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.process.exit();
    this.client.close();
  }

  /** kill -9, then a new process on the same home; nothing is attached. */
  async restart(): Promise<void> {
    await this.kill();
    this.process = startBlockd(this.home);
    await this.#connect();
  }

  async overlayBase(): Promise<unknown> {
    const text = await readFile(path.join(this.overlay, 'overlay.json'), 'utf8');
    return (JSON.parse(text) as { base: unknown }).base;
  }

  async #connect(): Promise<void> {
    await rm(path.join(this.home, 'disk.sock'), { force: true });
    this.client = await ControlClient.connect(path.join(this.home, 'run/blockd.sock'), {
      waitMs: 120_000,
      onEvent: (event) => this.events.push(event),
    });
    await this.client.request('events', {});
    await this.tellRepository();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    await this.process.stop();
    await this.serverAway();
    await this.world.server.close();
    await rm(this.home, { recursive: true, force: true });
  }
}
