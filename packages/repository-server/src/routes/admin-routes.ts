/** What an administrator does with accounts, and which versions are mandatory. Revoking counts at once: every token is looked up with its account. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError } from '@collective/shared';
import { inviteAccount } from '../repository/invite-account.js';
import { removeMandatory, setMandatory } from '../repository/mandatory-file.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerAdminRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { people } = repository.catalogue;
  const requireAccount = async (name: string): Promise<void> => {
    if ((await people.account(name)) === undefined)
      throw new CollectiveError('not-found', `There is no account ${name}`);
  };

  registerRoute(app, context, 'createInvitation', async ({ body }) => {
    const times = { now: repository.clock.nowSeconds(), seconds: repository.limits.invitationSeconds };
    return inviteAccount(repository.catalogue, body, times);
  });
  registerRoute(app, context, 'accounts', async () => {
    const accounts = await people.accounts();
    return Promise.all(
      accounts.map(async ({ name, role, createdAt, revokedAt }) => ({
        account: name,
        role,
        createdAt,
        revoked: revokedAt !== undefined,
        appliances: await people.accessOf(name),
      })),
    );
  });
  registerRoute(app, context, 'revokeAccount', async ({ params }) => {
    await requireAccount(params.account);
    await repository.catalogue.exclusively(async () => {
      const admins = (await people.accounts()).filter(
        ({ role, revokedAt }) => role === 'admin' && revokedAt === undefined,
      );
      if (admins.length === 1 && admins[0]?.name === params.account) {
        throw new CollectiveError('conflict', `${params.account} is the last administrator`);
      }
      await people.revokeAccount(params.account, repository.clock.nowSeconds());
    });
    return {};
  });
  registerRoute(app, context, 'setAccess', async ({ params, body }) => {
    await requireAccount(params.account);
    await people.setAccess(params.account, { name: params.appliance, access: body.access });
    return {};
  });
  registerRoute(app, context, 'setMandatory', async ({ params, body }) => {
    await setMandatory(repository, { appliance: params.name, ...body });
    return {};
  });
  registerRoute(app, context, 'removeMandatory', async ({ params }) => {
    await removeMandatory(repository, params.name);
    return {};
  });
  registerRoute(app, context, 'removeAccess', async ({ params }) => {
    await requireAccount(params.account);
    if (!(await people.removeAccess(params.account, params.appliance))) {
      throw new CollectiveError('not-found', `${params.account} has no access to ${params.appliance}`);
    }
    return {};
  });
};
