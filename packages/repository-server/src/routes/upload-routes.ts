/** Publishing: upload sessions and the commit; withdrawing and deleting versions. */
import { randomBytes } from 'node:crypto';
import { type FastifyInstance } from 'fastify';
import { CollectiveError, DIGEST_BYTES, type Digest, digestFromBytes } from '@collective/shared';
import { accessTo, type Caller, readableAppliances, requirePublish } from '../caller.js';
import { type Upload } from '../catalogue/catalogue.js';
import { commitVersion } from '../repository/commit-version.js';
import { type Repository } from '../repository/repository.js';
import { lackingChunks, sessionEnd, setDisk, storeBatch } from '../repository/upload-session.js';
import { changeVersionState } from '../repository/version-state.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerUploadRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'createUpload', async ({ caller, params, body }) => {
    const upload = await openUpload(repository, caller, params.name, body.parent ?? undefined);
    return { upload: upload.id, expiresAt: upload.expiresAt };
  });
  registerRoute(app, context, 'upload', async ({ caller, params }) => {
    const upload = await ownUpload(repository, caller, params.upload);
    const { chunks } = await repository.catalogue.uploads.uploadTotals(upload.id);
    const { id, appliance, parent, expiresAt } = upload;
    return { upload: id, appliance, parent: parent ?? null, expiresAt, chunks };
  });
  registerRoute(app, context, 'abandonUpload', async ({ caller, params }) => {
    const upload = await ownUpload(repository, caller, params.upload);
    await repository.catalogue.uploads.removeUpload(upload.id);
    return {};
  });
  registerRoute(app, context, 'lackingChunks', async ({ caller, params, body }) => {
    const upload = await openOwnUpload(repository, caller, params.upload);
    const readable = await readableAppliances(repository, caller);
    const lacking = await lackingChunks(repository, upload, readable, splitDigests(body));
    return Buffer.concat(lacking.map((digest) => Buffer.from(digest, 'hex')));
  });
  registerRoute(app, context, 'uploadChunks', async ({ caller, params, body }) => {
    const upload = await openOwnUpload(repository, caller, params.upload);
    return storeBatch(repository, upload, await readableAppliances(repository, caller), body);
  });
  registerRoute(app, context, 'uploadDisk', async ({ caller, params, query, body }) => {
    const upload = await openOwnUpload(repository, caller, params.upload);
    const since = query.since === 'none' ? undefined : Number(query.since);
    const readable = await readableAppliances(repository, caller);
    return { root: await setDisk(repository, upload, readable, { name: params.disk, since, pairs: body }) };
  });
  registerRoute(app, context, 'commitUpload', async ({ caller, params, body }) => {
    const upload = await ownUpload(repository, caller, params.upload);
    return commitVersion(repository, upload, await readableAppliances(repository, caller), body);
  });

  registerRoute(app, context, 'withdrawVersion', async ({ caller, params }) => {
    await requirePublish(repository, caller, params.name);
    await changeVersionState(repository, params.name, params.version, 'withdrawn');
    return {};
  });
  registerRoute(app, context, 'deleteVersion', async ({ caller, params }) => {
    await requirePublish(repository, caller, params.name);
    await changeVersionState(repository, params.name, params.version, 'deleted');
    return {};
  });
};

const openUpload = async (
  repository: Repository,
  caller: Caller,
  appliance: string,
  parent: number | undefined,
): Promise<Upload> => {
  const { catalogue, clock, limits } = repository;
  const head = await catalogue.versions.head(appliance);
  if (head === undefined) await requireNewAppliance(repository, caller, appliance);
  else await requirePublish(repository, caller, appliance);
  if (head?.version !== parent) {
    const found = head === undefined ? 'it has no version yet' : `its newest version is ${head.version}`;
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
  const count = (await repository.catalogue.versions.appliances()).length;
  if (count >= repository.limits.appliancesMax) {
    throw new CollectiveError('too-large', `This repository has ${count} appliances, which is the most it takes`);
  }
};

/** The caller's session, ended or not. Errors: `not-found` also for somebody else's. */
const ownUpload = async (repository: Repository, caller: Caller, id: string): Promise<Upload> => {
  const upload = await repository.catalogue.uploads.upload(id);
  const now = repository.clock.nowSeconds();
  const isMine = upload?.account === caller.account && (upload.committed !== undefined || upload.expiresAt > now);
  if (upload === undefined || !isMine)
    throw new CollectiveError('not-found', 'There is no such upload; it may have expired');
  await requireStillPublishing(repository, caller, upload);
  return upload;
};

/** Access may have been taken away, or the name by another publisher, since the session was opened. */
const requireStillPublishing = async (repository: Repository, caller: Caller, upload: Upload): Promise<void> => {
  if (upload.parent !== undefined) await requirePublish(repository, caller, upload.appliance);
  else if (caller.role === 'user') throw new CollectiveError('not-allowed', 'Only publishers may make a new appliance');
};

const openOwnUpload = async (repository: Repository, caller: Caller, id: string): Promise<Upload> => {
  const upload = await ownUpload(repository, caller, id);
  if (upload.committed !== undefined) {
    throw new CollectiveError('conflict', `This upload has become version ${upload.committed.version}`);
  }
  return upload;
};

const splitDigests = (bytes: Uint8Array): Digest[] => {
  if (bytes.length % DIGEST_BYTES !== 0) {
    throw new CollectiveError('malformed', `${bytes.length} bytes are not a list of digests of 32 bytes`);
  }
  const digests: Digest[] = [];
  for (let at = 0; at < bytes.length; at += DIGEST_BYTES)
    digests.push(digestFromBytes(bytes.subarray(at, at + DIGEST_BYTES)));
  return digests;
};
