/** What needs no token: health, identity, trust files. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError } from '@collective/shared';
import { trustName } from '../storage/blob-names.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const SOFTWARE = 'collective-repository 0.1.0';

export const registerOpenRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  registerRoute(app, context, 'health', async () => ({ ok: true }));
  registerRoute(app, context, 'identity', async () => ({
    identity: repository.identity,
    software: SOFTWARE,
    protocol: 1,
  }));
  registerRoute(app, context, 'trust', async ({ params }) => {
    const bytes = await repository.blobStore.read(trustName(params.number));
    if (bytes === undefined) throw new CollectiveError('not-found', `There is no trust file ${params.number}`);
    return bytes;
  });
};
