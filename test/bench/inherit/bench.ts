/**
 * `npm run bench -- inherit`: what a new version's boot gains by the trace that it inherits, against what it gains by its own. Debian is published, booted
 * and told of; then twice updated in a real guest and published by the product without a boot test, which looks for the files of a start: first packages of
 * which a boot reads much are unpacked anew (`libraries`), then another kernel comes in the place of the old one, which is purged (`kernel`). A boot of each
 * new version is recorded and replayed over lte at think x 1 into empty caches: with no trace, with its own, with the one that is inherited by digest and
 * position, and with the one that is inherited by file, too. Gain: seconds less than without a trace.
 *
 * Parts for --only: `libraries`, `kernel` (follows the version before it, whichever that is), `coverage` (nothing is replayed).
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { decodeBootTrace } from '@collective/shared';
import { runOrThrow } from '../../support/child.js';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import { BUILD } from '../../support/paths.js';
import { atLeast, describeMachine, informs, interval, median } from '../bench-result.js';
import type { BenchCase, BenchOptions, BenchResult } from '../bench-result.js';
import { APPLIANCE, buildImages, type ApplianceImages } from '../boot/appliance.js';
import { installPackages } from '../publish/install-package.js';
import { readPublishedVersion } from '../trace-player/published-disks.js';
import { replayPlan } from '../trace-player/replay-plan.js';
import { TraceRuns } from '../trace-player/runs.js';

const LINK = 'lte';
const ROUNDS = 3;
/** As in trace-player/bench.ts. */
const REACTION_US = 100;
/** Of the gain by its own trace. */
const GAIN_MIN = 0.9;
const OLD_KERNEL = 'linux-image-6.1.0-57-amd64';
const NEW_KERNEL = 'linux-image-6.1.0-56-amd64';

type Update = { readonly name: string; readonly packageNames: readonly string[]; readonly andThen?: string };
const UPDATES: readonly Update[] = [
  // The same version again: their files get new places, as those of a security update do.
  { name: 'libraries', packageNames: ['libc6', 'libsystemd-shared', 'systemd', 'udev'] },
  {
    name: 'kernel',
    packageNames: [NEW_KERNEL],
    andThen: [
      'echo linux-base linux-base/removing-running-kernel boolean false | debconf-set-selections',
      `DEBIAN_FRONTEND=noninteractive dpkg --purge --force-depends ${OLD_KERNEL}`,
      `ln -sf boot/vmlinuz-${NEW_KERNEL.slice('linux-image-'.length)} /vmlinuz`,
      `ln -sf boot/initrd.img-${NEW_KERNEL.slice('linux-image-'.length)} /initrd.img`,
      'fstrim / || true',
    ].join(' && '),
  },
];

/** Of the system disk, in the order of its touches; undefined: the version has none. */
type Known = { readonly none: undefined; readonly own: Buffer; readonly position: Buffer; readonly file: Buffer };
type Kind = keyof Known;
const KINDS = ['none', 'own', 'position', 'file'] as const satisfies readonly Kind[];

class InheritBench {
  readonly cases: BenchCase[] = [];
  readonly #options: BenchOptions;
  readonly #repository: Repository;
  readonly #publisher: Person;
  readonly #images: ApplianceImages;

  constructor(
    options: BenchOptions,
    parts: { readonly repository: Repository; readonly publisher: Person; readonly images: ApplianceImages },
  ) {
    this.#options = options;
    this.#repository = parts.repository;
    this.#publisher = parts.publisher;
    this.#images = parts.images;
  }

  /** Publishes the system disk as it is now, not booted; gives the runs of that version. */
  async publish(): Promise<TraceRuns> {
    const { system, user, recipe } = this.#images;
    const disks = ['--disk', `system=${system}`, '--disk', `user=${user}`];
    await this.#publisher.json(['publish', APPLIANCE, '--machine', recipe, ...disks, '--no-boot-test'], {
      timeoutMs: 1_800_000,
    });
    const version = await readPublishedVersion(this.#repository.folder, APPLIANCE);
    return new TraceRuns(this.#repository, this.#images, version);
  }

  /** Records a boot, after others on the same cache, and tells the repository what it touched. */
  async record(runs: TraceRuns, boots: number): ReturnType<TraceRuns['record']> {
    await using ours = await runs.filled(this.#options.log, boots);
    return await runs.record(ours);
  }

  async update(update: Update): Promise<void> {
    const { log } = this.#options;
    log(`${update.name}: ${update.packageNames.join(' ')} in a guest`);
    await installPackages({ ...this.#images, ...update });
    const runs = await this.publish();
    const told = await this.#tracesFolder();
    const file = await readFile(path.join(told, 'inherited'));
    await rm(path.join(told, 'inherited'));
    const position = await runs.knownTrace('system');
    const { recording, seconds } = await this.record(runs, 1);
    log(`${update.name}: recorded a boot of ${seconds.toFixed(1)} s`);
    const own = await runs.knownTrace('system');
    const known: Known = { none: undefined, own, position, file: await this.#withLengths(runs, file) };
    for (const kind of ['position', 'file'] as const)
      this.cases.push(...coverage(`${update.name}, ${kind}`, known, kind));
    if (this.#options.only === 'coverage') return;
    const replay = {
      plan: replayPlan(recording, { reactionUs: REACTION_US }),
      disks: recording.disks.map(({ name }) => name),
      thinkFactor: 1,
    };
    const times: Record<Kind, number[]> = { none: [], own: [], position: [], file: [] };
    for (let round = 0; round < (this.#options.quick ? 1 : ROUNDS); round += 1)
      for (const kind of KINDS) {
        const trace = known[kind];
        if (trace !== undefined) await this.#tell(trace);
        const run = await runs.replayCold(LINK, replay, { isTraced: trace !== undefined });
        times[kind].push(run.seconds);
        log(`${update.name}, ${kind}: ${run.seconds.toFixed(2)} s, ${(run.downBytes / 1e6).toFixed(1)} MB`);
      }
    await this.#tell(own);
    this.#judge(update.name, times);
  }

  #judge(name: string, times: Readonly<Record<Kind, readonly number[]>>): void {
    const gain = (kind: Kind): number => median(times.none) - median(times[kind]);
    this.cases.push(
      informs(`${name}: without a trace`, median(times.none), 's', interval(times.none)),
      informs(`${name}: gain by its own trace`, gain('own'), 's', interval(times.own)),
      informs(
        `${name}: gain by digest and position / by its own`,
        gain('position') / gain('own'),
        'x',
        `${gain('position').toFixed(2)} s; ${interval(times.position)} s`,
      ),
      atLeast(`${name}: gain by file, too / by its own`, gain('file') / gain('own'), GAIN_MIN, {
        note: `${gain('file').toFixed(2)} s; ${interval(times.file)} s`,
      }),
    );
  }

  /** From now on this alone is what the repository knows of the newest version. */
  async #tell(trace: Buffer): Promise<void> {
    const folder = await this.#tracesFolder();
    for (const name of await readdir(folder)) await rm(path.join(folder, name));
    await writeFile(path.join(folder, 'inherited'), trace);
  }

  /** As the repository gives it away. */
  async #withLengths(runs: TraceRuns, trace: Buffer): Promise<Buffer> {
    await this.#tell(trace);
    return await runs.knownTrace('system');
  }

  async #tracesFolder(): Promise<string> {
    const own = path.join(this.#repository.folder, 'appliances', APPLIANCE);
    const latest = (await readFile(path.join(own, 'latest'), 'utf8')).trim();
    const folder = path.join(own, latest, 'traces', 'system');
    await mkdir(folder, { recursive: true });
    return folder;
  }
}

/** How much of what a boot touches the inherited trace names, and how much it names beside that, in compressed bytes. */
const coverage = (name: string, known: Known, kind: 'position' | 'file'): BenchCase[] => {
  const own = decodeBootTrace(known.own).touches;
  const inherited = decodeBootTrace(known[kind]).touches;
  const bytesOf = (touches: typeof own): number => touches.reduce((sum, { chunkBytes }) => sum + chunkBytes, 0);
  const [wanted, named] = [own, inherited].map((touches) => new Set(touches.map(({ blockIndex }) => blockIndex)));
  const hits = own.filter(({ blockIndex }) => named?.has(blockIndex));
  const needless = inherited.filter(({ blockIndex }) => wanted?.has(blockIndex) !== true);
  const [all, needlessBytes] = [bytesOf(own), bytesOf(needless)];
  return [
    informs(
      `${name}: named of what the boot touches`,
      bytesOf(hits) / all,
      'x',
      `${(bytesOf(hits) / 1e6).toFixed(2)} of ${(all / 1e6).toFixed(2)} MB, ${hits.length} of ${own.length} blocks`,
    ),
    informs(
      `${name}: named needlessly / what the boot touches`,
      needlessBytes / all,
      'x',
      `${(needlessBytes / 1e6).toFixed(2)} MB, ${needless.length} blocks`,
    ),
  ];
};

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const built = await buildImages(options.log);
  await mkdir(path.join(BUILD, 'bench'), { recursive: true });
  const folder = await mkdtemp(path.join(BUILD, 'bench', 'inherit-'));
  try {
    const images = { ...built, system: path.join(folder, 'system.raw') };
    await runOrThrow('cp', ['--sparse=always', '--reflink=auto', built.system, images.system]);
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    await using publisher = await Person.temporary();
    await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher', PASSWORD);
    await repository.allow('publisher', APPLIANCE);
    const bench = new InheritBench(options, { repository, publisher, images });
    options.log('publishing and booting the version before');
    await bench.record(await bench.publish(), 0);
    const { only } = options;
    for (const update of UPDATES)
      if (only === undefined || only === 'coverage' || only === update.name) await bench.update(update);
    return { bench: 'inherit', machine: describeMachine(), cases: bench.cases };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
