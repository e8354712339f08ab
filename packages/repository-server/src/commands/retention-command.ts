/** `retention DIR`: shows or sets which snapshots stay. Works beside a running server, which reads it at each commit. */
import { type Command } from 'commander';
import { CollectiveError } from '@collective/shared';
import { formatSeconds } from '../duration.js';
import { GRACE_SECONDS_DEFAULT } from '../limits.js';
import { RETENTION_DEFAULT } from '../repository/retention.js';
import {
  keptInAYear,
  NEWEST_MIN,
  parseRetention,
  type Retention,
  retentionWords,
  writeRetentionFile,
} from '../repository/retention-file.js';
import { type CommonOptions, print } from './command-io.js';
import { withFolder } from './repository-command.js';

type RetentionFlags = CommonOptions & {
  readonly keep?: string;
  readonly newest?: string;
  readonly deleted?: string;
  readonly default?: true;
};

const DEFAULT: Retention = { plan: RETENTION_DEFAULT, deletedSeconds: GRACE_SECONDS_DEFAULT };

export const addRetentionCommand = (program: Command): void => {
  const words = retentionWords(DEFAULT);
  program
    .command('retention')
    .description('show or set which snapshots of persons stay, and how long what is deleted can be brought back')
    .argument('<dir>', 'repository folder')
    .option('--keep <steps>', `up to which age one of each so long; "all" and, at the end, "none" too: ${words.keep}`)
    .option('--newest <count>', `so many of the last stay in any case, at least ${NEWEST_MIN}`)
    .option('--deleted <time>', `how long what was thinned, deleted or withdrawn stays: ${words.deleted}`)
    .option('--default', 'set what a new repository has')
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: RetentionFlags) => {
      const asked = askedWords(flags);
      const isSet = flags.default === true || Object.keys(asked).length > 0;
      await withFolder(dir, async ({ folder, files, readRetention }) => {
        const before = flags.default === true ? DEFAULT : await setBefore(readRetention, asked);
        const retention = parseRetention({ ...retentionWords(before), ...asked });
        if (isSet) await writeRetentionFile(files, folder, retentionWords(retention));
        print(flags, { ...retentionWords(retention), keptInAYear: keptInAYear(retention.plan) }, linesOf(retention));
      });
    });
};

const askedWords = (
  flags: RetentionFlags,
): { readonly keep?: string; readonly newest?: number; readonly deleted?: string } => {
  const { keep, newest, deleted } = flags;
  if (flags.default === true && (keep ?? newest ?? deleted) !== undefined)
    throw new CollectiveError('usage', '--default sets everything: give it alone');
  if (newest !== undefined && !/^[0-9]{1,9}$/.test(newest))
    throw new CollectiveError('usage', `--newest ${newest.slice(0, 40)} is not a number`);
  return {
    ...(keep === undefined ? {} : { keep }),
    ...(newest === undefined ? {} : { newest: Number(newest) }),
    ...(deleted === undefined ? {} : { deleted }),
  };
};

/** Of a file that cannot be read nothing counts, when `--keep` sets it anew. */
const setBefore = async (
  read: () => Promise<Retention | undefined>,
  { keep }: { readonly keep?: string },
): Promise<Retention> => {
  try {
    return (await read()) ?? DEFAULT;
  } catch (error) {
    if (error instanceof CollectiveError && error.code === 'malformed' && keep !== undefined) return DEFAULT;
    throw error;
  }
};

const linesOf = (retention: Retention): string[] => {
  const { steps, everySecondsThen, newestCount } = retention.plan;
  const every = (seconds: number | undefined): string =>
    seconds === undefined ? 'nothing' : seconds === 0 ? 'all' : `the last one of each ${formatSeconds(seconds)}`;
  return [
    ...steps.map(
      ({ ageSeconds, everySeconds }) => `Up to an age of ${formatSeconds(ageSeconds)}: ${every(everySeconds)}.`,
    ),
    `${steps.length === 0 ? 'Of any age' : 'Older'}: ${every(everySecondsThen)}.`,
    `In any case the last ${newestCount}, and what people have pinned.`,
    `What was thinned, deleted or withdrawn stays for ${formatSeconds(retention.deletedSeconds)}.`,
    `Of a machine that runs day and night up to ${keptInAYear(retention.plan)} snapshots stay after a year.`,
    `--keep ${retentionWords(retention).keep}`,
  ];
};
