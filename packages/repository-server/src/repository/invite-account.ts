/** Makes a one-time invitation: whoever has its token makes the account and chooses its password. */
import { CollectiveError, formatJoinLink, type Digest, type Role } from '@collective/shared';
import { secretHash } from '../caller.js';
import { type ApplianceAccess, type Catalogue } from '../catalogue/catalogue.js';
import { randomBytes } from 'node:crypto';
import { type Settings } from './settings.js';

export type InvitationRequest = {
  readonly account: string;
  readonly role: Role;
  readonly appliances: readonly ApplianceAccess[];
};

/** The token, which is kept nowhere. Errors: `exists` when there is such an account. */
export const inviteAccount = async (
  catalogue: Catalogue,
  request: InvitationRequest,
  times: { readonly now: number; readonly seconds: number },
): Promise<{ readonly token: string; readonly expiresAt: number }> => {
  if ((await catalogue.people.account(request.account)) !== undefined) {
    throw new CollectiveError('exists', `There is an account ${request.account} already`);
  }
  const token = randomBytes(32).toString('base64url');
  const expiresAt = times.now + times.seconds;
  await catalogue.people.addInvitation({ ...request, tokenHash: secretHash(token), createdAt: times.now, expiresAt });
  return { token, expiresAt };
};

/** What an administrator hands out. */
export const joinLinkFor = (settings: Settings, identity: Digest, invite?: string): string =>
  formatJoinLink({
    origin: settings.origin,
    identity,
    ...(settings.pin === null ? {} : { pin: settings.pin }),
    ...(invite === undefined ? {} : { invite }),
  });
