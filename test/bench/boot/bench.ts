/**
 * `npm run bench -- boot`: the Debian appliance to its login prompt. Local raw file with a qcow2 overlay, cached, and cold on
 * demand through the emulated link, beside nbdkit's curl plugin and QEMU's http driver on the same raw file; ratios of
 * interleaved pairs. Ours is timed from the command to the prompt, the others from the start of QEMU.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Repository, repositoryCommand } from '../../support/collective.js';
import type { LinkProfile } from '../../support/link.js';
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
import { type ApplianceImages, buildImages, publish } from './appliance.js';
import { type BootFigures, bootLocal, bootNbdkit, bootQemuHttp } from './competitors.js';
import { bootCold, CachedHome, type OurBoot } from './ours.js';

const ROUNDS = 5;
/** The competitors take longer than all the rest of a round together: they are in every second one. */
const isCompetitorRound = (round: number): boolean => round % 2 === 0;
const PROFILES = ['lan', 'cable'] as const satisfies readonly LinkProfile[];
type Profile = (typeof PROFILES)[number];

const COMPETITORS = [
  { name: 'nbdkit curl+cache+cow', boot: bootNbdkit },
  { name: "QEMU's http driver", boot: bootQemuHttp },
] as const;

/** A boot of somebody else's, with the boots of the same round that it is compared with. */
type Pair = { readonly theirs: BootFigures; readonly ours: OurBoot; readonly local: number };

class BootRounds {
  readonly local: number[] = [];
  readonly cached: OurBoot[] = [];
  readonly cold: Readonly<Record<Profile, OurBoot[]>> = { lan: [], cable: [] };
  readonly pairs: Readonly<Record<Profile, Map<string, Pair[]>>> = { lan: new Map(), cable: new Map() };
  readonly #repository: Repository;
  readonly #images: ApplianceImages;
  readonly #home: CachedHome;
  readonly #log: BenchOptions['log'];

  constructor(repository: Repository, images: ApplianceImages, home: CachedHome, log: BenchOptions['log']) {
    this.#repository = repository;
    this.#images = images;
    this.#home = home;
    this.#log = log;
  }

  async round(round: number): Promise<void> {
    const local = (await bootLocal(this.#images)).seconds;
    this.local.push(local);
    const cached = await this.#home.boot();
    this.cached.push(cached);
    this.#log(`round ${round + 1}: local ${local.toFixed(1)} s, cached ${cached.seconds.toFixed(1)} s`);
    for (const profile of PROFILES) await this.#cold(round, profile, local);
  }

  /** Ours and, in some rounds, theirs right beside it; who comes first changes from round to round. */
  async #cold(round: number, profile: Profile, local: number): Promise<void> {
    const theirs = new Map<string, BootFigures>();
    const bootTheirs = async (): Promise<void> => {
      for (const { name, boot } of isCompetitorRound(round) ? COMPETITORS : []) {
        theirs.set(name, await boot(this.#images, profile));
        this.#log(`round ${round + 1}: ${name} on ${profile} ${theirs.get(name)?.seconds.toFixed(1)} s`);
      }
    };
    const theirsFirst = round % 4 === 2;
    if (theirsFirst) await bootTheirs();
    const ours = await bootCold(this.#repository, profile, `cold-${profile}-${round}`);
    this.#log(`round ${round + 1}: cold on ${profile} ${ours.seconds.toFixed(1)} s`);
    if (!theirsFirst) await bootTheirs();
    this.cold[profile].push(ours);
    for (const [name, figures] of theirs) {
      const pairs = this.pairs[profile].get(name) ?? [];
      this.pairs[profile].set(name, [...pairs, { theirs: figures, ours, local }]);
    }
  }
}

const secondsOf = (boots: readonly { readonly seconds: number }[]): number[] => boots.map(({ seconds }) => seconds);

const casesOf = ({ local, cached, cold, pairs }: BootRounds): BenchCase[] => {
  const ratios = (boots: readonly OurBoot[]): number[] =>
    boots.map(({ seconds }, at) => seconds / (local[at] ?? Number.NaN));
  const cases = [
    informs('local raw file, qcow2 overlay', median(local), 's', interval(local, 1)),
    atMost('cached / local', median(ratios(cached)), 1.05, {
      note: `${interval(ratios(cached))}; ${interval(secondsOf(cached), 1)} s`,
    }),
    atMost('cached: guest waited for its disks', median(cached.map((boot) => boot.diskWaitSeconds)), 0.3, {
      unit: 's',
      note: interval(cached.map((boot) => boot.diskWaitSeconds)),
    }),
  ];
  for (const profile of PROFILES) {
    const boots = cold[profile];
    const note = `${interval(ratios(boots))}; ${interval(secondsOf(boots), 1)} s`;
    const ratio = median(ratios(boots));
    cases.push(
      profile === 'lan'
        ? atMost('cold on lan / local', ratio, 1.35, { note })
        : informs(`cold on ${profile} / local`, ratio, 'x', note),
      informs(
        `cold on ${profile}: bytes on the wire, all included`,
        median(boots.map((boot) => boot.downBytes)) / 1e6,
        'MB',
        `chunks alone ${(median(boots.map((boot) => boot.fetchedBytes)) / 1e6).toFixed(1)} MB`,
      ),
      informs(`cold on ${profile}: guest waited for its disks`, median(boots.map((boot) => boot.diskWaitSeconds)), 's'),
    );
  }
  for (const profile of PROFILES)
    for (const [name, each] of pairs[profile]) cases.push(...pairCases(profile, name, each));
  return cases;
};

const pairCases = (profile: Profile, name: string, pairs: readonly Pair[]): BenchCase[] => {
  const toLocal = pairs.map(({ theirs, local }) => theirs.seconds / local);
  const toOurs = pairs.map(({ theirs, ours }) => theirs.seconds / ours.seconds);
  const seconds = secondsOf(pairs.map(({ theirs }) => theirs));
  return [
    informs(`${name} on ${profile} / local`, median(toLocal), 'x', `${interval(toLocal)}; ${interval(seconds, 1)} s`),
    informs(`${name} on ${profile} / ours`, median(toOurs), 'x', interval(toOurs)),
    informs(
      `${name} on ${profile}: bytes on the wire`,
      median(pairs.map(({ theirs }) => theirs.downBytes)) / 1e6,
      'MB',
    ),
  ];
};

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const images = await buildImages(log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-repository-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    log('publishing');
    await publish(repository, images);
    log('filling a cache');
    await using home = await CachedHome.open(repository);
    const rounds = new BootRounds(repository, images, home, log);
    for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) await rounds.round(round);
    return { bench: 'boot', machine: describeMachine(), cases: casesOf(rounds) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
