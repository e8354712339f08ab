/**
 * A block daemon with an empty cache, as it runs in earnest but without agent and supervisor, and what the agent has it do: attach a disk,
 * replay a boot trace, bring blocks in in the background.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { encodeBootTrace, encodeChangedPairs, type Digest } from '@collective/shared';
import { BLOCKD_V8_OPTIONS, ControlClient, type BlockdStatus } from '@collective/transceiver';
import { Child } from '../../support/child.js';
import { ROOT } from '../../support/paths.js';
import { BLOCK_BYTES, mapOfDigests, type RandomChunks } from './random-chunks.js';

const BLOCKD = path.join(ROOT, 'packages/transceiver/dist/blockd/main.js');
const PRELOAD = path.join(ROOT, 'packages/transceiver/dist/work/helpers-stand-behind.cjs');
const SESSION = 'guest';
/** A read is never given up here: how long it takes is what is measured. */
const WAIT_MS = 600_000;
/** How the agent asks (agent/prefetcher.ts). */
const BLOCKS_A_SLICE = 16;

export class BlockDaemon implements AsyncDisposable {
  readonly #home: string;
  readonly #process: Child;
  readonly #control: ControlClient;

  private constructor(home: string, process: Child, control: ControlClient) {
    this.#home = home;
    this.#process = process;
    this.#control = control;
  }

  static async start(repositoryPort: number): Promise<BlockDaemon> {
    const home = await mkdtemp(path.join(os.tmpdir(), 'bench-blockd-'));
    const child = new Child('blockd', process.execPath, [
      ...[...BLOCKD_V8_OPTIONS, '--require', PRELOAD, BLOCKD],
      ...['--home', home, '--cache-reserve-bytes', '0'],
    ]);
    const control = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: 60_000 });
    await control.request('repository', { origin: `http://127.0.0.1:${repositoryPort}` });
    await control.request('status', {}); // its fetching thread is there, too
    return new BlockDaemon(home, child, control);
  }

  get pid(): number {
    return this.#process.process.pid ?? 0;
  }

  async status(): Promise<BlockdStatus> {
    return await this.#control.request('status', {});
  }

  /** Gives its socket. `spread`: see mapOfDigests; `isTraced`: a trace of all of its blocks, in their order, is replayed from now on. */
  async attach(disk: string, chunks: RandomChunks, { spread = 1, isTraced = false } = {}): Promise<string> {
    const map = mapOfDigests(chunks.digests, spread);
    const { root } = map.build();
    const { diskBytes } = map;
    const file = (ending: string): string => path.join(this.#home, `${disk}.${ending}`);
    await writeFile(file('map'), encodeChangedPairs(map.changesSince(undefined)));
    const { chunkBytes } = chunks;
    const touches = chunks.digests.map((_, index) => ({
      ...{ blockIndex: index * spread, chunkBytes },
      ...{ afterMs: 0, phase: 0 as const },
    }));
    const trace = encodeBootTrace({ version: 1, root, blockBytes: BLOCK_BYTES, touches });
    if (isTraced) await writeFile(file('trace'), trace);
    await this.#control.request('attach', {
      ...{ session: SESSION, disk, waitMs: WAIT_MS, listen: { path: file('sock') } },
      source: {
        ...{ kind: 'published', appliance: 'random', version: 1, root, map: file('map') },
        ...{ diskBytes, blockBytes: BLOCK_BYTES },
        ...(isTraced ? { trace: { replay: file('trace') } } : {}),
      },
    });
    return file('sock');
  }

  /** Slice by slice, until all of them are here or the daemon ends. */
  async prefetch(digests: readonly Digest[]): Promise<void> {
    const list = path.join(this.#home, 'prefetch');
    for (let at = 0; at < digests.length; at += BLOCKS_A_SLICE) {
      await writeFile(list, Buffer.from(digests.slice(at, at + BLOCKS_A_SLICE).join(''), 'hex'));
      await this.#control.request('prefetch', { blockBytes: BLOCK_BYTES, path: list });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#control.close();
    await this.#process.stop('SIGKILL');
    await rm(this.#home, { recursive: true, force: true });
  }
}
