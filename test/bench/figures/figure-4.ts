/**
 * `npm run bench -- figure-4`: twenty updates of the Debian appliance published one after the other (updates.ts), and a machine that starts each
 * of them to its login prompt: the size of the repository with all versions, that of the active one, and of the machine's cache. Sizes do not
 * depend on how busy the machine is.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ControlClient } from '@collective/transceiver';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import { describeMachine, informs, type BenchCase, type BenchOptions, type BenchResult } from '../bench-result.js';
import { APPLIANCE } from '../boot/appliance.js';
import { COLOURS, frame, legend, polyline, svgOfPanels } from '../svg.js';
import { readPublishedVersion } from '../trace-player/published-disks.js';
import { folderBytes, versionSize } from './repository-size.js';
import { UPDATES, updatedDisks } from './updates.js';

const STEP_MS = 900_000;
const QUICK_UPDATES = 3;
const MB = 1e6;

type VersionRow = {
  readonly version: number;
  readonly update: string;
  /** Chunks of all versions, with maps and manifests, bytes. */
  readonly totalBytes: number;
  /** Chunks of this version alone. */
  readonly activeBytes: number;
  /** The blocks of this version that are not zero, as the guest sees them. */
  readonly activeUsedBytes: number;
  /** The cache of the machine that has started every version up to this one; its blocks are not compressed. */
  readonly cacheBytes: number;
  /** What it fetched since the version before. */
  readonly fetchedBytes: number;
};

const publishSystem = async (publisher: Person, disk: string, recipe: string | undefined): Promise<void> => {
  const machine = recipe === undefined ? [] : ['--machine', recipe];
  await publisher.json(['publish', APPLIANCE, ...machine, '--disk', `system=${disk}`, '--no-boot-test'], {
    timeoutMs: STEP_MS,
  });
};

/** Starts the newest version to its prompt and switches it off; what its cache holds then, and what has been fetched in all. */
const startOnce = async (person: Person): Promise<{ readonly cacheBytes: number; readonly fetchedBytes: number }> => {
  await person.json(['start', APPLIANCE, '--wait-for', 'login'], { timeoutMs: STEP_MS });
  const client = await ControlClient.connect(path.join(person.home, 'run/blockd.sock'), { waitMs: 30_000 });
  const { cache, fetch } = await client.request('status', {});
  client.close();
  await person.json(['stop', APPLIANCE, '--force']);
  return { cacheBytes: cache.usedBytes, fetchedBytes: fetch.link.bytes };
};

const megabytes = (bytes: number): string => (bytes / MB).toFixed(1);

const casesOf = (rows: readonly VersionRow[]): BenchCase[] => {
  const last = rows.at(-1);
  const first = rows[0];
  if (last === undefined || first === undefined) throw new Error('no version');
  return [
    informs('versions', rows.length, ''),
    informs('total size', last.totalBytes / MB, 'MB', `of the first version alone ${megabytes(first.totalBytes)} MB`),
    informs('active size', last.activeBytes / MB, 'MB', `${megabytes(last.activeUsedBytes)} MB as the guest sees it`),
    informs('total / active', last.totalBytes / last.activeBytes, 'x'),
    informs(
      'cache size of a machine that started each',
      last.cacheBytes / MB,
      'MB',
      `not compressed; after the first version ${megabytes(first.cacheBytes)} MB; fetched in all ${megabytes(rows.reduce((sum, { fetchedBytes }) => sum + fetchedBytes, 0))} MB`,
    ),
    ...rows.map((row) =>
      informs(
        `version ${row.version}, ${row.update}: added to the repository`,
        (row.totalBytes - (rows[row.version - 2]?.totalBytes ?? 0)) / MB,
        'MB',
        `total ${megabytes(row.totalBytes)}, active ${megabytes(row.activeBytes)}, cache ${megabytes(row.cacheBytes)} MB`,
      ),
    ),
  ];
};

const svgOf = (rows: readonly VersionRow[]): string => {
  const most = Math.max(...rows.flatMap(({ totalBytes, cacheBytes }) => [totalBytes, cacheBytes])) / MB;
  const lines = [
    ['all versions', (row: VersionRow) => row.totalBytes],
    ['active version', (row: VersionRow) => row.activeBytes],
    ['cache of a machine that starts each (not compressed)', (row: VersionRow) => row.cacheBytes],
  ] as const;
  const drawn = lines.map(([name, of], at) => {
    const colour = COLOURS[at % COLOURS.length] ?? 'black';
    return (
      polyline(
        rows.map((row) => [(row.version - 1) / Math.max(1, rows.length - 1), of(row) / MB / most] as const),
        colour,
      ) + legend(name, colour, at)
    );
  });
  const title = 'Sizes of an appliance over its updates';
  return svgOfPanels([frame(title, { most: rows.length - 1, unit: 'updates' }, { most, unit: 'MB' }) + drawn.join('')]);
};

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const { images, disks } = await updatedDisks(log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'figure-4-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    await using publisher = await Person.temporary();
    await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher', PASSWORD);
    await repository.allow('publisher', APPLIANCE);
    await using person = await Person.temporary();
    const rows: VersionRow[] = [];
    let fetchedBefore = 0;
    for (const [at, disk] of disks.slice(0, 1 + (quick ? QUICK_UPDATES : UPDATES.length)).entries()) {
      await publishSystem(publisher, disk, at === 0 ? images.recipe : undefined);
      if (at === 0) {
        await person.login(await repository.invite('person', 'user', { appliances: [APPLIANCE] }), 'person', PASSWORD);
      }
      const started = await startOnce(person);
      const version = await readPublishedVersion(repository.folder, APPLIANCE);
      const { chunkBytes, usedBytes } = versionSize(version);
      const chunks = await folderBytes(path.join(repository.folder, 'chunks'));
      const described = await folderBytes(path.join(repository.folder, 'appliances'));
      rows.push({
        version: version.version,
        update: at === 0 ? 'as built' : (UPDATES[at - 1]?.name ?? ''),
        totalBytes: chunks + described,
        activeBytes: chunkBytes,
        activeUsedBytes: usedBytes,
        cacheBytes: started.cacheBytes,
        fetchedBytes: started.fetchedBytes - fetchedBefore,
      });
      fetchedBefore = started.fetchedBytes;
      log(`version ${version.version}: ${JSON.stringify(rows.at(-1))}`);
    }
    return {
      bench: 'figure-4',
      machine: describeMachine(),
      cases: casesOf(rows),
      rounds: 1,
      data: rows,
      svg: svgOf(rows),
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
