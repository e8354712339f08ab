/**
 * Withdrawing and deleting a version. Both leave its manifest (the chain of parents leads through it) and, for the
 * grace time, its blocks. The version for all stays what it is: a client that has seen it must find it or a higher one.
 * A candidate may end like any other.
 */
import { CollectiveError } from '@collective/shared';
import { type Repository } from './repository.js';
import { writeStateFile } from './version-file.js';

/** Errors: `not-found`, `conflict` for the version for all. Doing it twice is no error and does not begin anew. */
export const changeVersionState = async (
  repository: Repository,
  appliance: string,
  version: number,
  state: 'withdrawn' | 'deleted',
): Promise<void> => {
  const { catalogue, blobStore, clock, heads } = repository;
  await catalogue.exclusively(async () => {
    const record = await catalogue.versions.version(appliance, version);
    if (record === undefined || record.state === 'deleted' || record.state === 'forgotten') {
      throw new CollectiveError('not-found', `There is no version ${version} of ${appliance}`);
    }
    const head = await catalogue.versions.head(appliance);
    if (head?.version === version) {
      const what =
        state === 'withdrawn'
          ? 'publish the older state again under the next number first'
          : 'publish a newer one first';
      throw new CollectiveError('conflict', `${appliance}@${version} is the version for all: ${what}`);
    }
    if (record.state === state) return;
    const since = record.state === 'withdrawn' ? record.stateSince : clock.nowSeconds();
    await writeStateFile(blobStore, appliance, version, { state, since });
    await catalogue.versions.setVersionState(appliance, version, state, since);
    // A candidate is named by the heads.
    await heads.signIfNeeded();
  });
};
