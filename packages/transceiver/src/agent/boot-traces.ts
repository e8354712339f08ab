/**
 * Boot traces on this machine (docs/formats/trace.md). Before a start the repository is asked what most boots of each system disk touch, which the block
 * daemon then fetches ahead of the guest. What this boot touches the block daemon leaves in a file when it is over; here it is found, kept, and told to
 * the repository, which keeps it without a name, unless the person has switched that off.
 *
 * Nothing here is needed: a start never fails for it, and waits no longer than it takes the repository to answer.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CollectiveError,
  decodeBootTrace,
  ERROR_TABLE,
  hasCode,
  TRACE_BYTES_MAX,
  type BootTrace,
  type Digest,
  type VersionManifest,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import { isErrno, readIfThere, removeIfThere } from '../storage/durable-file.js';
import type { ObjectCache } from './object-cache.js';
import { readSettings } from './settings-file.js';
import { recordedDisk } from './subscription.js';

const ASK_MS = 3_000;
/** As often as blockd's files are looked for. */
const LOOK_MS = 30_000;

export type BootTracesOptions = {
  readonly home: { readonly machinesDirectory: string; readonly settingsFile: string };
  readonly objects: Pick<ObjectCache, 'trace' | 'putTrace'>;
  readonly client: Pick<RepositoryClient, 'call'>;
  readonly applianceOf: (machine: string) => string;
  /** Then nothing is fetched ahead. */
  readonly isMetered: () => Promise<boolean>;
  readonly log: (text: string) => void;
};

type Found = { readonly machine: string; readonly disk: string; readonly file: string };

export class BootTraces {
  readonly #options: BootTracesOptions;
  readonly #timer: NodeJS.Timeout;
  readonly #ended = new AbortController();
  #gathering: Promise<void> | undefined;

  /** Looks now and then for what boots have left. */
  constructor(options: BootTracesOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.gather(), LOOK_MS).unref();
  }

  /** Then nothing is fetched ahead; so when nobody can tell. Never fails. */
  async isMetered(): Promise<boolean> {
    return this.#options.isMetered().catch((error: unknown) => {
      this.#options.log(`no boot trace is used: ${String(error)}`);
      return true;
    });
  }

  /** What is to be fetched ahead of the guest, by disk. Fails only when `signal` aborts. */
  async forStart(
    manifest: VersionManifest,
    { isOnline, signal }: { readonly isOnline: boolean; readonly signal: AbortSignal },
  ): Promise<ReadonlyMap<string, Buffer>> {
    const isMetered = await this.isMetered();
    signal.throwIfAborted();
    if (isMetered) return new Map();
    const system = manifest.disks.filter(({ kind, root }) => kind === 'system' && root !== null);
    const traces = new Map<string, Buffer>();
    await Promise.all(
      system.map(async ({ name: disk, root }) => {
        if (root === null) return;
        const params = { name: manifest.appliance, version: manifest.version, disk };
        const asked = isOnline ? await this.#ask(params, signal) : undefined;
        const trace = await this.#kept(root, asked).catch((error: unknown) => {
          this.#options.log(`the boot trace of ${manifest.appliance}: ${String(error)}`);
          return asked;
        });
        if (trace !== undefined) traces.set(disk, trace);
      }),
    );
    return traces;
  }

  /** Takes what boots have left: kept for the next start here, and told to the repository. Never fails. */
  gather(): Promise<void> {
    this.#gathering ??= this.#gather()
      .catch((error: unknown) => this.#options.log(`boot traces: ${String(error)}`))
      .finally(() => (this.#gathering = undefined));
    return this.#gathering;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#ended.abort();
    await this.#gathering;
  }

  /** The answer, from now on the last one; without one, the last one. */
  async #kept(root: Digest, asked: Buffer | undefined): Promise<Buffer | undefined> {
    if (asked === undefined) return this.#options.objects.trace(root);
    await this.#options.objects.putTrace(root, asked);
    return asked;
  }

  async #ask(
    params: { readonly name: string; readonly version: number; readonly disk: string },
    signal: AbortSignal,
  ): Promise<Buffer | undefined> {
    try {
      const inTime = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
      const bytes = await this.#options.client.call('bootTrace', {
        params,
        signal: inTime,
        responseBytesMax: TRACE_BYTES_MAX,
      });
      decodeBootTrace(bytes);
      return bytes;
    } catch (error) {
      signal.throwIfAborted();
      if (!hasCode(error, 'not-found') && !hasCode(error, 'repository-unreachable'))
        this.#options.log(`the boot trace of ${params.name}: ${String(error)}`);
      return undefined;
    }
  }

  async #gather(): Promise<void> {
    const found = await this.#find();
    if (found.length === 0) return;
    const { tellTraces } = await readSettings(this.#options.home.settingsFile);
    for (const each of found) await this.#take(each, { isTold: tellTraces });
  }

  async #find(): Promise<Found[]> {
    const { machinesDirectory } = this.#options.home;
    const found: Found[] = [];
    for (const machine of await readdir(machinesDirectory)) {
      const names = await readdir(join(machinesDirectory, machine, 'traces')).catch((error: unknown) => {
        if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return [];
        throw error;
      });
      for (const name of names) {
        const disk = recordedDisk(name);
        if (disk !== undefined) found.push({ machine, disk, file: join(machinesDirectory, machine, 'traces', name) });
      }
    }
    return found;
  }

  /** What cannot be told now stays for the next time. */
  async #take({ machine, disk, file }: Found, { isTold }: { readonly isTold: boolean }): Promise<void> {
    const { objects, client, applianceOf, log } = this.#options;
    const bytes = await readIfThere(file);
    if (bytes === undefined) return;
    try {
      const trace: BootTrace = decodeBootTrace(bytes);
      // Of all boots more is known: this one alone counts where nobody tells more.
      if (objects.trace(trace.root) === undefined) await objects.putTrace(trace.root, bytes);
      if (isTold) {
        const params = { name: applianceOf(machine), version: trace.version, disk };
        await client.call('addBootTrace', { params, query: {}, body: bytes, signal: this.#ended.signal });
      }
    } catch (error) {
      if (this.#ended.signal.aborted || isLater(error)) return;
      log(`the boot trace of ${machine}: ${String(error)}`);
    }
    await removeIfThere(file);
  }
}

/** Another time it may be taken: the repository is away, or does not know the device just now. */
const isLater = (error: unknown): boolean =>
  !(error instanceof CollectiveError) || ERROR_TABLE[error.code].retryable || error.code === 'not-logged-in';
