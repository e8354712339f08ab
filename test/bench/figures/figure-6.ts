/**
 * `npm run bench -- figure-6`: the share of the sessions' accesses (sessions.ts) that hit a cache which holds the most popular blocks, against how many of
 * the accessed ones it holds. Once as in the paper, where the popularity is that of the same sessions; once by what the others did, each session
 * in its turn being the one that is not known.
 */
import { describeMachine, informs, type BenchCase, type BenchOptions, type BenchResult } from '../bench-result.js';
import { COLOURS, frame, legend, polyline, svgOfPanels } from '../svg.js';
import { hitRates, popularityOrder, rateAt, together, type Accesses } from './popularity.js';
import { recordedSessions } from './sessions.js';

const SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1] as const;
const STEPS = 100;
const MB = 1e6;

type Line = { readonly name: string; readonly rateAt: (share: number) => number };

/** The mean over all sessions, each beside the popularity among the others; shares are of the blocks of all sessions. */
const foretold = (sessions: readonly Accesses[]): ((share: number) => number) => {
  const blocks = popularityOrder(sessions).length;
  const each = sessions.map((session, at) =>
    hitRates(popularityOrder(sessions.filter((_other, index) => index !== at)), session),
  );
  return (share) =>
    each.reduce((sum, rates) => sum + (rates[Math.min(rates.length - 1, Math.round(share * blocks))] ?? 0), 0) /
    each.length;
};

const svgOf = (lines: readonly Line[]): string => {
  const title = 'Hit rate against the accessed blocks that were prefetched, most popular first';
  const drawn = lines.map((line, at) => {
    const colour = COLOURS[at % COLOURS.length] ?? 'black';
    const points = Array.from(
      { length: STEPS + 1 },
      (_none, step) => [step / STEPS, line.rateAt(step / STEPS)] as const,
    );
    return polyline(points, colour) + legend(line.name, colour, at);
  });
  return svgOfPanels([
    frame(title, { most: 100, unit: '% of accessed blocks' }, { most: 100, unit: '% of accesses that hit' }) +
      drawn.join(''),
  ]);
};

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const { blockBytes, accessibleBytes, sessions } = await recordedSessions({ quick, log });
  const accesses = sessions.map((session) => session.accesses);
  const order = popularityOrder(accesses);
  const own = hitRates(order, together(accesses));
  const lines: readonly Line[] = [
    { name: 'popularity among the same sessions', rateAt: (share) => rateAt(own, share) },
    { name: 'popularity among the other sessions', rateAt: foretold(accesses) },
  ];
  const note = (share: number): string =>
    `${((share * order.length * blockBytes) / MB).toFixed(1)} MB, ${((100 * share * order.length * blockBytes) / accessibleBytes).toFixed(1)} % of the appliance`;
  return {
    bench: 'figure-6',
    machine: describeMachine(),
    rounds: 1,
    cases: lines.flatMap((line): BenchCase[] =>
      SHARES.map((share) =>
        informs(
          `${line.name}: hits with ${100 * share} % of accessed blocks`,
          100 * line.rateAt(share),
          '%',
          note(share),
        ),
      ),
    ),
    data: lines.map(({ name, rateAt: at }) => ({
      name,
      hitRates: Array.from({ length: STEPS + 1 }, (_none, step) => at(step / STEPS)),
    })),
    svg: svgOf(lines),
  };
};
