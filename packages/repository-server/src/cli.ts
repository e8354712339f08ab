/**
 * `collective-repository`: makes, serves and looks after a repository folder. Exit codes: 0 done, 1 failed, 2 used
 * wrongly, 3 refused, 4 damage found.
 */
import { Command, CommanderError } from 'commander';
import { addCareCommands } from './commands/care-commands.js';
import { EXIT, exitCodeOf, printError } from './commands/command-io.js';
import { addInitCommand } from './commands/init-command.js';
import { addInviteCommand } from './commands/invite-command.js';
import { addResetCommand } from './commands/reset-command.js';
import { addRetentionCommand } from './commands/retention-command.js';
import { addServeCommand } from './commands/serve-command.js';
import { addTrustCommands } from './commands/trust-commands.js';

const program = new Command('collective-repository')
  .description('Serve appliances to transceivers')
  .showHelpAfterError(false)
  .exitOverride()
  .configureOutput({ outputError: () => undefined });

addInitCommand(program);
addServeCommand(program);
addInviteCommand(program);
addResetCommand(program);
addRetentionCommand(program);
addTrustCommands(program);
addCareCommands(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
    if (error.exitCode !== 0)
      process.stderr.write(`collective-repository: ${error.message.replace(/^error: /, '')}. See --help.\n`);
  } else {
    process.exitCode = exitCodeOf(error);
    printError(error, process.argv.includes('--json'));
  }
}
