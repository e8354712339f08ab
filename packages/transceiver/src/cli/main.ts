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
  addKeysCommands(program);
  addMachineCommands(program);
  addDataCommands(program);
  addUpdateCommand(program);
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
    .option('--mine', 'this machine is yours: it keeps your disks and your device, encrypted')
    .option('--only-for-now', 'no key of yours comes to lie on its disk, and logout removes everything')
    .option('--recover', 'open the account with the recovery code instead of the password, and set a new password')
    .option(
      '--password-stdin',
      'read the password from the first line of stdin (the code from the second), for scripts',
    )
    .option('--last-group <GROUP>', 'last group of the recovery code that the same command has shown, for scripts')
    .option('--no-recovery-code-check', 'print the recovery code without asking for its last group, for scripts')
    .action(async (target: string | undefined, _options, command: Command) => {
      const { login } = await import('./commands/login.js');
      await login(target, all(command));
    });
  program
    .command('logout')
    .description('end the session and erase its keys; where you are only for now, remove everything of yours')
    .option('--stop', 'shut down what runs first')
    .option('--discard', 'go on although something is saved nowhere else: it is lost')
    .option('--remove', 'remove everything of yours from this machine, also when it is yours')
    .action(async (_options, command: Command) => (await import('./commands/session.js')).logout(all(command)));
  program
    .command('appliances')
    .description('list the appliances that you may use, and your own disks of them')
    .option('--deleted', 'your own disks that were deleted and can be brought back')
    .action(async ({ deleted }: { readonly deleted?: boolean }, command: Command) => {
      const session = await import('./commands/session.js');
      await (deleted === true ? session.deletedSubscriptions(all(command)) : session.appliances(all(command)));
    });
}

function addKeysCommands(program: Command): void {
  program
    .command('password')
    .description('change your password')
    .option('--compromised', 'somebody may know the old one: what is saved from now on has new keys')
    .option('--password-stdin', 'read the present and the new password from the first two lines of stdin, for scripts')
    .action(async (_options, command: Command) => (await import('./commands/keys.js')).password(all(command)));
  program
    .command('recovery-code')
    .description('your recovery code')
    .command('new')
    .description('make a new one; the one before opens nothing any more')
    .option('--last-group <GROUP>', 'last group of the code that the same command has shown, for scripts')
    .option('--no-recovery-code-check', 'print the code without asking for its last group, for scripts')
    .action(async (_options, command: Command) => (await import('./commands/keys.js')).newRecoveryCode(all(command)));
  program
    .command('devices')
    .description('list your devices')
    .action(async (_options, command: Command) => (await import('./commands/keys.js')).devices(all(command)))
    .command('revoke')
    .argument('<device>', 'its name, or the first 8 or more digits of its id')
    .description('a device that is lost or in strange hands: it gets nothing any more, and new data has new keys')
    .action(async (device: string, _options, command: Command) =>
      (await import('./commands/keys.js')).revokeDevice(device, all(command)),
    );
  program
    .command('unlock')
    .description('open what an administrator locked by resetting your account')
    .option('--old-password', 'with the password of before, on a device where you were logged in then')
    .option('--code-stdin', 'read the code or password from the first line of stdin, for scripts')
    .action(async (_options, command: Command) => (await import('./commands/keys.js')).unlock(all(command)));
}

function addMachineCommands(program: Command): void {
  program
    .command('start')
    .argument('<names...>', 'NAME or NAME@VERSION, several at once')
    .description(
      'start appliances, each at its newest version unless you say another; a suspended one goes on where it stood',
    )
    .option('--attach', 'show the serial console afterwards')
    .option('--wait-for <TEXT>', 'wait until the serial console shows this text; "login" waits for a login prompt')
    .option('--fresh', 'throw the memory of a suspended one away and start anew')
    .option('--take-over', 'go on here with one that is in use on another device')
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
    .option('--discard', 'throw the memory of a suspended one away')
    .action(async (names: string[], _options, command: Command) =>
      (await import('./commands/machines.js')).stop(names, all(command)),
    );
  program
    .command('suspend')
    .argument('<names...>')
    .description('save what runs to the disk; start goes on where it stood')
    .action(async (names: string[], _options, command: Command) =>
      (await import('./commands/machines.js')).suspend(names, all(command)),
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

function addDataCommands(program: Command): void {
  const data = () => import('./commands/data.js');
  const snapshots = program
    .command('snapshots')
    .argument('<name>')
    .description('list the saved states of your own disk of an appliance')
    .option('--deleted', 'those that were deleted and can be brought back')
    .action(async (name: string, _options, command: Command) => (await data()).listSnapshots(name, all(command)));
  snapshots
    .command('take')
    .argument('<name>')
    .description('save the present state now')
    .option('--no-wait', 'return as soon as it is made, before it is on the server')
    .action(async (name: string, _options, command: Command) => (await data()).takeSnapshot(name, all(command)));
  snapshots
    .command('every')
    .argument('<name>')
    .argument('<seconds>', 'from 5 to 86400; 30 when nobody says otherwise')
    .description('how often what is written is saved by itself')
    .action(async (name: string, seconds: string, _options, command: Command) =>
      (await data()).saveEvery(name, seconds, all(command)),
    );
  snapshots
    .command('open')
    .argument('<name>')
    .argument('<snapshot>')
    .description('show an old state, read-only: as a second disk of the running appliance, or over NBD')
    .option('--disk <NAME>', 'which disk, when there are several')
    .option('--socket <PATH>', 'serve it over NBD on this unix socket until Ctrl-C')
    .action(async (name: string, snapshot: string, _options, command: Command) =>
      (await data()).openSnapshot(name, snapshot, all(command)),
    );
  snapshots
    .command('close')
    .argument('<name>')
    .argument('<snapshot>')
    .description('take the disk away again')
    .action(async (name: string, snapshot: string, _options, command: Command) =>
      (await data()).closeSnapshot(name, snapshot, all(command)),
    );
  snapshots
    .command('restore')
    .argument('<name>')
    .argument('<snapshot>')
    .description('bring a deleted snapshot back')
    .action(async (name: string, snapshot: string, _options, command: Command) =>
      (await data()).restoreSnapshot(name, snapshot, all(command)),
    );
  program
    .command('undo')
    .argument('<name>')
    .argument('[snapshot]', 'its number; without it the list is shown')
    .description('make your own disk of a stopped appliance what it was')
    .action(async (name: string, snapshot: string | undefined, _options, command: Command) =>
      (await data()).undo(name, snapshot, all(command)),
    );
  program
    .command('reset')
    .argument('<name>')
    .description('throw temporary disks and memory away; your own disk is kept')
    .action(async (name: string, _options, command: Command) => (await data()).reset(name, all(command)));
  program
    .command('delete')
    .argument('<name>')
    .description('delete your own disk of an appliance, with all its snapshots')
    .option('--yes', 'do not ask')
    .action(async (name: string, _options, command: Command) => (await data()).deleteSubscription(name, all(command)));
  program
    .command('restore')
    .argument('<name>', 'as collective appliances --deleted shows it')
    .description(
      'bring your own disk of an appliance back that you have deleted lately (30 days, unless the repository’s administrator has set another time)',
    )
    .action(async (name: string, _options, command: Command) => (await data()).restoreSubscription(name, all(command)));
  program
    .command('continue')
    .argument('<name>')
    .description(
      'two devices went on from one state, or the repository has lost what your disk lies on: say what becomes of what is here',
    )
    .option('--here', 'this machine goes on; what the other saved stays among the snapshots')
    .option('--both', 'what is here becomes a subscription of its own')
    .option('--discard', 'with --here: go on without what cannot be read any more; it is zeroes from now on')
    .action(async (name: string, _options, command: Command) => (await data()).continueHere(name, all(command)));
}

function addUpdateCommand(program: Command): void {
  program
    .command('update')
    .argument('[name]')
    .description('which newer versions there are; the next start uses them')
    .action(async (name: string | undefined, _options, command: Command) =>
      (await import('./commands/versions.js')).update(name, all(command)),
    );
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
    .option('--candidate', 'for yourself and those whom --for names only, until it is promoted')
    .option('--for <ACCOUNT>', 'who gets the candidate too; may be given several times', collect, [])
    .option('--from-maintain', 'publish what was changed in collective maintain, as a candidate')
    .option('--no-clean-up', 'with --from-maintain: run nothing in the guest before')
    .option('--yes', 'with --from-maintain: do not ask whether the clean-up is right')
    .action(async (name: string, _options, command: Command) =>
      (await import('./commands/publish.js')).publish(name, all(command)),
    );
  program
    .command('maintain')
    .argument('<name>', 'NAME, or NAME@VERSION to begin as another version than the newest')
    .description('start an appliance so that changes of its system are kept, until they are published or discarded')
    .option('--discard', 'throw the session away with all that was changed in it')
    .option('--wait-for <TEXT>', 'wait until the serial console shows this text; "login" waits for a login prompt')
    .option('--wait-seconds <N>', 'give up waiting after so many seconds (default 600)')
    .addOption(new Option('--accel <WHICH>', 'how the processor is virtualised').choices(['auto', 'kvm', 'tcg']))
    .action(async (name: string, _options, command: Command) =>
      (await import('./commands/versions.js')).maintain(name, all(command)),
    );
  program
    .command('candidates')
    .argument('<reference>', 'NAME or NAME@VERSION')
    .description('the candidates of an appliance and who gets them')
    .option('--add <ACCOUNT>', 'somebody gets it too; may be given several times', collect, [])
    .option('--remove <ACCOUNT>', 'somebody gets it no more; may be given several times', collect, [])
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/versions.js')).candidates(reference, all(command)),
    );
  program
    .command('promote')
    .argument('<reference>', 'NAME or NAME@VERSION')
    .description('make a candidate the version for all')
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/versions.js')).promote(reference, all(command)),
    );
  program
    .command('withdraw')
    .argument('<reference>', 'NAME (the version for all) or NAME@VERSION')
    .description('take a version back: the state before it is published again under the next number')
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/versions.js')).withdraw(reference, all(command)),
    );
  program
    .command('mandatory')
    .argument('<reference>', 'NAME@VERSION, or NAME with --off')
    .description('for administrators: no older version may be started from a date on')
    .option('--from <DATE>', 'from when on, like 2027-01-31 or 2027-01-31T18:00 (default: now)')
    .option('--grace-days <N>', 'so many days longer where the repository cannot be reached (default 7)')
    .option('--off', 'nothing of the appliance is mandatory any more')
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/versions.js')).mandatory(reference, all(command)),
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
    .command('scrub')
    .description('check every block of the cache now; what is damaged is fetched again when it is wanted')
    .option('--every <DAYS>', 'only set how often this happens by itself, in the background (default 7; 0: never)')
    .action(async (_options, command: Command) => (await import('./commands/scrub.js')).scrub(all(command)));
  program
    .command('hoard')
    .argument('<reference>', 'NAME or NAME@VERSION')
    .description('bring a version in whole and keep it on this machine, so that it runs without the repository')
    .option('--off', 'keep it no longer: it stays as long as there is room')
    .action(async (reference: string, _options, command: Command) =>
      (await import('./commands/hoard.js')).hoard(reference, all(command)),
    );
  program
    .command('settings')
    .description('what is set for this machine; without an option it is only shown')
    .option(
      '--tell-traces <on|off>',
      'tell the repository, which keeps it without your name, which blocks of an appliance a boot and its use touch',
    )
    .option(
      '--metered <on|off|auto>',
      'what travels over the link costs something: only what a machine needs now is fetched, and your data saved; auto asks the system',
    )
    .action(async (_options, command: Command) => (await import('./commands/settings.js')).settings(all(command)));
  program
    .command('agent')
    .description('run the agent in the foreground; other commands start one in the background')
    .action(async (_options, command: Command) => (await import('./commands/agent.js')).runAgent(all(command)));
  program
    .command('upgrade')
    .description('put this version of the software in the place of the one that runs; machines go on')
    .action(async (_options, command: Command) => (await import('./commands/upgrade.js')).upgrade(all(command)));
  program
    .command('shutdown')
    .description('end the agent and what belongs to it, when no machine runs')
    .action(async (_options, command: Command) => (await import('./commands/session.js')).shutdown(all(command)));
}

const collect = (value: string, before: string[]): string[] => [...before, value];
