/**
 * `npm run bench -- figure-2`: how long workloads take on a local file, on our path with a full and an empty cache, and on a network disk, over the links
 * `lan` and `dsl`, beside the local file in the same run. With --only those whose name (`tiny, dsl, full cache`) contains it are measured, and
 * take their place among what docs/results has of the others.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { ROOT } from '../../support/paths.js';
import {
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { buildImages, type ApplianceImages } from '../boot/appliance.js';
import { LOGIN_PROMPT } from '../boot/qemu-boot.js';
import { barsSvg } from './bars.js';
import { PublishedAppliance, overLocal, overNetworkDisk, type OnNodes, type Ran } from './started-disks.js';
import { onDebian, onTiny, TINY_PROMPT, WORKLOADS, type Workload, type WorkloadSeconds } from './workloads.js';
import { workstation } from './updates.js';

const ROUNDS = 1;
const LINKS = ['lan', 'dsl'] as const;
const GROUNDS = [
  'full cache',
  'full cache, no trace',
  'empty cache',
  'network disk',
  'first start, its trace',
] as const;
type GroundName = (typeof GROUNDS)[number];
const IS_TRACED: ReadonlySet<string> = new Set<GroundName>(['full cache', 'first start, its trace']);

export type Cell = {
  readonly guest: 'tiny' | 'debian';
  readonly workload: Workload;
  readonly link: (typeof LINKS)[number];
  readonly ground: GroundName;
  /** One a round. */
  readonly seconds: readonly number[];
  readonly localSeconds: readonly number[];
  /** In the whole run of the guest. */
  readonly downBytes: readonly number[];
};

const keyOf = ({ workload, link, ground }: Cell): string => `${workload}, ${link}, ${ground}`;
const ratiosOf = ({ seconds, localSeconds }: Cell): number[] =>
  seconds.map((each, at) => each / (localSeconds[at] ?? Number.NaN));

class Guest {
  readonly #name: Cell['guest'];
  readonly #work: OnNodes<WorkloadSeconds>;
  readonly #appliance: PublishedAppliance;
  readonly #options: BenchOptions;
  readonly cells = new Map<string, Cell>();

  constructor(
    name: Cell['guest'],
    appliance: PublishedAppliance,
    work: OnNodes<WorkloadSeconds>,
    options: BenchOptions,
  ) {
    this.#name = name;
    this.#work = work;
    this.#appliance = appliance;
    this.#options = options;
  }

  isWanted(link: string, ground: string): boolean {
    return `${this.#name}, ${link}, ${ground}`.includes(this.#options.only ?? '');
  }

  async round(): Promise<void> {
    const { log } = this.#options;
    const { images } = this.#appliance;
    const local = (await overLocal(images, this.#work)).result;
    log(`${this.#name}, local: ${JSON.stringify(local)}`);
    const needsFull = LINKS.some((link) =>
      GROUNDS.some((ground) => /full/.test(ground) && this.isWanted(link, ground)),
    );
    await using filled = needsFull ? await this.#appliance.filled() : undefined;
    for (const link of LINKS)
      for (const ground of GROUNDS) {
        if (!this.isWanted(link, ground)) continue;
        const ran = await this.#on(link, ground, filled === undefined ? {} : { ours: filled });
        log(
          `${this.#name}, ${link}, ${ground}: ${JSON.stringify(ran.result)}, before ${ran.prepareSeconds.toFixed(1)} s, ${(ran.downBytes / 1e6).toFixed(1)} MB`,
        );
        this.#keep(link, ground, ran, local);
      }
  }

  #on(
    link: Cell['link'],
    ground: GroundName,
    full: { readonly ours?: NonNullable<Parameters<PublishedAppliance['overOurs']>[1]['ours']> },
  ): Promise<Ran<WorkloadSeconds>> {
    switch (ground) {
      case 'full cache':
        return this.#appliance.overOurs(link, { isTraced: true, ...full }, this.#work);
      case 'full cache, no trace':
        return this.#appliance.overOurs(link, { isTraced: false, ...full }, this.#work);
      case 'first start, its trace':
        return this.#appliance.overOurs(link, { isTraced: true }, this.#work);
      case 'empty cache':
        return this.#appliance.overOurs(link, { isTraced: false }, this.#work);
      case 'network disk':
        return overNetworkDisk(this.#appliance.images, link, this.#work);
      default:
        return ground satisfies never;
    }
  }

  #keep(link: Cell['link'], ground: GroundName, ran: Ran<WorkloadSeconds>, local: WorkloadSeconds): void {
    for (const workload of WORKLOADS) {
      const seconds = ran.result[workload];
      const localSeconds = local[workload];
      if (seconds === undefined || localSeconds === undefined) continue;
      const fresh: Cell = {
        ...{ guest: this.#name, workload, link, ground },
        // A compilation begins long after the start: what was fetched before that is the boot's.
        seconds: [seconds + (workload === 'compilation in Debian' ? 0 : ran.prepareSeconds)],
        localSeconds: [localSeconds],
        downBytes: [ran.downBytes],
      };
      const before = this.cells.get(keyOf(fresh));
      this.cells.set(keyOf(fresh), {
        ...fresh,
        seconds: [...(before?.seconds ?? []), ...fresh.seconds],
        localSeconds: [...(before?.localSeconds ?? []), ...fresh.localSeconds],
        downBytes: [...(before?.downBytes ?? []), ...fresh.downBytes],
      });
    }
  }
}

/** What an earlier run left of the cells: our own file. */
const earlierCells = async ({ only, jsonFile }: BenchOptions): Promise<Cell[]> => {
  if (only === undefined) return [];
  const file = jsonFile ?? path.join(ROOT, 'docs/results/figure-2.json');
  const text = await readFile(file, 'utf8').catch(() => undefined);
  return text === undefined ? [] : [...(JSON.parse(text) as { readonly data: readonly Cell[] }).data];
};

const inOrder = (cells: readonly Cell[]): Cell[] =>
  WORKLOADS.flatMap((workload) =>
    LINKS.flatMap((link) =>
      GROUNDS.flatMap((ground) =>
        cells.filter((cell) => cell.workload === workload && cell.link === link && cell.ground === ground),
      ),
    ),
  );

const casesOf = (cells: readonly Cell[]): BenchCase[] =>
  cells.map((cell) =>
    informs(
      `${keyOf(cell)} / local`,
      median(ratiosOf(cell)),
      'x',
      `${interval(cell.seconds, 1)} s, local ${interval(cell.localSeconds, 1)} s; ${(median(cell.downBytes) / 1e6).toFixed(1)} MB in the guest's whole run`,
    ),
  );

const svgOf = (cells: readonly Cell[]): string =>
  barsSvg({
    title: 'Runtime of workloads beside a local file',
    unit: 'x local',
    series: GROUNDS,
    groups: WORKLOADS.flatMap((workload) =>
      LINKS.map((link) => ({
        name: `${workload}, ${link}`,
        values: GROUNDS.map((ground) => {
          const cell = cells.find((each) => each.workload === workload && each.link === link && each.ground === ground);
          return cell === undefined ? undefined : median(ratiosOf(cell));
        }),
      })),
    ),
  });

const measure = async (
  name: Cell['guest'],
  images: ApplianceImages,
  options: BenchOptions,
): Promise<readonly Cell[]> => {
  const isTiny = name === 'tiny';
  await using appliance = await PublishedAppliance.open(isTiny ? 'tiny' : 'workstation', images);
  const guest = new Guest(name, appliance, isTiny ? onTiny(images) : onDebian(images), options);
  const wanted = GROUNDS.filter((ground) => LINKS.some((link) => guest.isWanted(link, ground)));
  if (wanted.length === 0) return [];
  if (wanted.some((ground) => IS_TRACED.has(ground))) await appliance.tellTrace(isTiny ? TINY_PROMPT : LOGIN_PROMPT);
  for (let round = 0; round < ROUNDS; round += 1) await guest.round();
  return [...guest.cells.values()];
};

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const earlier = await earlierCells(options);
  const tiny = await measure('tiny', await buildImages(options.log, 'tiny'), options);
  const debian = options.quick ? [] : await measure('debian', await workstation(options.log), options);
  const measured = new Map([...earlier, ...tiny, ...debian].map((cell) => [keyOf(cell), cell]));
  const cells = inOrder([...measured.values()]);
  return {
    bench: 'figure-2',
    machine: describeMachine(),
    cases: casesOf(cells),
    rounds: ROUNDS,
    data: cells,
    svg: svgOf(cells),
  };
};
