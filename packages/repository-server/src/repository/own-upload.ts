/** Whose upload session it is: opening one, and finding one's own again as long as it lasts. */
import { randomBytes } from 'node:crypto';
import { CollectiveError } from '@collective/shared';
import { accessTo, type Caller, requirePublish } from '../caller.js';
import { endedUpload, type Upload } from '../catalogue/catalogue.js';
import { type Repository } from './repository.js';
import { sessionEnd } from './upload-session.js';

/** Opens a session that follows the head. Errors: `conflict` (data: the head), `rate-limited`, `not-allowed`, `too-large`. */
export const openUpload = async (
  repository: Repository,
  caller: Caller,
  appliance: string,
  parent: number | undefined,
): Promise<Upload> => {
  const { catalogue, clock, limits } = repository;
  const head = await catalogue.versions.head(appliance);
  if ((await catalogue.versions.lastNumber(appliance)) === undefined)
    await requireNewAppliance(repository, caller, appliance);
  else await requirePublish(repository, caller, appliance);
  if (head?.version !== parent) {
    const found = head === undefined ? 'it has no version for all yet' : `its newest version is ${head.version}`;
    throw new CollectiveError(
      'conflict',
      `${appliance}: the upload would follow ${parent ?? 'no version'}, but ${found}`,
      {
        data: head === undefined ? {} : { version: head.version, manifest: head.manifest },
      },
    );
  }
  const open = (await catalogue.uploads.openUploads()).filter(({ account }) => account === caller.account);
  if (open.length >= limits.openUploadsPerAccountMax) {
    throw new CollectiveError('rate-limited', `${caller.account} has ${open.length} open uploads; end one first`);
  }
  const now = clock.nowSeconds();
  const upload: Upload = {
    id: randomBytes(16).toString('hex'),
    appliance,
    account: caller.account,
    parent,
    createdAt: now,
    expiresAt: sessionEnd({ createdAt: now }, now, limits),
    committed: undefined,
  };
  await catalogue.uploads.addUpload(upload);
  return upload;
};

const requireNewAppliance = async (repository: Repository, caller: Caller, appliance: string): Promise<void> => {
  if (caller.role === 'user') throw new CollectiveError('not-allowed', 'Only publishers may make a new appliance');
  if ((await accessTo(repository, caller, appliance)) === 'use') {
    throw new CollectiveError('not-allowed', `${caller.account} may use ${appliance}, but not publish it`);
  }
  const { versions } = repository.catalogue;
  const count = (await versions.appliances()).length + (await versions.candidates()).length;
  if (count >= repository.limits.appliancesMax) {
    throw new CollectiveError(
      'too-large',
      `This repository has ${count} appliances and candidates, which is the most it takes`,
    );
  }
};

/** The caller's session, ended or not. Errors: `not-found` also for somebody else's. */
export const ownUpload = async (repository: Repository, caller: Caller, id: string): Promise<Upload> => {
  const upload = await repository.catalogue.uploads.upload(id);
  const now = repository.clock.nowSeconds();
  const isMine = upload?.account === caller.account && (upload.committed !== undefined || upload.expiresAt > now);
  if (upload === undefined || !isMine) throw endedUpload();
  await requireStillPublishing(repository, caller, upload);
  return upload;
};

/** Access may have been taken away, or the name by another publisher, since the session was opened. */
const requireStillPublishing = async (repository: Repository, caller: Caller, upload: Upload): Promise<void> => {
  if (upload.parent !== undefined) await requirePublish(repository, caller, upload.appliance);
  else if (caller.role === 'user') throw new CollectiveError('not-allowed', 'Only publishers may make a new appliance');
};

/** The same, not committed yet. Errors: also `conflict`. */
export const openOwnUpload = async (repository: Repository, caller: Caller, id: string): Promise<Upload> => {
  const upload = await ownUpload(repository, caller, id);
  if (upload.committed !== undefined) {
    throw new CollectiveError('conflict', `This upload has become version ${upload.committed.version}`);
  }
  return upload;
};

/** The lowest number that the next version may take: none is given twice, whatever has become of its version. */
export const nextVersionOf = async ({ catalogue }: Repository, { appliance }: Upload): Promise<number> =>
  ((await catalogue.versions.lastNumber(appliance)) ?? 0) + 1;
