/** `reset DIR ACCOUNT`: a new invitation for an account whose password is lost. Works beside a running server. */
import { type Command } from 'commander';
import { CollectiveError } from '@collective/shared';
import { systemClock } from '../clock.js';
import { DEFAULT_LIMITS } from '../limits.js';
import { joinLinkFor } from '../repository/invite-account.js';
import { readKeys } from '../repository/keys-record.js';
import { resetAccount } from '../repository/reset-account.js';
import { TrustStore } from '../repository/trust-store.js';
import { type CommonOptions, print } from './command-io.js';
import { withFolder } from './repository-command.js';

type ResetFlags = CommonOptions & { readonly yes?: true };

const SECONDS_PER_DAY = 86_400;

export const addResetCommand = (program: Command): void => {
  program
    .command('reset')
    .description('print a join link with which an account gets a new password; its disks stay locked, see --help')
    .argument('<dir>', 'repository folder')
    .argument('<account>', 'name of the account')
    .option('--yes', 'do it; without, it is only said what would happen')
    .option('--json', 'print JSON')
    .addHelpText('after', `\n${whatItDoes('the account', true).join('\n')}`)
    .action(async (dir: string, name: string, flags: ResetFlags) => {
      await withFolder(dir, async ({ blobStore, catalogue, settings }) => {
        const account = await catalogue.people.account(name);
        if (account === undefined) throw new CollectiveError('not-found', `There is no account ${name}`);
        const hasCode = (await readKeys(blobStore, account)).keys.byRecoveryCode !== null;
        if (flags.yes !== true) {
          const lines = [...whatItDoes(name, hasCode), 'Nothing was changed. Run it again with --yes to do it.'];
          throw new CollectiveError('usage', lines.join('\n'));
        }
        const { identity } = await TrustStore.open(blobStore);
        const times = { now: systemClock.nowSeconds(), seconds: DEFAULT_LIMITS.invitationSeconds };
        const { token, expiresAt } = await resetAccount({ blobStore, catalogue }, name, times);
        const joinLink = joinLinkFor(settings, identity, token);
        print(flags, { account: name, joinLink, expiresAt, hasRecoveryCode: hasCode }, [
          ...whatItDoes(name, hasCode),
          `Join link for ${name}, good once, for ${times.seconds / SECONDS_PER_DAY} days:`,
          `  ${joinLink}`,
        ]);
      });
    });
};

const whatItDoes = (name: string, hasCode: boolean): readonly string[] => [
  `Whoever accepts the link works as ${name} with a new password and a new secret.`,
  `The disks of ${name} stay LOCKED until collective unlock opens them ${hasCode ? 'with the recovery code, or ' : ''}on a device where they were logged in. Nobody else can, you neither.`,
  'Until the link is accepted nothing changes. Who still has the recovery code needs no reset: collective login --recover.',
];
