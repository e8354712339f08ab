/**
 * `npm run bench -- backup`: a guest works (a package installation, a git clone, SQLite, a browser's profile), and after each step its disks
 * are saved. Bytes sent against the zstd-3 size of the 4 KiB granules that really changed, with restic and borg on the same image at the
 * same moments; then how long after a write it is on the server, by the periodic snapshots alone. With --only `guest`; the other parts are `latency`,
 * what writes notice of it at the block path (write-latency.ts), `noticed`, what a guest notices (guest-latency.ts), and `suspend`, how long suspend and resume take (suspend.ts).
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';
import { eventually } from '../../support/eventually.js';
import { APPLIANCE, KillsLab } from '../../kills/kills-lab.js';
import type { GuestShell } from '../../kills/guest-shell.js';
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
import { changedGranules } from './changed-granules.js';
import { openCompetitors, type Competitor } from './competitors.js';
import { guestLatencyCases } from './guest-latency.js';
import { suspendCases } from './suspend.js';
import { prepareGuest, runStep, WORK_STEPS } from './workloads.js';
import { writeLatencyCases } from './write-latency.js';

/** The disks that the steps write to: the system on one, /home on another. */
const DISKS = ['root', 'user'] as const;
const PERIOD_S = 30;
const WRITES = 8;
const TAKE_MS = 900_000;

type Step = {
  readonly name: string;
  readonly sentBytes: number;
  readonly changedBytes: number;
  readonly compressedBytes: number;
  readonly theirs: readonly { readonly name: string; readonly bytes: number }[];
};

type Row = { readonly number: number; readonly addedBytes: number; readonly committedAt: number };
const rowsOf = async (lab: KillsLab): Promise<readonly Row[]> =>
  ((await lab.person.json(['snapshots', APPLIANCE])) as unknown as { readonly snapshots: readonly Row[] }).snapshots;

/** Saves now; gives the newest number, and what all snapshots since `after` added to the repository. */
const save = async (lab: KillsLab, after: number): Promise<{ readonly number: number; readonly bytes: number }> => {
  await lab.person.json(['snapshots', 'take', APPLIANCE], { timeoutMs: TAKE_MS });
  const rows = (await rowsOf(lab)).filter(({ number }) => number > after);
  return {
    number: Math.max(after, ...rows.map(({ number }) => number)),
    bytes: rows.reduce((sum, { addedBytes }) => sum + addedBytes, 0),
  };
};

/** A raw image of each disk as it is in a snapshot, read through the block path. */
const imagesOf = async (lab: KillsLab, number: number, folder: string): Promise<ReadonlyMap<string, string>> => {
  await mkdir(folder, { recursive: true });
  const images = new Map<string, string>();
  for (const disk of DISKS) {
    const socket = path.join(folder, `${disk}.sock`);
    const image = path.join(folder, `${disk}.raw`);
    await using opened = lab.person.spawn([
      ...['snapshots', 'open', APPLIANCE, String(number)],
      ...['--disk', disk, '--socket', socket, '--json'],
    ]);
    await opened.waitFor(/"serving":true/);
    await runOrThrow('nbdcopy', [`nbd+unix:///${disk}?socket=${socket}`, image], { timeoutMs: TAKE_MS });
    images.set(disk, image);
  }
  return images;
};

class Steps {
  readonly done: Step[] = [];
  readonly #lab: KillsLab;
  readonly #folder: string;
  readonly #competitors: readonly Competitor[];
  #number = 0;
  #images: ReadonlyMap<string, string> = new Map();

  constructor(lab: KillsLab, folder: string, competitors: readonly Competitor[]) {
    this.#lab = lab;
    this.#folder = folder;
    this.#competitors = competitors;
  }

  /** What is there before the first step is no part of it. */
  async begin(): Promise<void> {
    this.#number = (await save(this.#lab, 0)).number;
    this.#images = await imagesOf(this.#lab, this.#number, path.join(this.#folder, 'before'));
    for (const { save: keep } of this.#competitors) for (const image of this.#images.values()) await keep(image);
  }

  async step(name: string, work: () => Promise<void>): Promise<Step> {
    await work();
    const { number, bytes } = await save(this.#lab, this.#number);
    const images = await imagesOf(this.#lab, number, path.join(this.#folder, name.replaceAll(' ', '-')));
    let count = 0;
    let compressedBytes = 0;
    for (const [disk, image] of images) {
      const changed = await changedGranules(this.#images.get(disk) ?? '', image);
      count += changed.count;
      compressedBytes += changed.compressedBytes;
    }
    const theirs = [];
    for (const { name: whose, save: keep } of this.#competitors) {
      let grown = 0;
      for (const image of images.values()) grown += await keep(image);
      theirs.push({ name: whose, bytes: grown });
    }
    for (const image of this.#images.values()) await rm(image, { force: true });
    this.#images = images;
    this.#number = number;
    const step = { name, sentBytes: bytes, changedBytes: count * 4096, compressedBytes, theirs };
    this.done.push(step);
    return step;
  }
}

/** From a synced write of the guest to the answer of the server that has it; the person does nothing. */
const secondsToServer = async (lab: KillsLab, guest: GuestShell, at: number): Promise<number> => {
  const before = (await rowsOf(lab))[0]?.number ?? 0;
  await guest.check(`head -c 200000 /dev/urandom >/home/write-${String(at)}; sync`);
  const writtenAt = performance.now();
  await eventually('the write is on the server', TAKE_MS, async () => {
    const [newest] = await rowsOf(lab);
    return newest !== undefined && newest.number > before ? true : undefined;
  });
  return (performance.now() - writtenAt) / 1000;
};

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;

const casesOf = (steps: readonly Step[], delays: readonly number[]): BenchCase[] => {
  const sum = (of: (step: Step) => number): number => steps.reduce((total, step) => total + of(step), 0);
  const cases = steps.map((step) =>
    informs(
      `${step.name}: sent / zstd-3 of what changed`,
      step.sentBytes / step.compressedBytes,
      'x',
      `${megabytes(step.sentBytes)} of ${megabytes(step.changedBytes)} changed, zstd-3 ${megabytes(step.compressedBytes)}; ${step.theirs
        .map(({ name, bytes }) => `${name} ${(bytes / step.compressedBytes).toFixed(2)}`)
        .join(', ')}`,
    ),
  );
  const all = sum(({ compressedBytes }) => compressedBytes);
  cases.push(atMost('all steps: sent / zstd-3 of what changed', sum(({ sentBytes }) => sentBytes) / all, 1.5));
  for (const { name } of steps[0]?.theirs ?? [])
    cases.push(
      informs(
        `all steps: ${name} / zstd-3 of what changed`,
        sum(({ theirs }) => theirs.find((each) => each.name === name)?.bytes ?? 0) / all,
        'x',
      ),
    );
  const sorted = [...delays].sort((a, b) => a - b);
  const p95 = sorted[Math.ceil(sorted.length * 0.95) - 1] ?? Number.NaN;
  cases.push(
    atMost('from a write to the server, p95', p95, PERIOD_S + 5, {
      unit: 's',
      note: `${interval(delays, 1)}, median ${median(delays).toFixed(1)} s, on lan, period ${String(PERIOD_S)} s`,
    }),
  );
  return cases;
};

const guestCases = async (quick: boolean, log: (line: string) => void): Promise<BenchCase[]> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bench-backup-'));
  try {
    log('building, publishing, starting');
    await using lab = await KillsLab.open(1);
    const guest = await lab.start();
    await prepareGuest(guest);
    const steps = new Steps(lab, folder, await openCompetitors(path.join(folder, 'theirs')));
    await steps.begin();
    for (const work of quick ? WORK_STEPS.slice(2) : WORK_STEPS) {
      const { sentBytes, compressedBytes } = await steps.step(work.name, () => runStep(guest, work));
      log(`${work.name}: ${megabytes(sentBytes)} sent, zstd-3 of what changed ${megabytes(compressedBytes)}`);
    }
    const delays: number[] = [];
    for (let at = 0; at < (quick ? 2 : WRITES); at += 1) {
      delays.push(await secondsToServer(lab, guest, at));
      log(`write ${String(at + 1)} on the server after ${(delays.at(-1) ?? 0).toFixed(1)} s`);
    }
    return casesOf(steps.done, delays);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const PARTS: Readonly<Record<string, (quick: boolean, log: (line: string) => void) => Promise<BenchCase[]>>> = {
  latency: writeLatencyCases,
  suspend: suspendCases,
  guest: guestCases,
  noticed: guestLatencyCases,
};

export const run = async ({ quick, only = '', log }: BenchOptions): Promise<BenchResult> => {
  const cases: BenchCase[] = [];
  for (const [part, casesOfPart] of Object.entries(PARTS))
    if (part.includes(only)) cases.push(...(await casesOfPart(quick, log)));
  return { bench: 'backup', machine: describeMachine(), cases };
};
