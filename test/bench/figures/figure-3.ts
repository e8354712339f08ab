/**
 * `npm run bench -- figure-3`: the workloads of figure 2 on a full cache that lies on a slow drive (throttled-drive.ts) and on the drive as it is, over `lan`. Before
 * each run nothing of the cache is in memory. The paper's column of the boot of its own VAT has no counterpart: our transceiver is a program on a running system.
 */
import { describeMachine, informs, type BenchCase, type BenchOptions, type BenchResult } from '../bench-result.js';
import { buildImages } from '../boot/appliance.js';
import { LOGIN_PROMPT } from '../boot/qemu-boot.js';
import type { OurPath } from '../trace-player/our-path.js';
import { barsSvg } from './bars.js';
import { PublishedAppliance, type OnNodes } from './started-disks.js';
import { dropFromMemory, ThrottledDrive } from './throttled-drive.js';
import { onDebian, onTiny, TINY_PROMPT, WORKLOADS, type Workload, type WorkloadSeconds } from './workloads.js';
import { workstation } from './updates.js';

const MB = 1e6;
/** MB/s; undefined: as it is. The paper's were a flash drive, a microdrive and two hard disks. */
const DRIVES = [10, 30, 200, undefined] as const;
type Drive = (typeof DRIVES)[number];

type Row = { readonly workload: Workload; readonly drive: string; readonly seconds: number };

const nameOf = (drive: Drive): string => (drive === undefined ? 'the drive as it is' : `${drive} MB/s`);

const onDrives = async (
  appliance: PublishedAppliance,
  work: OnNodes<WorkloadSeconds>,
  { log, only }: BenchOptions,
): Promise<Row[]> => {
  await using ours: OurPath = await appliance.filled();
  const rows: Row[] = [];
  for (const drive of DRIVES) {
    if (!nameOf(drive).includes(only ?? '')) continue;
    await dropFromMemory(ours.home);
    await using _throttled = await ThrottledDrive.of(ours.pid, ours.home, drive === undefined ? drive : drive * MB);
    const { result, prepareSeconds } = await appliance.overOurs('lan', { isTraced: true, ours }, work);
    log(`${nameOf(drive)}: ${JSON.stringify(result)}, before the start ${prepareSeconds.toFixed(1)} s`);
    for (const workload of WORKLOADS) {
      const seconds = result[workload];
      if (seconds === undefined) continue;
      const before = workload === 'compilation in Debian' ? 0 : prepareSeconds;
      rows.push({ workload, drive: nameOf(drive), seconds: seconds + before });
    }
  }
  return rows;
};

const casesOf = (rows: readonly Row[]): BenchCase[] =>
  rows.map(({ workload, drive, seconds }) => {
    const free = rows.find((row) => row.workload === workload && row.drive === nameOf(undefined))?.seconds;
    return informs(
      `${workload}, ${drive}`,
      seconds,
      's',
      free === undefined ? undefined : `${(seconds / free).toFixed(2)} x of the drive as it is`,
    );
  });

const svgOf = (rows: readonly Row[]): string =>
  barsSvg({
    title: 'Runtime of workloads on a full cache, by the drive under it',
    unit: 's',
    series: DRIVES.map(nameOf),
    groups: WORKLOADS.map((workload) => ({
      name: workload,
      values: DRIVES.map(
        (drive) => rows.find((row) => row.workload === workload && row.drive === nameOf(drive))?.seconds,
      ),
    })),
  });

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const rows: Row[] = [];
  {
    const images = await buildImages(options.log, 'tiny');
    await using tiny = await PublishedAppliance.open('tiny', images);
    await tiny.tellTrace(TINY_PROMPT);
    rows.push(...(await onDrives(tiny, onTiny(images), options)));
  }
  if (!options.quick) {
    const images = await workstation(options.log);
    await using debian = await PublishedAppliance.open('workstation', images);
    await debian.tellTrace(LOGIN_PROMPT);
    rows.push(...(await onDrives(debian, onDebian(images), options)));
  }
  return {
    bench: 'figure-3',
    machine: describeMachine(),
    cases: casesOf(rows),
    rounds: 1,
    data: rows,
    svg: svgOf(rows),
  };
};
