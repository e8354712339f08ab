/**
 * `npm run bench -- boot`: the Debian appliance to its login prompt over each link: from a local raw file with a qcow2 overlay, on a filled cache, cold with
 * the trace that other people's boots have left on the server, cold without it, by nbdkit's curl plugin and by QEMU's http driver, all in each round. Ours
 * is timed from the command `start` to the prompt, the others from the start of QEMU. Beside it T* from boots recorded in the same rounds.
 *
 * Parts for --only: the links by name; `packets-cable` and `packets-lte` (both: `packets`), the same over the kernel's TCP (packet-boots.ts); `disk`, cached
 * but not in memory (not-in-memory.ts). The last two want root.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import type { PlayedLink } from '../trace-player/links.js';
import { buildImages } from './appliance.js';
import { linkCases, playRound, ROUNDS, type Round } from './link-rounds.js';
import { notInMemoryCases } from './not-in-memory.js';
import { PACKET_LINKS, packetCases } from './packet-boots.js';
import { BootRig } from './rig.js';

const LINKS = Object.keys(ROUNDS) as readonly PlayedLink[];
const PACKET_ROUNDS = 2;
const DISK_PAIRS = 3;
const LOAD_EVERY_MS = 10_000;

type Part = { readonly name: string; readonly cases: (rig: BootRig, quick: boolean) => Promise<BenchCase[]> };

const linkPart = (link: PlayedLink): Part => ({
  name: link,
  cases: async (rig, quick) => {
    if (link === 'lan') await rig.fillCachedHome();
    const rounds: Round[] = [];
    for (let round = 0; round < (quick ? 1 : ROUNDS[link]); round += 1) rounds.push(await playRound(rig, link, round));
    return linkCases(link, rounds);
  },
});

const PARTS: readonly Part[] = [
  ...LINKS.map(linkPart),
  ...PACKET_LINKS.map((link): Part => ({
    name: `packets-${link}`,
    cases: async (rig, quick) => packetCases(rig, link, quick ? 1 : PACKET_ROUNDS),
  })),
  {
    name: 'disk',
    cases: async (rig, quick) => {
      await rig.fillCachedHome();
      return await notInMemoryCases(rig, quick ? 1 : DISK_PAIRS);
    },
  },
];

/** What the machine did meanwhile: a boot alone makes a load of 1 to 2. */
const withLoad = async (name: string, work: () => Promise<BenchCase[]>): Promise<BenchCase[]> => {
  const loads: number[] = [];
  const look = (): void => void loads.push(os.loadavg()[0] ?? Number.NaN);
  const timer = setInterval(look, LOAD_EVERY_MS);
  const cases = await work().finally(() => clearInterval(timer));
  look();
  return [...cases, informs(`${name}: load of the machine meanwhile`, median(loads), '', interval(loads, 1))];
};

export const run = async ({ quick, only, log }: BenchOptions): Promise<BenchResult> => {
  const wanted = PARTS.filter(({ name }) => only === undefined || name === only || name.startsWith(`${only}-`));
  if (wanted.length === 0) throw new Error(`--only ${only ?? ''}: one of ${PARTS.map(({ name }) => name).join(', ')}`);
  const images = await buildImages(log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-bench-'));
  try {
    await using rig = await BootRig.open(images, folder, log);
    const cases: BenchCase[] = [];
    for (const part of wanted) cases.push(...(await withLoad(part.name, async () => part.cases(rig, quick))));
    return { bench: 'boot', machine: describeMachine(), cases };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
