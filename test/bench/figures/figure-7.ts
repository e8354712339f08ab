/**
 * `npm run bench -- figure-7`: somebody types at the workstation's screen (typed-session.ts), whose input was recorded on a local disk and waits for the screen to
 * match; how long each command takes to show its picture, by how much of what other sessions (sessions.ts) touched was prefetched, most popular first, over `dsl`.
 * The guest boots over a line without limits: as in the paper, only what comes after that is measured.
 */
import {
  describeMachine,
  informs,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { quantile } from '../demand/quantile.js';
import type { ApplianceImages } from '../boot/appliance.js';
import { Link } from '../../support/link.js';
import type { Screen } from '../../support/vnc-client.js';
import { COLOURS, frame, legend, polyline, svgOfPanels } from '../svg.js';
import { OurPath } from '../trace-player/our-path.js';
import { nodesOn } from '../trace-player/runs.js';
import { cdfLine } from './cdf.js';
import { FigureGuest } from './figure-guest.js';
import { popularityOrder } from './popularity.js';
import { recordedSessions } from './sessions.js';
import { overLocal, PublishedAppliance, type Nodes } from './started-disks.js';
import { openScreen, playSession, recordSession, type RecordedPictures } from './typed-session.js';
import { workstation } from './updates.js';

/** Of the blocks that the other sessions touched. */
const SHARES = [1, 0.5, 0.25, 0] as const;
const MB = 1e6;
/** The picture ends here: the slowest are said in words. */
const SECONDS_MOST = 10;

type Played = {
  readonly name: string;
  /** Chunks that were prefetched, as they travel. */
  readonly prefetchedBytes: number;
  /** What travelled in the session. */
  readonly sessionBytes: number;
  readonly seconds: readonly number[];
};

/** Boots, and gives what came of `work` on its screen. */
const onScreen = async <T>(
  images: ApplianceImages,
  nodes: Nodes,
  work: (screen: Screen, guest: FigureGuest) => Promise<T>,
): Promise<T> => {
  await using guest = await FigureGuest.boot(images, nodes);
  const screen = await openScreen(guest);
  try {
    return await work(screen, guest);
  } finally {
    screen.close();
  }
};

const playPrefetched = async (
  appliance: PublishedAppliance,
  options: { readonly order: readonly number[]; readonly share: number; readonly pictures: RecordedPictures },
): Promise<Played> => {
  const { order, share, pictures } = options;
  const blocks = order.slice(0, Math.round(order.length * share));
  await using ours = await OurPath.start(appliance.version, appliance.repository.port);
  const before = (await ours.status()).fetch.link.bytes;
  if (blocks.length > 0) await ours.hoard('system', blocks);
  const prefetchedBytes = (await ours.status()).fetch.link.bytes - before;
  await using link = await Link.open({ toPort: appliance.repository.port, profile: 'dsl' });
  const seconds = await onScreen(appliance.images, nodesOn(await ours.attach()), async (screen) => {
    await ours.moveTo(link.port);
    return await playSession(screen, pictures);
  });
  await ours.detach();
  const { downBytes } = await link.close();
  return { name: `${Math.round(100 * share)} %`, prefetchedBytes, sessionBytes: downBytes, seconds };
};

const casesOf = (runs: readonly Played[]): BenchCase[] =>
  runs.map(({ name, seconds, prefetchedBytes, sessionBytes }) =>
    informs(
      `${name}: median response`,
      median(seconds),
      's',
      `p90 ${quantile(seconds, 0.9).toFixed(2)}, longest ${Math.max(...seconds).toFixed(2)}, all together ${seconds.reduce((sum, each) => sum + each, 0).toFixed(1)} s; prefetched ${(prefetchedBytes / MB).toFixed(1)} MB, fetched in the session ${(sessionBytes / MB).toFixed(1)} MB`,
    ),
  );

const svgOf = (runs: readonly Played[]): string => {
  const title = 'Response times of an interactive session on dsl, by what was prefetched';
  const drawn = runs.map(({ name, seconds, prefetchedBytes }, at) => {
    const colour = [...COLOURS, '#555555'][at] ?? 'black';
    const points = cdfLine(seconds, SECONDS_MOST).filter(([x]) => x <= 1);
    return (
      polyline(points, colour) +
      legend(at === 0 ? name : `${name} (${(prefetchedBytes / MB).toFixed(0)} MB)`, colour, at)
    );
  });
  return svgOfPanels([
    frame(title, { most: SECONDS_MOST, unit: 'seconds' }, { most: 100, unit: '% of commands' }) + drawn.join(''),
  ]);
};

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const { log, quick } = options;
  const { sessions } = await recordedSessions({ quick, log });
  const order = popularityOrder(sessions.map(({ accesses }) => accesses));
  const images = await workstation(log);
  log('recording what the screen shows');
  const { result: pictures } = await overLocal(images, (nodes) => onScreen(images, nodes, recordSession));
  const local = await overLocal(images, (nodes) => onScreen(images, nodes, (screen) => playSession(screen, pictures)));
  const runs: Played[] = [{ name: 'local disk', prefetchedBytes: 0, sessionBytes: 0, seconds: local.result }];
  await using appliance = await PublishedAppliance.open('workstation', images);
  for (const share of quick ? SHARES.slice(0, 1) : SHARES) {
    runs.push(await playPrefetched(appliance, { order, share, pictures }));
    log(`${casesOf(runs).at(-1)?.case} ${casesOf(runs).at(-1)?.note}`);
  }
  return {
    bench: 'figure-7',
    machine: describeMachine(),
    cases: casesOf(runs),
    rounds: 1,
    data: runs,
    svg: svgOf(runs),
  };
};
