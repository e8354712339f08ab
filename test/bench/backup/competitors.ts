/** restic and borg on the same disk image at the same moments: how much their repositories grow. */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';

const BACKUP_MS = 900_000;

export type Competitor = { readonly name: string; readonly save: (image: string) => Promise<number> };

const sizeOf = async (folder: string): Promise<number> =>
  Number((await runOrThrow('du', ['-sb', folder])).stdout.split(/\s/)[0]);

/** Bytes that `work` adds to the folder. */
const growth = async (folder: string, work: () => Promise<unknown>): Promise<number> => {
  const before = await sizeOf(folder);
  await work();
  return (await sizeOf(folder)) - before;
};

/** Each with a repository of its own in `folder`, made here. */
export const openCompetitors = async (folder: string): Promise<readonly Competitor[]> => {
  const restic = path.join(folder, 'restic');
  const borg = path.join(folder, 'borg');
  const passwordFile = path.join(folder, 'password');
  await mkdir(folder, { recursive: true });
  await writeFile(passwordFile, 'benchmark');
  const resticArguments = [
    '-r',
    restic,
    '--password-file',
    passwordFile,
    '--quiet',
    '--cache-dir',
    path.join(folder, 'restic-cache'),
  ];
  const borgEnvironment = {
    ...process.env,
    BORG_PASSPHRASE: 'benchmark',
    BORG_BASE_DIR: path.join(folder, 'borg-base'),
  };
  await runOrThrow('restic', [...resticArguments, 'init', '--repository-version', '2'], { timeoutMs: BACKUP_MS });
  await runOrThrow('borg', ['init', '--encryption=repokey', borg], { timeoutMs: BACKUP_MS, env: borgEnvironment });
  let archives = 0;
  return [
    {
      name: 'restic',
      save: (image) =>
        growth(restic, () => runOrThrow('restic', [...resticArguments, 'backup', image], { timeoutMs: BACKUP_MS })),
    },
    {
      name: 'borg',
      save: (image) =>
        growth(borg, () =>
          runOrThrow('borg', ['create', '--compression', 'zstd,3', `${borg}::a${String(archives++)}`, image], {
            timeoutMs: BACKUP_MS,
            env: borgEnvironment,
          }),
        ),
    },
  ];
};
