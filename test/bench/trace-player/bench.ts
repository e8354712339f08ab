/**
 * `npm run bench -- trace`: a boot of the Debian appliance to its login prompt is recorded once, on a filled cache, and replayed
 * through every emulated link on an empty one, with the guest's think time × 1, × 0.3 and × 0, with and without its trace, beside T* and nbdkit's
 * curl plugin under the same player. First the player itself is checked: its replay × 1 against real boots, cached and
 * cold on lan. (docs/PERFORMANCE.md)
 *
 * Parts for --only: `player` (the check of the player), the links by name, and `traced` (every link, the boot's trace fetched ahead, nothing beside it).
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { RequestRecordingFile } from '@collective/transceiver';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { BUILD } from '../../support/paths.js';
import {
  atMost,
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { APPLIANCE, buildImages, publish } from '../boot/appliance.js';
import { firstTouches } from './first-touches.js';
import { LINES, type PlayedLink } from './links.js';
import { readPublishedVersion } from './published-disks.js';
import { replayPlan, type ReplayPlan } from './replay-plan.js';
import { TraceRuns, type ColdRun, type PlayedColdRun } from './runs.js';
import { tStar, type FirstTouch } from './t-star.js';

const THINK_FACTORS = [1, 0.3, 0] as const;
const LINKS: readonly PlayedLink[] = ['lan', 'cable', 'lte', 'dsl'];
/** On dsl one run takes minutes: theirs is played with one think time. */
const SLOW_LINKS: ReadonlySet<PlayedLink> = new Set(['dsl']);
const VALIDATION_PAIRS = 5;
/** Of T*, and of the bytes that the boot touches. */
const TRACED_MAX = 1.1;
/**
 * What comes sooner after a reply was on its way already. Of 1,470 requests of a boot under TCG 3 to 6 came 64 to 128 us after a reply,
 * 5 to 42 sooner, all others later: two heaps.
 */
const REACTION_US = 100;

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

class TraceBench {
  readonly cases: BenchCase[] = [];
  readonly #runs: TraceRuns;
  readonly #options: BenchOptions;

  constructor(runs: TraceRuns, options: BenchOptions) {
    this.#runs = runs;
    this.#options = options;
  }

  /** How often the player is checked. */
  get #checks(): number {
    const { quick, only } = this.#options;
    if (only !== undefined && only !== 'player') return 0;
    return quick ? 1 : VALIDATION_PAIRS;
  }

  /** Records a boot, and sets the replay of it beside real ones, in interleaved pairs. */
  async recordAndCheck(): Promise<RequestRecordingFile> {
    const { log } = this.#options;
    await using ours = await this.#runs.filled(log);
    const { recording, seconds, bytes } = await this.#runs.record(ours);
    log(`recorded ${recording.requests.length} requests in a boot of ${seconds.toFixed(1)} s`);
    const kept = path.join(BUILD, 'bench');
    await mkdir(kept, { recursive: true });
    await writeFile(path.join(kept, `${APPLIANCE}.recording`), bytes);
    const replay = { ...whole(recording), thinkFactor: 1 };
    const boots: number[] = [];
    const replays: number[] = [];
    const waits: number[] = [];
    for (let pair = 0; pair < this.#checks; pair += 1) {
      const played = await this.#runs.replay(ours, replay);
      replays.push(played.totalMs / 1000);
      waits.push(played.readWaitMs / 1000);
      boots.push(await this.#runs.boot(ours));
      log(`cached: replay ${replays.at(-1)?.toFixed(2)} s, boot ${boots.at(-1)?.toFixed(2)} s`);
    }
    this.cases.push(informs('the boot that was recorded', seconds, 's', `${recording.requests.length} requests`));
    if (boots.length === 0) return recording;
    this.cases.push(
      informs(
        'cached: replay x 1 / that boot',
        median(replays) / seconds,
        'x',
        `replay ${interval(replays)} s, waited for reads ${interval(waits)} s; boots ${interval(boots)} s`,
      ),
      informs('cached: replay x 1 / median boot', median(replays) / median(boots), 'x'),
    );
    return recording;
  }

  /** Real cold boots on lan beside replays of the recording. */
  async checkCold(recording: RequestRecordingFile): Promise<void> {
    const replay = { ...whole(recording), thinkFactor: 1 };
    const boots: ColdRun[] = [];
    const replays: ColdRun[] = [];
    for (let pair = 0; pair < this.#checks; pair += 1) {
      boots.push(await this.#runs.bootCold('lan', { isTraced: false }));
      replays.push(await this.#runs.replayCold('lan', replay, { isTraced: false }));
      this.#options.log(`cold on lan: replay ${describeRun(replays.at(-1))}, boot ${describeRun(boots.at(-1))}`);
    }
    if (boots.length === 0) return;
    const secondsOf = (runs: readonly ColdRun[]): number[] => runs.map(({ seconds }) => seconds);
    this.cases.push(
      informs(
        'cold on lan: replay x 1 / median boot',
        median(secondsOf(replays)) / median(secondsOf(boots)),
        'x',
        `replay ${interval(secondsOf(replays))} s, boots ${interval(secondsOf(boots))} s; wire ` +
          `${megabytes(median(replays.map(({ downBytes }) => downBytes)))} and ${megabytes(median(boots.map(({ downBytes }) => downBytes)))} MB`,
      ),
    );
  }

  /** Every link and think time, beside T*. */
  async links(recording: RequestRecordingFile, touches: readonly FirstTouch[]): Promise<void> {
    const { quick, log, only } = this.#options;
    const touchedBytes = touches.reduce((sum, { chunkBytes }) => sum + chunkBytes, 0);
    this.cases.push(
      informs('chunks that the boot touches', touchedBytes / 1e6, 'MB', `${touches.length} chunks, compressed`),
    );
    const isTracedOnly = only === 'traced';
    const isWanted = (link: PlayedLink): boolean =>
      only === undefined ? !quick || link === 'lan' : isTracedOnly || link === only;
    for (const link of LINKS.filter(isWanted)) {
      for (const thinkFactor of THINK_FACTORS) {
        const best = tStar(touches, { line: LINES[link], endUs: recording.endUs, thinkFactor });
        const replay = { ...whole(recording), thinkFactor };
        const name = `${link}, think x ${thinkFactor}`;
        const traced = await this.#runs.replayCold(link, replay, { isTraced: true });
        log(`${name}: T* ${best.toFixed(2)} s, with its trace ${describeRun(traced)}`);
        // A guest that computes nothing has no bar: what is fetched before it starts is all of its overhead.
        const rate = (name: string): BenchCase =>
          thinkFactor === 0
            ? informs(name, traced.seconds / best, 'x', describeCold(traced, best))
            : atMost(name, traced.seconds / best, TRACED_MAX, { note: describeCold(traced, best) });
        this.cases.push(
          rate(`${name}: with its trace / T*`),
          atMost(`${name}: with its trace, bytes / chunks`, traced.downBytes / touchedBytes, TRACED_MAX),
        );
        if (isTracedOnly) continue;
        const ours = await this.#runs.replayCold(link, replay, { isTraced: false });
        log(`${name}: without ${describeRun(ours)}`);
        this.cases.push(informs(`${name}: ours / T*`, ours.seconds / best, 'x', describeCold(ours, best)));
        if (SLOW_LINKS.has(link) && thinkFactor !== 1) continue;
        const theirs = await this.#runs.replayTheirs(link, replay);
        log(`${name}: nbdkit ${describeRun(theirs)}`);
        this.cases.push(
          informs(
            `${name}: nbdkit curl+cache+cow / T*`,
            theirs.seconds / best,
            'x',
            `${theirs.seconds.toFixed(2)} s, ${megabytes(theirs.downBytes)} MB, ${theirs.play.repeated} reads failed`,
          ),
          informs(`${name}: ours / nbdkit`, ours.seconds / theirs.seconds, 'x'),
        );
      }
    }
  }
}

const whole = (recording: RequestRecordingFile): { readonly plan: ReplayPlan; readonly disks: readonly string[] } => ({
  plan: replayPlan(recording, { reactionUs: REACTION_US }),
  disks: recording.disks.map(({ name }) => name),
});

const describeCold = ({ seconds, prepareSeconds, play, downBytes }: PlayedColdRun, best: number): string => {
  const repeated = play.repeated === 0 ? '' : `, ${play.repeated} reads failed and were repeated`;
  return (
    `${seconds.toFixed(2)} s (${prepareSeconds.toFixed(2)} before the start), T* ${best.toFixed(2)} s, ` +
    `waited for reads ${(play.readWaitMs / 1000).toFixed(2)} s, ${megabytes(downBytes)} MB${repeated}`
  );
};

const describeRun = (run: ColdRun | undefined): string =>
  run === undefined ? '' : `${run.seconds.toFixed(2)} s, ${megabytes(run.downBytes)} MB`;

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const images = await buildImages(options.log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'trace-repository-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    options.log('publishing');
    await publish(repository, images);
    const version = await readPublishedVersion(repository.folder, APPLIANCE);
    const bench = new TraceBench(new TraceRuns(repository, images, version), options);
    const recording = await bench.recordAndCheck();
    await bench.checkCold(recording);
    await bench.links(recording, firstTouches(recording, version.disks));
    return { bench: 'trace', machine: describeMachine(), cases: bench.cases };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
