/**
 * The supervisor process:
 *
 *   node main.js --home DIR [--blockd MODULE]
 *
 * Started by the agent (supervisor-client.ts), detached, with its standard streams in HOME/log/supervisor.log. Holds
 * HOME/supervisor.lock, which dies with it, and listens on HOME/run/supervisor.sock. `--blockd` names another block daemon (tests).
 *
 * SIGTERM and SIGINT end it only when no machine runs; `shutdown` over the socket can stop them first. SIGHUP changes nothing.
 *
 * Exit codes: 0 after a shutdown, 1 after a failure, 2 for wrong arguments, 3 when the home has a supervisor already.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CollectiveError, hasCode } from '@collective/shared';
import { openHome } from '../home.js';
import { takeLocalLock } from '../storage/local-lock.js';
import { AgentKeeper } from './agent-keeper.js';
import { logLine } from './bounded-log.js';
import { Supervisor } from './supervisor.js';
import { SupervisorServer } from './supervisor-server.js';

const run = async (): Promise<void> => {
  const { values } = parseArgs({ options: { home: { type: 'string' }, blockd: { type: 'string' } } });
  if (values.home === undefined) throw new CollectiveError('usage', '--home DIR is needed');
  const home = await openHome(values.home);
  const lock = await takeLocalLock(join(home.directory, 'supervisor.lock'));
  const logFile = (name: string): string => join(home.logDirectory, `${name}.log`);
  const supervisor = await Supervisor.open({
    home,
    blockd: {
      module: values.blockd ?? fileURLToPath(new URL('../blockd/main.js', import.meta.url)),
      words: ['--home', home.directory],
      preload: fileURLToPath(new URL('../work/helpers-stand-behind.cjs', import.meta.url)),
      controlSocket: home.blockdSocket,
      logFile: logFile('blockd'),
    },
    logFiles: [logFile('supervisor'), logFile('blockd')],
    log: logLine,
  });
  const agents = new AgentKeeper({
    startAgent: async () => {
      // Loaded when it is needed: a supervisor holds little.
      const { findAgent } = await import('../cli/agent-process.js');
      await findAgent({ home: home.directory });
    },
    hasMachines: () => supervisor.running.length > 0,
    log: logLine,
  });
  const end = async (): Promise<void> => {
    agents.close();
    await server.close();
    await lock.release();
    logLine('supervisor ends');
    process.exit(0);
  };
  const server = await SupervisorServer.open({
    path: home.supervisorSocket,
    supervisor,
    agents,
    onShutdown: () => void end(),
  });
  const onSignal = (signal: string): void => {
    supervisor
      .close({ stopMachines: false, deadlineMs: 0 })
      .then(end, (error: unknown) => logLine(`${signal}: ${String(error)}`));
  };
  process.on('SIGTERM', () => onSignal('SIGTERM'));
  process.on('SIGINT', () => onSignal('SIGINT'));
  logLine(`supervisor ${process.pid} serves ${home.directory}`);
};

process.umask(0o077); // a person's files and sockets are nobody else's, wherever the person puts them
// Whoever started us may be gone, and the terminal with it: no reason to end.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
process.on('SIGHUP', () => undefined);
// One machine's trouble must not end the others: what nobody expected is written down.
process.on('uncaughtException', (error) => logLine(`uncaught: ${error.stack ?? String(error)}`));
process.on('unhandledRejection', (error) =>
  logLine(`unhandled: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`),
);
try {
  await run();
} catch (error) {
  logLine(error instanceof CollectiveError ? error.message : String(error));
  process.exit(hasCode(error, 'in-use') ? 3 : hasCode(error, 'usage') || error instanceof TypeError ? 2 : 1);
}
