/** What the parts of the boot benchmark need, each made when it is first asked for: a served repository, filled caches, accounts. */
import { randomBytes } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import path from 'node:path';
import { Repository } from '../../support/collective.js';
import type { OurPath } from '../trace-player/our-path.js';
import { readPublishedVersion, type PublishedVersion } from '../trace-player/published-disks.js';
import { TraceRuns } from '../trace-player/runs.js';
import type { Line } from '../trace-player/t-star.js';
import { APPLIANCE, type ApplianceImages } from './appliance.js';
import { bestBoot, type BestBoot } from './best-boot.js';
import { CachedHome } from './ours.js';
import { tracedRepository } from './traced-repository.js';

export class BootRig implements AsyncDisposable {
  readonly images: ApplianceImages;
  readonly folder: string;
  readonly repository: Repository;
  readonly version: PublishedVersion;
  readonly log: (line: string) => void;
  readonly #runs: TraceRuns;
  #filled: OurPath | undefined;
  #cached: CachedHome | undefined;

  private constructor(of: {
    readonly images: ApplianceImages;
    readonly folder: string;
    readonly repository: Repository;
    readonly version: PublishedVersion;
    readonly log: (line: string) => void;
  }) {
    this.images = of.images;
    this.folder = of.folder;
    this.repository = of.repository;
    this.version = of.version;
    this.log = of.log;
    this.#runs = new TraceRuns(of.repository, of.images, of.version);
  }

  /** Everything lies in `folder`. */
  static async open(images: ApplianceImages, folder: string, log: (line: string) => void): Promise<BootRig> {
    const own = await tracedRepository(images, folder, log);
    const repository = await Repository.serve(own, 0, ['--collect-every', '0s']);
    return new BootRig({ images, folder, repository, version: await readPublishedVersion(own, APPLIANCE), log });
  }

  newAccount(): string {
    return `boot-${randomBytes(6).toString('hex')}`;
  }

  get cached(): CachedHome {
    if (this.#cached === undefined) throw new Error('no cache has been filled');
    return this.#cached;
  }

  async fillCachedHome(): Promise<void> {
    if (this.#cached !== undefined) return;
    this.log('filling the cache of a home');
    this.#cached = await CachedHome.open(this.repository, this.newAccount());
  }

  /** A boot recorded now, and the best over that line. */
  async best(line: Line): Promise<BestBoot> {
    this.#filled ??= await this.#runs.filled(this.log, 1);
    return await bestBoot({ runs: this.#runs, filled: this.#filled, version: this.version }, line);
  }

  /** Another repository with the same in it. */
  async copyOfRepository(): Promise<string> {
    const copy = await mkdtemp(path.join(this.folder, 'copy-'));
    await tracedRepository(this.images, copy, this.log);
    return path.join(copy, 'r');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#filled?.[Symbol.asyncDispose]();
    await this.#cached?.[Symbol.asyncDispose]();
    await this.repository[Symbol.asyncDispose]();
  }
}
