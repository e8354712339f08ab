/** One run of fio's nbd engine, one connection, and what it measured. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

export type FioJob = {
  readonly uri: string;
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
  /** How much of the disk is used, from its start. */
  readonly diskBytes: number;
  /** Stop after this time; without it the run goes once over `diskBytes`. */
  readonly seconds?: number;
  /** Go once over at most this much in random order, each block at most once. */
  readonly totalBytes?: number;
  /** So many a second, evenly; as many as go without it. */
  readonly iopsMax?: number;
  /** A FLUSH after every write. */
  readonly flushEachWrite?: boolean;
};

export type FioResult = {
  readonly iops: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly maxUs: number;
  readonly operations: number;
};

const field = (value: unknown, ...names: readonly string[]): unknown =>
  names.reduce<unknown>(
    (inner, name) => (typeof inner === 'object' && inner !== null ? Reflect.get(inner, name) : undefined),
    value,
  );

const numberField = (value: unknown, ...names: readonly string[]): number => {
  const found = field(value, ...names);
  if (typeof found !== 'number') throw new Error(`fio's report has no number ${names.join('.')}`);
  return found;
};

export const runFio = async (job: FioJob): Promise<FioResult> => {
  const options = [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${job.uri}`,
    `--rw=${job.rw}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.depth}`,
    `--size=${job.diskBytes}`,
    '--randrepeat=0',
    '--output-format=json',
  ];
  if (job.seconds !== undefined) options.push('--time_based', `--runtime=${job.seconds}`);
  if (job.totalBytes !== undefined) options.push(`--io_size=${job.totalBytes}`);
  if (job.rw === 'randread' && job.seconds !== undefined) options.push('--norandommap');
  if (job.iopsMax !== undefined) options.push(`--rate_iops=${job.iopsMax}`);
  if (job.flushEachWrite === true) options.push('--fsync=1');
  const { stdout } = await run('fio', options, { maxBuffer: 1 << 24 });
  return resultOf(stdout, job.rw === 'randread' || job.rw === 'read' ? 'read' : 'write');
};

/** What fio's report in JSON says of its one job. */
export const resultOf = (stdout: string, side: 'read' | 'write'): FioResult => {
  const report: unknown = JSON.parse(stdout.slice(stdout.indexOf('{')));
  const jobs = field(report, 'jobs');
  const result: unknown = Array.isArray(jobs) ? jobs[0] : undefined;
  if (numberField(result, 'error') !== 0) throw new Error(`fio failed with error ${numberField(result, 'error')}`);
  return {
    iops: numberField(result, side, 'iops'),
    operations: numberField(result, side, 'total_ios'),
    p50Us: numberField(result, side, 'clat_ns', 'percentile', '50.000000') / 1000,
    maxUs: numberField(result, side, 'clat_ns', 'max') / 1000,
    p99Us: numberField(result, side, 'clat_ns', 'percentile', '99.000000') / 1000,
  };
};
