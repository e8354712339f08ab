/**
 * Boot traces (docs/formats/trace.md) and use (use.md) on this machine. Before a start the repository is asked what most boots of each system disk touch, which the block
 * daemon then fetches ahead of the guest, and what sessions touch. What this boot and this session touch the block daemon leaves in files; here they are found, the boot's
 * is kept, and both are told to the repository, which keeps them without a name, unless the person has switched that off.
 *
 * Nothing here is needed: a start never fails for it, and waits no longer than it takes the repository to answer.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CollectiveError,
  decodeBootTrace,
  decodeDiskUse,
  decodeUseRecord,
  DISK_USE_BYTES_MAX,
  ERROR_TABLE,
  hasCode,
  TRACE_BYTES_MAX,
  type Digest,
  type VersionManifest,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import { isErrno, readIfThere, removeIfThere } from '../storage/durable-file.js';
import type { ObjectCache } from './object-cache.js';
import { readSettings } from './settings-file.js';
import { leftFile, type LeftFile } from './subscription.js';

const ASK_MS = 3_000;
/** As often as blockd's files are looked for. */
const LOOK_MS = 30_000;

export type BootTracesOptions = {
  readonly home: { readonly machinesDirectory: string; readonly settingsFile: string };
  readonly objects: Pick<ObjectCache, 'trace' | 'putTrace' | 'use' | 'putUse'>;
  readonly client: Pick<RepositoryClient, 'call'>;
  readonly applianceOf: (machine: string) => string;
  /** Then nothing is fetched ahead. */
  readonly isMetered: () => Promise<boolean>;
  readonly log: (text: string) => void;
};

type Found = LeftFile & { readonly machine: string; readonly file: string };

/** By disk: what most boots touch, and what sessions touch. */
export type StartHints = { readonly traces: ReadonlyMap<string, Buffer>; readonly uses: ReadonlyMap<string, Buffer> };
export const NO_HINTS: StartHints = { traces: new Map(), uses: new Map() };

/** What is asked of the repository before a start. */
const HINTS = {
  traces: { route: 'bootTrace', bytesMax: TRACE_BYTES_MAX, decode: decodeBootTrace },
  uses: { route: 'diskUse', bytesMax: DISK_USE_BYTES_MAX, decode: decodeDiskUse },
} as const;
type HintKind = keyof typeof HINTS;

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
  ): Promise<StartHints> {
    const isMetered = await this.isMetered();
    signal.throwIfAborted();
    if (isMetered) return NO_HINTS;
    const system = manifest.disks.filter(({ kind, root }) => kind === 'system' && root !== null);
    const ofKind = async (kind: HintKind): Promise<ReadonlyMap<string, Buffer>> => {
      const found = new Map<string, Buffer>();
      await Promise.all(
        system.map(async ({ name: disk, root }) => {
          if (root === null) return;
          const params = { name: manifest.appliance, version: manifest.version, disk };
          const asked = isOnline ? await this.#ask(kind, params, signal) : undefined;
          const hint = await this.#kept(kind, root, asked).catch((error: unknown) => {
            this.#options.log(`the boot trace of ${manifest.appliance}: ${String(error)}`);
            return asked;
          });
          if (hint !== undefined) found.set(disk, hint);
        }),
      );
      return found;
    };
    const [traces, uses] = await Promise.all([ofKind('traces'), ofKind('uses')]);
    return { traces, uses };
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
  async #kept(kind: HintKind, root: Digest, asked: Buffer | undefined): Promise<Buffer | undefined> {
    const { objects } = this.#options;
    if (asked === undefined) return kind === 'traces' ? objects.trace(root) : objects.use(root);
    await (kind === 'traces' ? objects.putTrace(root, asked) : objects.putUse(root, asked));
    return asked;
  }

  async #ask(
    kind: HintKind,
    params: { readonly name: string; readonly version: number; readonly disk: string },
    signal: AbortSignal,
  ): Promise<Buffer | undefined> {
    const { route, bytesMax, decode } = HINTS[kind];
    try {
      const inTime = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
      const bytes = await this.#options.client.call(route, { params, signal: inTime, responseBytesMax: bytesMax });
      decode(bytes);
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
        const left = leftFile(name);
        if (left !== undefined)
          found.push({ ...left, machine, file: join(machinesDirectory, machine, 'traces', name) });
      }
    }
    return found;
  }

  /** What cannot be told now stays for the next time. */
  async #take({ machine, disk, kind, file }: Found, { isTold }: { readonly isTold: boolean }): Promise<void> {
    const bytes = await readIfThere(file);
    if (bytes === undefined) return;
    try {
      const version = kind === 'boot' ? await this.#keepBoot(bytes) : decodeUseRecord(bytes).version;
      if (isTold) {
        const params = { name: this.#options.applianceOf(machine), version, disk };
        const sent = { params, body: bytes, signal: this.#ended.signal };
        if (kind === 'boot') await this.#options.client.call('addBootTrace', { ...sent, query: {} });
        else await this.#options.client.call('addUseRecord', sent);
      }
    } catch (error) {
      if (this.#ended.signal.aborted || isLater(error)) return;
      this.#options.log(`the ${kind === 'boot' ? 'boot trace' : 'use record'} of ${machine}: ${String(error)}`);
    }
    // The session may have left more meanwhile.
    if ((await readIfThere(file))?.equals(bytes) === true) await removeIfThere(file);
  }

  /** Of all boots more is known: this one alone counts where nobody tells more. The number of its version. */
  async #keepBoot(bytes: Buffer): Promise<number> {
    const { objects } = this.#options;
    const { root, version } = decodeBootTrace(bytes);
    if (objects.trace(root) === undefined) await objects.putTrace(root, bytes);
    return version;
  }
}

/** Another time it may be taken: the repository is away, or does not know the device just now. */
const isLater = (error: unknown): boolean =>
  !(error instanceof CollectiveError) || ERROR_TABLE[error.code].retryable || error.code === 'not-logged-in';
