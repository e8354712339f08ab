/** A blockd process on a home of its own, with a repository that a test can break, for the integration tests of the block path. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { encodeChangedPairs } from '@collective/shared';
import {
  ControlClient,
  TestRepository,
  testDisk,
  type BlockdStatus,
  type ControlEvent,
  type ControlParams,
  type TestDisk,
} from '@collective/transceiver';
import { Child, run, type RunResult } from '../support/child.js';
import { ROOT } from '../support/paths.js';

export const BLOCKD = path.join(ROOT, 'packages/transceiver/dist/blockd/main.js');

export const startBlockd = (home: string, words: readonly string[] = []): Child =>
  new Child('blockd', process.execPath, [BLOCKD, '--home', home, '--cache-reserve-bytes', '0', ...words]);

/** libnbd's Python shell; Debian's Python has its module, another one that comes first in the path has not. */
export const nbdsh = async (uri: string, ...commands: readonly string[]): Promise<RunResult> =>
  await run('nbdsh', ['-u', uri, ...commands.flatMap((command) => ['-c', command])], {
    env: { ...process.env, PATH: '/usr/bin:/bin' },
  });

/** How many requests may have been asked twice: on a machine that stood still for two seconds the repository seems silent. */
export const askedAgain = ({ faults }: BlockdStatus): number =>
  (faults['net-silent'] ?? 0) + (faults['net-slow'] ?? 0) + (faults['net-unreachable'] ?? 0);

export class BlockdUnderTest implements AsyncDisposable {
  readonly home: string;
  readonly disk: TestDisk;
  readonly repository: TestRepository;
  readonly #words: readonly string[];
  readonly events: ControlEvent[] = [];
  process: Child;
  client: ControlClient;

  private constructor(parts: {
    home: string;
    disk: TestDisk;
    repository: TestRepository;
    process: Child;
    client: ControlClient;
    words: readonly string[];
  }) {
    this.#words = parts.words;
    this.home = parts.home;
    this.disk = parts.disk;
    this.repository = parts.repository;
    this.process = parts.process;
    this.client = parts.client;
  }

  static async open(options: {
    readonly diskBytes: number;
    readonly blockBytes: number;
    readonly words?: readonly string[];
  }): Promise<BlockdUnderTest> {
    const home = await mkdtemp(path.join(os.tmpdir(), 'collective-blockd-'));
    const disk = testDisk(options);
    await writeFile(path.join(home, 'map'), encodeChangedPairs(disk.map.changesSince(undefined)));
    await writeFile(path.join(home, 'expected.raw'), disk.bytes);
    const repository = await TestRepository.open(disk.chunks);
    const child = startBlockd(home, options.words);
    const client = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: 120_000 });
    client.close();
    const blockd = new BlockdUnderTest({
      ...{ home, disk, repository, process: child, client },
      words: options.words ?? [],
    });
    await blockd.#connect();
    return blockd;
  }

  get socket(): string {
    return path.join(this.home, 'disk.sock');
  }

  get uri(): string {
    return `nbd+unix:///system?socket=${this.socket}`;
  }

  get source() {
    const { map, root } = this.disk;
    return {
      kind: 'published' as const,
      appliance: 'test',
      version: 3,
      diskBytes: map.diskBytes,
      blockBytes: map.blockBytes,
      root,
      map: path.join(this.home, 'map'),
    };
  }

  async attach(
    options: {
      readonly overlay?: 'temporary' | 'persistent';
      readonly fresh?: boolean;
      readonly key?: string;
      readonly waitMs?: number;
      readonly trace?: Extract<ControlParams<'attach'>['source'], { readonly kind: 'published' }>['trace'];
    } = {},
  ): Promise<void> {
    const { overlay: mode, fresh = false, key, waitMs = 60_000, trace } = options;
    const overlay = { path: path.join(this.home, 'overlay'), fresh, ...(key === undefined ? {} : { key }) };
    await rm(this.socket, { force: true });
    await this.client.request('attach', {
      session: 's',
      disk: 'system',
      source: { ...this.source, ...(trace === undefined ? {} : { trace }) },
      ...(mode === undefined ? {} : { overlay: { ...overlay, mode } }),
      waitMs,
      listen: { path: this.socket },
    });
  }

  /** kill -9, then a new process on the same home; nothing is attached. */
  async restart(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.process.exit();
    this.process = startBlockd(this.home, this.#words);
    await this.#connect();
  }

  async #connect(): Promise<void> {
    this.client = await ControlClient.connect(path.join(this.home, 'run/blockd.sock'), {
      waitMs: 120_000,
      onEvent: (event) => this.events.push(event),
    });
    await this.client.request('events', {});
    await this.client.request('repository', { origin: this.repository.origin });
  }

  /** Resolves with the first event that matches; fails naming it. */
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

  /** Commands of nbdsh against the disk: `h` is connected. */
  async nbdsh(...commands: readonly string[]): Promise<RunResult> {
    return await nbdsh(this.uri, ...commands);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    await this.process.stop();
    await this.repository[Symbol.asyncDispose]();
    await rm(this.home, { recursive: true, force: true });
  }
}
