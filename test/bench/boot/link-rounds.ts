/**
 * Rounds of boots over one link, all of them in each round, whose order turns: from a local file, on a filled cache, recorded for T*, cold with the trace and
 * without, and what a person would use instead.
 */
import { atMost, informs, interval, median, type BenchCase } from '../bench-result.js';
import { LINES, type PlayedLink } from '../trace-player/links.js';
import type { BestBoot } from './best-boot.js';
import { bootLocal, bootNbdkit, bootQemuHttp, type BootFigures } from './competitors.js';
import { bootCold, type OurBoot } from './ours.js';
import type { BootRig } from './rig.js';

/** How often; on the slow ones a boot takes minutes. */
export const ROUNDS: Readonly<Record<PlayedLink, number>> = { lan: 2, cable: 2, lte: 1, dsl: 1 };
export const TRACED_MAX = 1.1;
const LAN_TO_LOCAL_MAX = 1.12;
const COLD_LAN_TO_LOCAL_MAX = 1.35;
const CACHED_TO_LOCAL_MAX = 1.05;
const CACHED_WAIT_SECONDS_MAX = 0.3;

export type Round = {
  readonly local: BootFigures;
  readonly best: BestBoot;
  /** On lan. */
  readonly cached?: OurBoot;
  readonly traced: OurBoot;
  readonly cold: OurBoot;
  readonly nbdkit: BootFigures;
  /** Not on dsl, where it takes longer than all the others together. */
  readonly http?: BootFigures;
};

type Steps = { readonly [K in keyof Round]: () => Promise<NonNullable<Round[K]>> };

export const playRound = async (rig: BootRig, link: PlayedLink, round: number): Promise<Round> => {
  const { images, log } = rig;
  const cold = async (isTraced: boolean): Promise<OurBoot> =>
    bootCold(rig.repository, link, { account: rig.newAccount(), isTraced });
  const steps: Steps = {
    local: () => bootLocal(images),
    best: () => rig.best(LINES[link]),
    ...(link === 'lan' ? { cached: () => rig.cached.boot() } : {}),
    traced: () => cold(true),
    cold: () => cold(false),
    nbdkit: () => bootNbdkit(images, link),
    ...(link === 'dsl' ? {} : { http: () => bootQemuHttp(images, link) }),
  };
  const done = new Map<string, Round[keyof Round]>();
  const order: [string, () => Promise<NonNullable<Round[keyof Round]>>][] = Object.entries(steps);
  for (const [name, step] of round % 2 === 0 ? order : order.reverse()) {
    const boot = await step();
    done.set(name, boot);
    const wire = 'downBytes' in boot ? `, ${(boot.downBytes / 1e6).toFixed(2)} MB` : '';
    log(`${link}, round ${round + 1}: ${name} ${boot.seconds.toFixed(2)} s${wire}`);
  }
  return Object.fromEntries(done) as Round;
};

const secondsOf = (boots: readonly { readonly seconds: number }[]): number[] => boots.map(({ seconds }) => seconds);

export const linkCases = (link: PlayedLink, rounds: readonly Round[]): BenchCase[] => {
  const toLocal = rounds.map(({ traced, local }) => traced.seconds / local.seconds);
  const tracedBoots = rounds.map(({ traced }) => traced);
  const local = secondsOf(rounds.map((round) => round.local));
  const coldToLocal = rounds.map((round) => round.cold.seconds / round.local.seconds);
  const coldName = `${link}: cold without a trace / local`;
  const coldNote = `${interval(coldToLocal)}; ${interval(secondsOf(rounds.map(({ cold }) => cold)), 1)} s`;
  return [
    informs(`${link}: local raw file, qcow2 overlay`, median(local), 's', interval(local, 1)),
    ...cachedCases(rounds),
    ...tracedCases(link, rounds),
    link === 'lan'
      ? atMost(`${link}: cold with trace / local`, median(toLocal), LAN_TO_LOCAL_MAX, { note: interval(toLocal) })
      : informs(`${link}: cold with trace / local`, median(toLocal), 'x', interval(toLocal)),
    ...spentCases(`${link}: cold with trace`, tracedBoots, LINES[link].bitsPerSecond),
    link === 'lan'
      ? atMost(coldName, median(coldToLocal), COLD_LAN_TO_LOCAL_MAX, { note: coldNote })
      : informs(coldName, median(coldToLocal), 'x', coldNote),
    informs(
      `${link}: cold without a trace: bytes on the wire`,
      median(rounds.map(({ cold }) => cold.downBytes)) / 1e6,
      'MB',
    ),
    ...competitorCases(link, rounds),
  ];
};

/** T* and bytes, also of the line of packets. */
export const tracedCases = (
  name: string,
  rounds: readonly { readonly traced: OurBoot; readonly best: BestBoot }[],
): BenchCase[] => {
  const toBest = rounds.map(({ traced, best }) => traced.seconds / best.tStarSeconds);
  const toTouched = rounds.map(({ traced, best }) => traced.downBytes / best.touchedBytes);
  const toTold = rounds.map(({ traced, best }) => traced.downBytes / best.toldBytes);
  const told = median(rounds.map(({ best }) => best.toldBytes)) / 1e6;
  const traced = secondsOf(rounds.map((round) => round.traced));
  const best = rounds.map(({ best: { tStarSeconds } }) => tStarSeconds);
  return [
    atMost(`${name}: cold with trace / T*`, median(toBest), TRACED_MAX, {
      note: `${interval(toBest)}; ${interval(traced)} s, T* ${interval(best)} s, the recorded boots ${interval(secondsOf(rounds.map((round) => round.best)))} s`,
    }),
    atMost(`${name}: cold with trace: bytes on the wire / chunks touched`, median(toTouched), TRACED_MAX, {
      note: `${interval(toTouched, 3)}; ${(median(rounds.map((round) => round.traced.downBytes)) / 1e6).toFixed(2)} of ${(median(rounds.map((round) => round.best.touchedBytes)) / 1e6).toFixed(2)} MB`,
    }),
    informs(
      `${name}: cold with trace: bytes on the wire / chunks that the trace names`,
      median(toTold),
      'x',
      `${told.toFixed(2)} MB: what boots touch until they are over, some of it after the prompt`,
    ),
  ];
};

/** Where the time of our boots goes, as far as there are counters. */
export const spentCases = (name: string, boots: readonly OurBoot[], bitsPerSecond: number): BenchCase[] => {
  const of = (value: (boot: OurBoot) => number): number[] => boots.map(value);
  const each = (what: string, value: (boot: OurBoot) => number, note?: string): BenchCase =>
    informs(
      `${name}: ${what}`,
      median(of(value)),
      's',
      `${interval(of(value))}${note === undefined ? '' : `; ${note}`}`,
    );
  return [
    each('before QEMU was started', (boot) => boot.beforeGuestSeconds),
    each(
      'guest waited for its disks',
      (boot) => boot.diskWaitSeconds,
      `${median(of(({ misses }) => misses)).toFixed(0)} reads found their block missing`,
    ),
    each('the line alone for these bytes', (boot) => (boot.downBytes * 8) / bitsPerSecond),
    each('processor of the block daemon', (boot) => boot.daemonCpuSeconds, 'with its own start'),
    each('processor of the server', (boot) => boot.serverCpuSeconds),
  ];
};

const cachedCases = (rounds: readonly Round[]): BenchCase[] => {
  const pairs = rounds.flatMap(({ cached, local }) => (cached === undefined ? [] : [{ cached, local }]));
  if (pairs.length === 0) return [];
  const ratios = pairs.map(({ cached, local }) => cached.seconds / local.seconds);
  const waits = pairs.map(({ cached }) => cached.diskWaitSeconds);
  const note = `${interval(ratios)}; ${interval(secondsOf(pairs.map(({ cached }) => cached)), 1)} s`;
  return [
    atMost('cached / local', median(ratios), CACHED_TO_LOCAL_MAX, { note }),
    atMost('cached: guest waited for its disks', median(waits), CACHED_WAIT_SECONDS_MAX, {
      unit: 's',
      note: interval(waits),
    }),
    informs('cached: before QEMU was started', median(pairs.map(({ cached }) => cached.beforeGuestSeconds)), 's'),
  ];
};

const competitorCases = (link: PlayedLink, rounds: readonly Round[]): BenchCase[] => {
  const of = (name: string, boots: readonly (BootFigures | undefined)[]): BenchCase[] => {
    const pairs = rounds.flatMap(({ traced, local }, at) => {
      const theirs = boots[at];
      return theirs === undefined ? [] : [{ theirs, traced, local }];
    });
    if (pairs.length === 0) return [];
    const toOurs = pairs.map(({ theirs, traced }) => theirs.seconds / traced.seconds);
    const toLocal = pairs.map(({ theirs, local }) => theirs.seconds / local.seconds);
    const note = `${interval(toLocal)}; ${interval(secondsOf(pairs.map(({ theirs }) => theirs)), 1)} s`;
    return [
      informs(`${link}: ${name} / local`, median(toLocal), 'x', note),
      informs(`${link}: ${name} / ours with trace`, median(toOurs), 'x', interval(toOurs)),
      informs(`${link}: ${name}: bytes on the wire`, median(pairs.map(({ theirs }) => theirs.downBytes)) / 1e6, 'MB'),
    ];
  };
  return [
    ...of(
      'nbdkit curl+cache+cow',
      rounds.map(({ nbdkit }) => nbdkit),
    ),
    ...of(
      "QEMU's http driver",
      rounds.map(({ http }) => http),
    ),
  ];
};
