/**
 * The command line: a thin client of the agent. Options and help are here; each command's code is loaded when it runs,
 * so that `collective status` starts fast.
 */
import { Command, CommanderError, Option } from 'commander';
import { CollectiveError } from '@collective/shared/errors';
import { printError, type GlobalOptions } from './output.js';

/** Runs one command; sets the exit code of the process (cli/exit-codes.ts). */
export async function main(args: readonly string[]): Promise<void> {
  const program = buildProgram();
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return; // help
    const isUsage = error instanceof CommanderError;
    // Its parsing may have ended before it came to --json.
    const options = { ...globals(program.opts()), ...(isUsage ? { json: args.includes('--json') } : {}) };
    // For people commander has printed it already.
    if (isUsage && !options.json) process.exitCode = 2;
    else process.exitCode = printError(options, isUsage ? usageError(error) : error);
  }
}

const usageError = (error: CommanderError): CollectiveError =>
  new CollectiveError(
    'usage',
    error.code === 'commander.help'
      ? 'Say which command.'
      : error.message.replace(/^error: /, '').replaceAll('\n', ' '),
  );

type Options = Readonly<Record<string, unknown>>;

const globals = (options: Options): GlobalOptions => ({
  ...(typeof options['home'] === 'string' ? { home: options['home'] } : {}),
  json: options['json'] === true,
  debug: options['debug'] === true,
});

export function buildProgram(): Command {
  const program = new Command('collective')
    .description('Runs managed computers: appliances that others maintain, with your own disk.')
    .option(
      '--home <DIR>',
      'the home of this person on this machine (default: COLLECTIVE_HOME, else ~/.local/share/collective)',
    )
    .option('--json', 'print one JSON value on stdout')
    .option('--debug', 'show where an error came from')
    .showHelpAfterError('(collective --help shows all commands)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride();
  addSessionCommands(program);
  addMachineCommands(program);
  addPublisherCommands(program);
  addServiceCommands(program);
  for (const command of program.commands) command.exitOverride();
  return program;
}

/** The options of the command and the global ones, which may stand before or behind the command's name. */
const all = <T extends object>(command: Command): T & GlobalOptions => {
  const options: Options = command.optsWithGlobals();
  return { ...options, ...globals(options) } as T & GlobalOptions;
};

function addSessionCommands(program: Command): void {
  program
    .command('login')
    .argument(
      '[target]',
      'the join link that your administrator gave you, or the URL of a repository that this home knows',
    )
    .description('log in; with an invitation, make your account')
    .option('--account <NAME>', 'which account')
    .option('--device-name <NAME>', 'what this device is called in your list of devices (default: the host name)')
    .option('--password-stdin', 'read the password from the first line of stdin, for scripts')
    .option('--no-recovery-code-check', 'print the recovery code without asking for its last group, for scripts')
    .action(async (target: string | undefined, _options, command: Command) => {
      const { login } = await import('./commands/login.js');
      await login(target, all(command));
    });
  program
    .command('logout')
    .description('end the session and erase its keys')
    .action(async (_options, command: Command) => (await import('./commands/session.js')).logout(all(command)));
  program
    .command('appliances')
    .description('list the appliances that you may use')
    .action(async (_options, command: Command) => (await import('./commands/session.js')).appliances(all(command)));
}

function addMachineCommands(program: Command): void {
  program
    .command('start')
    .argument('<names...>', 'NAME or NAME@VERSION, several at once')
    .description('start appliances, each at its newest version unless you say another')
    .option('--attach', 'show the serial console afterwards')
    .option('--wait-for <TEXT>', 'wait until the serial console shows this text; "login" waits for a login prompt')
    .option('--wait-seconds <N>', 'give up waiting after so many seconds (default 600)')
    .addOption(new Option('--accel <WHICH>', 'how the processor is virtualised').choices(['auto', 'kvm', 'tcg']))
    .action(async (names: string[], _options, command: Command) =>
      (await import('./commands/machines.js')).start(names, all(command)),
    );
  program
    .command('stop')
    .argument('[names...]')
    .description('shut appliances down')
    .option('--all', 'all that run')
    .option('--force', 'do not ask the guest')
    .option('--no-wait', 'return as soon as they have been told to go down')
    .action(async (names: string[], _options, command: Command) =>
      (await import('./commands/machines.js')).stop(names, all(command)),
    );
  program
    .command('console')
    .argument('<name>')
    .description('the serial console; Ctrl-] leaves it')
    .action(async (name: string, _options, command: Command) =>
      (await import('./commands/console.js')).attachConsole(name, all(command)),
    );
  program
    .command('status')
    .description('what runs, what it waits for and why, what was fetched')
    .action(async (_options, command: Command) => (await import('./commands/machines.js')).status(all(command)));
}

function addPublisherCommands(program: Command): void {
  program
    .command('publish')
    .argument('<name>')
    .description('publish a new appliance, or the next version of one')
    .option(
      '--disk <NAME=FILE>',
      'a disk and its image, in any format that qemu-img reads; NAME=FORMAT:FILE says which',
      collect,
      [],
    )
    .option(
      '--machine <FILE>',
      'machine description, or the appliance.json of a recipe (default: that of the version before)',
    )
    .option('--title <TEXT>', 'what people see in the list')
    .option('--notes <TEXT>', 'what is new')
    .option('--no-boot-test', 'do not boot the result before it becomes a version')
    .option(
      '--boot-text <TEXT>',
      'the boot test has passed when the serial console shows this (default: a login prompt)',
    )
    .option('--boot-seconds <N>', 'the boot test has failed after so many seconds (default 300)')
    .action(async (name: string, _options, command: Command) =>
      (await import('./commands/publish.js')).publish(name, all(command)),
    );
  program
    .command('export')
    .argument('<reference>', 'NAME or NAME@VERSION')
    .description('serve a disk over NBD on a unix socket until Ctrl-C')
    .option('--disk <NAME>', 'which disk', 'system')
    .requiredOption('--socket <PATH>', 'where to listen')
    .option('--writable', 'take writes into an overlay that is thrown away')
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/export.js')).exportDisk(reference, all(command)),
    );
}

function addServiceCommands(program: Command): void {
  program
    .command('doctor')
    .description('check what this machine needs and has')
    .action(async (_options, command: Command) => (await import('./commands/doctor.js')).doctor(all(command)));
  program
    .command('agent')
    .description('run the agent in the foreground; other commands start one in the background')
    .action(async (_options, command: Command) => (await import('./commands/agent.js')).runAgent(all(command)));
  program
    .command('shutdown')
    .description('end the agent and what belongs to it, when no machine runs')
    .action(async (_options, command: Command) => (await import('./commands/session.js')).shutdown(all(command)));
}

const collect = (value: string, before: string[]): string[] => [...before, value];
