/** `trust DIR show|allow|revoke`: which keys may publish what. Signs with the root keys; works beside a running server. */
import { resolve } from 'node:path';
import { type Command } from 'commander';
import { ALL_APPLIANCES, CollectiveError, keyId, type TrustFile } from '@collective/shared';
import { allowPublisher, revokePublisher, signNextTrust } from '../repository/next-trust.js';
import { repositoryPaths } from '../repository/open-repository.js';
import { isAccountName } from '../storage/blob-names.js';
import { type CommonOptions, print } from './command-io.js';
import { withRepository } from './repository-command.js';

type TrustFlags = CommonOptions & { readonly rootKeys?: string };

export const addTrustCommands = (program: Command): void => {
  const trust = program.command('trust').description('which keys may publish which appliance');
  const rootKeysOption = ['--root-keys <folder>', 'folder with root keys (default: DIR/root-keys)'] as const;

  trust
    .command('show')
    .argument('<dir>', 'repository folder')
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: CommonOptions) => {
      await withRepository(dir, async (repository) => printTrust(flags, await repository.trust.current()));
    });
  trust
    .command('allow')
    .description('let the publishing key that an account has registered sign versions of appliances (* for all)')
    .argument('<dir>', 'repository folder')
    .argument('<account>', 'publisher')
    .argument('<appliance...>', 'appliances')
    .option(...rootKeysOption)
    .option('--json', 'print JSON')
    .action(async (dir: string, name: string, appliances: string[], flags: TrustFlags) => {
      const bad = appliances.find((appliance) => appliance !== ALL_APPLIANCES && !isAccountName(appliance));
      if (bad !== undefined) throw new CollectiveError('usage', `${bad} is not the name of an appliance`);
      await withRepository(dir, async (repository, open) => {
        const account = await repository.catalogue.people.account(name);
        if (account === undefined || account.revokedAt !== undefined)
          throw new CollectiveError('not-found', `There is no account ${name}`);
        const key = account.publishingKey;
        if (key === undefined) {
          throw new CollectiveError(
            'not-found',
            `${name} has not registered a publishing key yet (a publisher does at the first login)`,
          );
        }
        const folder = resolve(flags.rootKeys ?? repositoryPaths(open.folder).rootKeys);
        printTrust(
          flags,
          await signNextTrust(repository, folder, (old) => allowPublisher(old, { name, key, appliances })),
        );
      });
    });
  trust
    .command('revoke')
    .description('take a publishing key away: what it has signed stays only while heads names it')
    .argument('<dir>', 'repository folder')
    .argument('<key>', 'public key or its id, as trust show prints them')
    .option(...rootKeysOption)
    .option('--json', 'print JSON')
    .action(async (dir: string, key: string, flags: TrustFlags) => {
      await withRepository(dir, async (repository, open) => {
        const folder = resolve(flags.rootKeys ?? repositoryPaths(open.folder).rootKeys);
        printTrust(flags, await signNextTrust(repository, folder, (old) => revokePublisher(old, key)));
      });
    });
};

const printTrust = (flags: CommonOptions, trust: TrustFile): void => {
  const publishers = trust.publishers.map((publisher) => ({ ...publisher, keyid: keyId(publisher.key) }));
  print(flags, { ...trust, publishers }, [
    `trust/${trust.number}: ${trust.rootThreshold} of ${trust.rootKeys.length} root keys, ${trust.headsKeys.length} heads key(s)`,
    ...publishers.map(({ name, key, appliances }) => `  ${name}  ${key}  ${appliances.join(' ')}`),
    ...(publishers.length === 0 ? ['  no publishers yet: trust allow DIR ACCOUNT APPLIANCE…'] : []),
  ]);
};
