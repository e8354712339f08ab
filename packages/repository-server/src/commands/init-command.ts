/** `init DIR`: root keys, trust/1, heads, catalogue, and the first administrator's invitation. */
import { resolve } from 'node:path';
import { type Command } from 'commander';
import { systemClock } from '../clock.js';
import { DEFAULT_LIMITS } from '../limits.js';
import { initRepository } from '../repository/init-repository.js';
import { parseOrigin } from '../repository/settings.js';
import { certificatePin } from '../tls-files.js';
import { type CommonOptions, print } from './command-io.js';

type InitFlags = CommonOptions & { readonly admin: string; readonly publicUrl?: string; readonly tlsCert?: string };

const DEFAULT_ORIGIN = 'http://127.0.0.1:8470';

export const addInitCommand = (program: Command): void => {
  program
    .command('init')
    .description('make a repository in a new folder and print the join link of its first administrator')
    .argument('<dir>', 'folder, missing or empty')
    .option('--admin <account>', 'name of the first administrator', 'admin')
    .option('--public-url <url>', `where people reach the server (default: ${DEFAULT_ORIGIN}, then where it listens)`)
    .option(
      '--tls-cert <file>',
      'the certificate that the server will use: a self-signed one is pinned in the join link',
    )
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: InitFlags) => {
      const result = await initRepository(resolve(dir), {
        settings: {
          format: 1,
          origin: flags.publicUrl === undefined ? DEFAULT_ORIGIN : parseOrigin(flags.publicUrl),
          isOriginGiven: flags.publicUrl !== undefined,
          pin: flags.tlsCert === undefined ? null : await certificatePin(flags.tlsCert),
        },
        admin: flags.admin,
        limits: DEFAULT_LIMITS,
        clock: systemClock,
      });
      print(flags, { ...result, admin: flags.admin }, [
        `Made a repository in ${resolve(dir)}.`,
        `Its identity is ${result.identity}.`,
        `Root keys: ${result.rootKeysFolder} (move them to another machine; two of three sign the trust files).`,
        '',
        `Join link of ${flags.admin}, good once, for seven days:`,
        `  ${result.joinLink}`,
      ]);
    });
};
