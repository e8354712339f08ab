/** Publishing: upload sessions and the commit; withdrawing and deleting versions. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, DIGEST_BYTES, type Digest, digestFromBytes } from '@collective/shared';
import { readableAppliances, requirePublish } from '../caller.js';
import { commitVersion } from '../repository/commit-version.js';
import { nextVersionOf, openOwnUpload, openUpload, ownUpload } from '../repository/own-upload.js';
import { lackingChunks, setDisk, storeBatch } from '../repository/upload-session.js';
import { changeVersionState } from '../repository/version-state.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerUploadRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'createUpload', async ({ caller, params, body }) => {
    const upload = await openUpload(repository, caller, params.name, body.parent ?? undefined);
    return { upload: upload.id, expiresAt: upload.expiresAt, nextVersion: await nextVersionOf(repository, upload) };
  });
  registerRoute(app, context, 'upload', async ({ caller, params }) => {
    const upload = await ownUpload(repository, caller, params.upload);
    const { chunks } = await repository.catalogue.uploads.uploadTotals(upload.id);
    const { id, appliance, parent, expiresAt } = upload;
    const nextVersion = await nextVersionOf(repository, upload);
    return { upload: id, appliance, parent: parent ?? null, expiresAt, nextVersion, chunks };
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

const splitDigests = (bytes: Uint8Array): Digest[] => {
  if (bytes.length % DIGEST_BYTES !== 0) {
    throw new CollectiveError('malformed', `${bytes.length} bytes are not a list of digests of 32 bytes`);
  }
  const digests: Digest[] = [];
  for (let at = 0; at < bytes.length; at += DIGEST_BYTES)
    digests.push(digestFromBytes(bytes.subarray(at, at + DIGEST_BYTES)));
  return digests;
};
