/**
 * The scrub as the fetching thread runs it: decides when a pass begins (scrub-plan.ts), starts its thread, forgets the blocks that
 * it finds damaged, and remembers where it was (scrub-record.ts). A forgotten block is fetched again when somebody reads it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { FileSystem } from '../../storage/file-system.js';
import type { PrivateSecrets } from '../private/private-secrets.js';
import type { CacheWriter } from './cache-writer.js';
import type { FromScrub, ScrubWorkerData } from './scrub-messages.js';
import { isScrubDue, SCRUB_ASKED_BYTES_PER_SECOND, SCRUB_SLOW_BYTES_PER_SECOND } from './scrub-plan.js';
import { newScrubRecord, readScrubRecord, writeScrubRecord, type ScrubRecord } from './scrub-record.js';
import { slotFileName } from './slot-file.js';

export type ScrubPass = {
  readonly startedAt: number;
  readonly blocks: number;
  readonly bytes: number;
  /** Blocks that did not hold what their record says, or could not be read; they are forgotten. */
  readonly damaged: number;
  /** Somebody asked for it. */
  readonly isAsked: boolean;
};

/** Times are seconds since 1970. */
export type ScrubStatus = {
  /** 0: only when asked for. */
  readonly everyDays: number;
  readonly running: (ScrubPass & { readonly bytesExpected: number }) | null;
  readonly last: (ScrubPass & { readonly finishedAt: number }) | null;
  /** Found by scrubs since blockd was started. */
  readonly damaged: number;
  /** Why the last pass did not come to its end. */
  readonly failure: string | null;
};

export type ScrubberOptions = {
  readonly fileSystem: FileSystem;
  readonly folder: string;
  readonly cache: CacheWriter;
  readonly nowS?: () => number;
  /** Of the private cache, as they are when a pass begins. */
  readonly secrets?: () => PrivateSecrets;
  /** The built scrub-worker.js; only tests that run on the sources give another. */
  readonly script?: URL;
};

const DUE_CHECK_MS = 15_000;
const SAVE_MS = 10_000;

/** How long a thread may take to end by itself: one read of the medium, usually. */
const STOP_MS = 5_000;

type Running = {
  readonly worker: Worker;
  readonly stop: ScrubWorkerData['stop'];
  pass: NonNullable<ScrubRecord['pass']>;
  readonly bytesExpected: number;
};

export class Scrubber {
  readonly #options: ScrubberOptions;
  readonly #nowS: () => number;
  readonly #openedAtS: number;
  readonly #timer: NodeJS.Timeout;
  #record: ScrubRecord;
  #wasUnclean: boolean;
  #running: Running | undefined;
  #damaged = 0;
  #failure: string | null = null;
  #savedMs = performance.now();
  #saving: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  private constructor(options: ScrubberOptions, record: ScrubRecord | undefined, nowS: () => number) {
    this.#options = options;
    this.#nowS = nowS;
    this.#openedAtS = nowS();
    this.#wasUnclean = record?.isClean === false;
    this.#record = { ...(record ?? newScrubRecord(nowS())), isClean: false };
    this.#timer = setInterval(() => this.#lookIfDue(), DUE_CHECK_MS);
    this.#timer.unref();
  }

  static async open(options: ScrubberOptions): Promise<Scrubber> {
    const nowS = options.nowS ?? (() => Math.floor(Date.now() / 1000));
    const scrubber = new Scrubber(options, await readScrubRecord(options.fileSystem, options.folder), nowS);
    scrubber.#save();
    return scrubber;
  }

  get status(): ScrubStatus {
    const running = this.#running;
    return {
      everyDays: this.#record.everyDays,
      running: running === undefined ? null : { ...passOf(running.pass), bytesExpected: running.bytesExpected },
      last: this.#record.last,
      damaged: this.#damaged,
      failure: this.#failure,
    };
  }

  setEveryDays(everyDays: number): void {
    this.#record = { ...this.#record, everyDays };
    this.#save();
  }

  /** Begins a whole pass that somebody asked for; one that runs slowly by itself becomes it and begins anew. */
  start(): void {
    if (this.#closed !== undefined || this.#running?.pass.isAsked === true) return;
    void this.#stopWorker();
    this.#begin({ isAsked: true, bytesPerSecond: SCRUB_ASKED_BYTES_PER_SECOND, before: null });
  }

  /** Stops the pass that runs. What is left of it is done slowly, by itself, some time later. */
  stop(): void {
    void this.#stopWorker();
    this.#save();
  }

  /** Stops what runs; where it was is remembered. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      clearInterval(this.#timer);
      await this.#stopWorker();
      this.#record = { ...this.#record, isClean: true };
      this.#save();
      await this.#saving;
    })();
    return this.#closed;
  }

  #lookIfDue(): void {
    if (this.#closed !== undefined || this.#running !== undefined) return;
    const { everyDays, last, pass, since } = this.#record;
    const isDue = isScrubDue({
      nowS: this.#nowS(),
      openedAtS: this.#openedAtS,
      everyDays,
      wasUnclean: this.#wasUnclean,
      isInterrupted: pass !== null && this.#failure === null,
      lastFinishedAtS: last?.finishedAt ?? since,
    });
    if (isDue) this.#begin({ isAsked: false, bytesPerSecond: SCRUB_SLOW_BYTES_PER_SECOND, before: pass });
  }

  #begin(options: {
    readonly isAsked: boolean;
    readonly bytesPerSecond: number;
    readonly before: ScrubRecord['pass'];
  }): void {
    const { cache, folder, script, secrets } = this.#options;
    const files = [...cache.slotFiles].sort((a, b) => a.blockBytes - b.blockBytes);
    const fresh = { startedAt: this.#nowS(), blocks: 0, bytes: 0, damaged: 0, at: { blockBytes: 0, slot: 0 } };
    const pass = { ...(options.before ?? fresh), isAsked: options.isAsked };
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const workerData: ScrubWorkerData = {
      stop,
      files: files.map(({ blockBytes, memory }) => ({ memory, path: `${folder}/${slotFileName(blockBytes)}` })),
      from: pass.at,
      bytesPerSecond: options.bytesPerSecond,
      secrets: secrets?.(),
    };
    this.#wasUnclean = false;
    this.#failure = null;
    const worker = new Worker(script ?? new URL('./scrub-worker.js', import.meta.url), { workerData, name: 'scrub' });
    const running: Running = {
      worker,
      stop,
      pass,
      bytesExpected: files.reduce((sum, file) => sum + file.usedBytes, 0),
    };
    this.#running = running;
    worker.on('message', (message: FromScrub) => {
      if (this.#running === running) this.#take(running, message);
    });
    worker.once('error', (error: unknown) => this.#fail(running, error));
    worker.once('exit', () => this.#fail(running, new Error('its thread has ended')));
  }

  #take(running: Running, message: FromScrub): void {
    const { pass } = running;
    switch (message.kind) {
      case 'bad':
        if (!this.#options.cache.dropSlot(message)) return; // it has other content by now
        this.#damaged += 1;
        running.pass = { ...pass, damaged: pass.damaged + 1 };
        return;
      case 'progress':
        running.pass = {
          ...pass,
          blocks: pass.blocks + message.slots,
          bytes: pass.bytes + message.bytes,
          at: message.at,
        };
        this.#record = { ...this.#record, pass: running.pass };
        if (performance.now() - this.#savedMs >= SAVE_MS) this.#save();
        return;
      case 'done':
        this.#running = undefined;
        this.#record = { ...this.#record, pass: null, last: { ...passOf(pass), finishedAt: this.#nowS() } };
        this.#save();
        return;
      default:
        message satisfies never;
    }
  }

  #fail(running: Running, error: unknown): void {
    if (this.#running !== running) return;
    this.#running = undefined;
    this.#failure = error instanceof Error ? error.message : String(error);
    // Not again at once: what was found stays found, and the next pass begins when it is due.
    this.#record = { ...this.#record, pass: null, since: this.#nowS() };
    this.#save();
  }

  /** A thread that is ended in the middle of a check would hold its slot for ever: it is asked first. */
  async #stopWorker(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined) return;
    const { worker, stop } = running;
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    Atomics.store(stop, 0, 1);
    await Promise.race([ended, delay(STOP_MS, undefined, { ref: false })]);
    await worker.terminate();
  }

  #save(): void {
    this.#savedMs = performance.now();
    const { fileSystem, folder } = this.#options;
    // A record that is behind costs a part of a pass, nothing else.
    this.#saving = this.#saving.then(() => writeScrubRecord(fileSystem, folder, this.#record).catch(() => undefined));
  }
}

const passOf = ({ startedAt, blocks, bytes, damaged, isAsked }: ScrubPass): ScrubPass => ({
  startedAt,
  blocks,
  bytes,
  damaged,
  isAsked,
});
