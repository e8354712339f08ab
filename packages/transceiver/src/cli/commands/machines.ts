/** collective start, stop, status: machines of this home. */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type AgentStatus, type StartedMachine } from '../../agent/agent-types.js';
import { findAgent, runningAgent } from '../agent-process.js';
import { interruptSignal, megabytes, note, printResult, progressView, timeOf, type GlobalOptions } from '../output.js';
import { table } from '../table.js';

export type StartOptions = GlobalOptions & {
  readonly attach?: boolean;
  readonly waitFor?: string;
  readonly waitSeconds?: string;
  readonly accel?: string;
};

export async function start(names: readonly string[], options: StartOptions): Promise<void> {
  if (options.attach === true && names.length !== 1)
    throw new CollectiveError('usage', '--attach wants exactly one appliance.');
  const { client } = await findAgent(options);
  const view = await progressView();
  const seconds = Number(options.waitSeconds ?? 600);
  if (!Number.isFinite(seconds) || seconds <= 0)
    throw new CollectiveError('usage', '--wait-seconds wants a number above 0.');
  const started = (await client
    .job(
      AGENT_PATHS.start,
      {
        names,
        ...(options.waitFor === undefined ? {} : { waitFor: options.waitFor, waitMs: Math.ceil(seconds * 1000) }),
        ...(options.accel === undefined ? {} : { accel: options.accel }),
      },
      { onEvent: view.show, signal: interruptSignal() },
    )
    .finally(view.end)) as StartedMachine[];
  const lines = started.flatMap((machine) => [
    ...machine.notes,
    `${machine.name}@${String(machine.version)} is running${machine.readyMs === undefined ? '' : `, ready after ${(machine.readyMs / 1000).toFixed(1)} s`}.`,
  ]);
  printResult(options, started, lines.join('\n'));
  const first = started[0];
  if (options.attach === true && first !== undefined) {
    const { attachConsole } = await import('./console.js');
    await attachConsole(first.name, options);
  }
}

export async function stop(
  names: readonly string[],
  options: GlobalOptions & { readonly all?: boolean; readonly force?: boolean; readonly wait: boolean },
): Promise<void> {
  if (names.length === 0 && options.all !== true)
    throw new CollectiveError('usage', 'Say which appliance to stop, or --all.');
  const { client } = await findAgent(options);
  const stopped = (await client.post(AGENT_PATHS.stop, {
    names,
    all: options.all === true,
    force: options.force === true,
    wait: options.wait,
  })) as string[];
  printResult(
    options,
    stopped,
    stopped.length === 0 ? 'Nothing was running.' : `${options.wait ? 'Stopped' : 'Stopping'} ${stopped.join(', ')}.`,
  );
}

/** Never starts an agent: that there is none is a status, too. */
export async function status(options: GlobalOptions): Promise<void> {
  const found = await runningAgent(options);
  if (found === undefined) {
    printResult(options, { agent: null }, 'No agent is running; any other command starts one.');
    return;
  }
  const reply = (await found.client.get(AGENT_PATHS.status)) as AgentStatus;
  if (options.json) printResult(options, reply, '');
  else printResult(options, reply, statusText(reply));
  for (const text of options.json ? [] : reply.notes) note(text);
}

function statusText(status: AgentStatus): string {
  const { session, repository, blockd } = status;
  const lines = [
    `agent       running since ${timeOf(status.agent.since)}, process ${String(status.agent.pid)}, home ${status.agent.home}`,
    session === null
      ? `session     ${status.device ? 'logged out' : 'never logged in here'}: run collective login`
      : `session     ${session.account}, since ${timeOf(session.since)}${session.connected ? '' : ', without the repository'}`,
  ];
  if (repository !== null) {
    const reach = repository.reachable === null ? '' : repository.reachable ? ', reachable' : ', cannot be reached';
    lines.push(
      `repository  ${repository.origin}${reach}${repository.newsAt === null ? '' : `, last news ${timeOf(repository.newsAt)}`}`,
    );
  }
  if (blockd.running) {
    const hits = blockd.cacheHits ?? 0;
    const asked = hits + (blockd.cacheMisses ?? 0);
    lines.push(
      `blocks      ${asked === 0 ? 'none read yet' : `${((100 * hits) / asked).toFixed(1)} % of ${String(asked)} from the cache`}, fetched ${megabytes(blockd.fetchedBytes ?? 0)}${
        blockd.linkBytesPerSecond === undefined ? '' : `, ${megabytes(blockd.linkBytesPerSecond)}/s`
      }${blockd.waitingFor === undefined ? '' : `; waits for ${blockd.waitingFor}`}`,
    );
  }
  if (status.machines.length === 0) lines.push('machines    none');
  else {
    const rows = status.machines.map((machine) => [
      machine.version === 0 ? machine.name : `${machine.name}@${String(machine.version)}`,
      machine.state,
      machine.since === undefined ? '' : timeOf(machine.since),
      machine.pausedWhy === undefined
        ? ''
        : `${machine.pausedWhy}${machine.pausedSince === undefined ? '' : ` (since ${timeOf(machine.pausedSince)})`}`,
    ]);
    lines.push('', table(['MACHINE', 'STATE', 'SINCE', 'WAITS FOR'], rows));
  }
  return lines.join('\n');
}
