/** `invite DIR ACCOUNT`: prints a join link with an invitation that works once. Works beside a running server. */
import { type Command } from 'commander';
import { type Access, CollectiveError, type Role, ROLES } from '@collective/shared';
import { type ApplianceAccess } from '../catalogue/catalogue.js';
import { systemClock } from '../clock.js';
import { DEFAULT_LIMITS } from '../limits.js';
import { inviteAccount, joinLinkFor } from '../repository/invite-account.js';
import { TrustStore } from '../repository/trust-store.js';
import { isAccountName } from '../storage/blob-names.js';
import { type CommonOptions, print } from './command-io.js';
import { withFolder } from './repository-command.js';

type InviteFlags = CommonOptions & { readonly role: string; readonly appliance: readonly string[] };

const SECONDS_PER_DAY = 86_400;

export const addInviteCommand = (program: Command): void => {
  program
    .command('invite')
    .description('print a join link with which a new account can be made, once')
    .argument('<dir>', 'repository folder')
    .argument('<account>', 'name of the new account')
    .requiredOption('--role <role>', ROLES.join(', '))
    .option('--appliance <access...>', 'appliances that the account may use (NAME) or publish (NAME:publish)', [])
    .option('--json', 'print JSON')
    .action(async (dir: string, account: string, flags: InviteFlags) => {
      const request = {
        account: checkedName(account),
        role: parseRole(flags.role),
        appliances: flags.appliance.map(parseAccess),
      };
      await withFolder(dir, async ({ blobStore, catalogue, settings }) => {
        const { identity } = await TrustStore.open(blobStore);
        const times = { now: systemClock.nowSeconds(), seconds: DEFAULT_LIMITS.invitationSeconds };
        const { token, expiresAt } = await inviteAccount(catalogue, request, times);
        const joinLink = joinLinkFor(settings, identity, token);
        print(flags, { ...request, joinLink, expiresAt }, [
          `Join link of ${account} (${request.role}), good once, for ${times.seconds / SECONDS_PER_DAY} days:`,
          `  ${joinLink}`,
        ]);
      });
    });
};

const checkedName = (text: string): string => {
  if (!isAccountName(text))
    throw new CollectiveError('usage', `${text} is not a name: lower-case letters, digits and hyphens, at most 63`);
  return text;
};

const parseRole = (text: string): Role => {
  const role = ROLES.find((known) => known === text);
  if (role === undefined) throw new CollectiveError('usage', `${text} is not a role: ${ROLES.join(', ')}`);
  return role;
};

/** `NAME` or `NAME:publish`. */
const parseAccess = (text: string): ApplianceAccess => {
  const [name = '', word = 'use', ...rest] = text.split(':');
  const access: Access | undefined = word === 'use' || word === 'publish' ? word : undefined;
  if (access === undefined || rest.length > 0)
    throw new CollectiveError('usage', `${text} is not NAME or NAME:publish`);
  return { name: checkedName(name), access };
};
