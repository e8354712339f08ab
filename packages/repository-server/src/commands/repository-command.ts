/** Opens a repository folder for the time of one command and closes it whatever happens. */
import { resolve } from 'node:path';
import { systemClock } from '../clock.js';
import { DEFAULT_LIMITS } from '../limits.js';
import { openRepository, type OpenRepository } from '../repository/open-repository.js';
import { assembleRepository, type Repository } from '../repository/repository.js';

export const withFolder = async <T>(folder: string, work: (open: OpenRepository) => Promise<T>): Promise<T> => {
  const open = await openRepository(resolve(folder));
  try {
    return await work(open);
  } finally {
    await open.close();
  }
};

export const withRepository = async <T>(
  folder: string,
  work: (repository: Repository, open: OpenRepository) => Promise<T>,
): Promise<T> =>
  withFolder(folder, async (open) => {
    const repository = await assembleRepository({ ...open, limits: DEFAULT_LIMITS, clock: systemClock });
    return work(repository, open);
  });
