/** What a publisher does with a candidate: name people for it, promote it. */
import { type FastifyInstance } from 'fastify';
import { requirePublish } from '../caller.js';
import { letterAccounts, promoteVersion, putLetter, removeLetter } from '../repository/candidates.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerCandidateRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'candidateLetters', async ({ caller, params }) => {
    await requirePublish(repository, caller, params.name);
    return letterAccounts(repository, params);
  });
  registerRoute(app, context, 'putLetter', async ({ caller, params, body }) => {
    await requirePublish(repository, caller, params.name);
    await putLetter(repository, params, body);
    return {};
  });
  registerRoute(app, context, 'removeLetter', async ({ caller, params }) => {
    await requirePublish(repository, caller, params.name);
    await removeLetter(repository, params);
    return {};
  });
  registerRoute(app, context, 'promoteVersion', async ({ caller, params, body }) => {
    await requirePublish(repository, caller, params.name);
    await promoteVersion(repository, params, body);
    return {};
  });
};
