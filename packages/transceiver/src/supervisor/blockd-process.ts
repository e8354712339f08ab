/**
 * One run of the block daemon: a child that was forked here, with a channel over which listening sockets can be handed to it, or one
 * of an earlier supervisor, without that channel. Ends when the process does; letting go of it leaves it running.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import type { ControlEvent } from '../blockd/control/control-protocol.js';
import { identifyProcess, type ProcessIdentity, signalProcess, waitForEnd } from '../machine/process-identity.js';
import type { HeldSocket } from './held-socket.js';

export type BlockdProgram = {
  /** The module to fork, and its arguments. */
  readonly module: string;
  readonly words: readonly string[];
  /** A CommonJS module that is loaded before anything else. */
  readonly preload?: string;
  readonly controlSocket: string;
  readonly logFile: string;
};

/** Opening a large cache takes up to a second; a first start on a slow disk longer. */
const READY_WAIT_MS = 30_000;
/**
 * V8 counts the contents of buffers as heap, and lets a heap as small as blockd's grow by a few megabytes between collections: with blocks
 * coming at 12 MB/s it collected seven times a second, in both threads. Garbage may be four times what lives instead.
 *
 * V8's helper threads took a fifth of a processor beside a cache fill, two thirds of that for compiling what had become hot. They have a low
 * priority (work/helpers-stand-behind.cts), so pauses wait for them as little as can be had: at the end of a full marking, which has no switch
 * that works in this Node. (docs/PERFORMANCE.md)
 */
export const BLOCKD_V8_OPTIONS = [
  '--heap-growing-percent=400',
  '--no-parallel-scavenge',
  '--no-parallel-compaction',
  '--no-parallel-pointer-update',
];

/** One that is not there (another build lies in the place of ours) is done without. */
const preloadOf = ({ preload }: BlockdProgram): string[] =>
  preload !== undefined && existsSync(preload) ? ['--require', preload] : [];

export class BlockdProcess {
  readonly identity: ProcessIdentity;
  readonly client: ControlClient;
  readonly software: string | undefined;
  /** Resolves when the process has ended. */
  readonly ended: Promise<void>;
  readonly #child: ChildProcess | undefined;

  private constructor(
    { identity, software }: { readonly identity: ProcessIdentity; readonly software: string | undefined },
    client: ControlClient,
    child: ChildProcess | undefined,
  ) {
    this.identity = identity;
    this.software = software;
    this.client = client;
    this.#child = child;
    // The control connection ends with the process; it may also be cut while the process lives on, which then is of no use.
    this.ended = client.closed.then(async () => {
      if (!(await waitForEnd(identity, 1_000))) await signalProcess(identity, 'SIGKILL');
      await waitForEnd(identity, 10_000);
    });
  }

  /** Errors: `local-io` when it ends before it serves. */
  static async start(program: BlockdProgram, onEvent: (event: ControlEvent) => void): Promise<BlockdProcess> {
    const log = await open(program.logFile, 'a', 0o600);
    let child: ChildProcess;
    try {
      child = fork(program.module, [...program.words], {
        detached: true,
        stdio: ['ignore', log.fd, log.fd, 'ipc'],
        execArgv: [...BLOCKD_V8_OPTIONS, ...preloadOf(program)],
      });
    } finally {
      await log.close();
    }
    const gaveUp = new AbortController();
    child.once('exit', () => gaveUp.abort());
    child.once('error', () => gaveUp.abort());
    try {
      const client = await ControlClient.connect(program.controlSocket, {
        waitMs: READY_WAIT_MS,
        signal: gaveUp.signal,
        onEvent,
      });
      const { pid, software } = await client.request('hello', {}, { timeoutMs: READY_WAIT_MS });
      // Another blockd of this home may still be there: then ours ends at its lock, and that one is not ours to command.
      const identity = pid === child.pid ? await identifyProcess(pid) : undefined;
      if (identity === undefined) throw new CollectiveError('in-use', `another block daemon (${pid}) has this home`);
      await client.request('events', {});
      child.unref();
      child.channel?.unref();
      return new BlockdProcess({ identity, software }, client, child);
    } catch (error) {
      child.kill('SIGKILL');
      throw error instanceof CollectiveError
        ? error
        : new CollectiveError(
            'local-io',
            `the block daemon did not start (exit code ${child.exitCode}); see ${program.logFile}`,
            { cause: error },
          );
    }
  }

  /** The one that an earlier supervisor started; undefined when nobody answers at the socket. */
  static async adopt(
    controlSocket: string,
    onEvent: (event: ControlEvent) => void,
  ): Promise<BlockdProcess | undefined> {
    const client = await ControlClient.connect(controlSocket, { onEvent }).catch(() => undefined);
    if (client === undefined) return undefined;
    try {
      const { pid, software } = await client.request('hello', {}, { timeoutMs: READY_WAIT_MS });
      const identity = await identifyProcess(pid);
      if (identity === undefined) throw new CollectiveError('local-io', 'no such process');
      await client.request('events', {});
      return new BlockdProcess({ identity, software }, client, undefined);
    } catch {
      client.close();
      return undefined;
    }
  }

  /** False for an adopted one: it makes its sockets itself. */
  get takesSockets(): boolean {
    return this.#child?.connected === true;
  }

  handOver(name: string, socket: HeldSocket): void {
    this.#child?.send({ listener: name }, socket.server, (error) => {
      if (error !== null) this.client.close(); // its end is noticed, and the next one gets the socket
    });
  }

  /** Ends it in order, or by SIGKILL after `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    await this.client
      .request('shutdown', {}, { timeoutMs: graceMs })
      .catch(() => signalProcess(this.identity, 'SIGTERM'));
    if (!(await waitForEnd(this.identity, graceMs))) await signalProcess(this.identity, 'SIGKILL');
    await this.ended;
  }
}
