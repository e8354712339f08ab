/** collective start, stop, status: machines of this home. */
import { CollectiveError } from '@collective/shared/errors';
import type { ScrubStatus } from '../../blockd/cache/scrubber.js';
import { FAULTS, isFaultName, type FaultCounts } from '../../blockd/faults.js';
import { AGENT_PATHS, type AgentStatus, type PrefetchStatus, type StartedMachine } from '../../agent/agent-types.js';
import { findAgent, runningAgent } from '../agent-process.js';
import { interruptSignal, megabytes, note, printResult, progressView, timeOf, type GlobalOptions } from '../output.js';
import { dataText } from '../data-text.js';
import { table } from '../table.js';
import { scrubResult } from './scrub.js';

export type StartOptions = GlobalOptions & {
  readonly attach?: boolean;
  readonly waitFor?: string;
  readonly waitSeconds?: string;
  readonly accel?: string;
  readonly fresh?: boolean;
  readonly takeOver?: boolean;
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
        ...(options.fresh === true ? { fresh: true } : {}),
        ...(options.takeOver === true ? { takeOver: true } : {}),
      },
      { onEvent: view.show, signal: interruptSignal() },
    )
    .finally(view.end)) as StartedMachine[];
  const lines = started.flatMap((machine) => [
    ...machine.notes,
    `${machine.name}@${String(machine.version)} ${machine.resumed === true ? 'goes on where it stood' : 'is running'}${machine.readyMs === undefined ? '' : `, ready after ${(machine.readyMs / 1000).toFixed(1)} s`}.`,
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
  options: GlobalOptions & {
    readonly all?: boolean;
    readonly force?: boolean;
    readonly wait: boolean;
    readonly discard?: boolean;
  },
): Promise<void> {
  if (names.length === 0 && options.all !== true)
    throw new CollectiveError('usage', 'Say which appliance to stop, or --all.');
  const { client } = await findAgent(options);
  const stopped = (await client.post(AGENT_PATHS.stop, {
    names,
    all: options.all === true,
    force: options.force === true,
    wait: options.wait,
    ...(options.discard === true ? { discard: true } : {}),
  })) as string[];
  printResult(
    options,
    stopped,
    stopped.length === 0 ? 'Nothing was running.' : `${options.wait ? 'Stopped' : 'Stopping'} ${stopped.join(', ')}.`,
  );
}

export async function suspend(names: readonly string[], options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const suspended = (await client.post(AGENT_PATHS.suspend, { names })) as string[];
  printResult(options, suspended, `Suspended ${suspended.join(', ')}.`);
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

const NOT_PREFETCHING = {
  idle: 'what the next starts are known to want is here',
  metered: 'nothing is brought in: the link is metered',
  away: 'nothing is brought in: the repository cannot be reached',
  full: 'nothing is brought in: the cache is full',
  failed: 'not all that the next starts want could be brought in: the log of the agent says why',
} as const;

function prefetchText({ state, what = '', doneBytes = 0, bytes = 0, lookedAt }: PrefetchStatus): string {
  if (state === 'working') return `${what}: ${megabytes(doneBytes)} of ${megabytes(bytes)} brought in`;
  if (lookedAt === undefined) return 'not looked yet';
  return `${NOT_PREFETCHING[state]} (looked ${timeOf(lookedAt)})`;
}

function statusText(status: AgentStatus): string {
  const { session, repository, blockd } = status;
  const lines = [
    `agent       running since ${timeOf(status.agent.since)}, process ${String(status.agent.pid)}, home ${status.agent.home}`,
    session === null
      ? `session     ${status.device ? 'logged out' : 'never logged in here'}: run collective login`
      : `session     ${session.account}${session.stay === 'now' ? ', only for now' : ''}, since ${timeOf(session.since)}${
          session.deviceRevoked === true
            ? ', this device is REVOKED'
            : session.connected
              ? ''
              : ', without the repository'
        }`,
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
  if (status.prefetch !== null) lines.push(`ahead       ${prefetchText(status.prefetch)}`);
  lines.push(...faultLines(blockd.faults ?? {}));
  if (blockd.scrub !== undefined) lines.push(`checked     ${scrubText(blockd.scrub)}`);
  if (status.machines.length === 0) lines.push('machines    none');
  else {
    const rows = status.machines.map((machine) => [
      machine.version === 0 ? machine.name : `${machine.name}@${String(machine.version)}`,
      machine.state,
      machine.since === undefined ? '' : timeOf(machine.since),
      machine.pausedWhy === undefined
        ? ''
        : `${machine.pausedWhy}${machine.pausedSince === undefined ? '' : ` (since ${timeOf(machine.pausedSince)})`}`,
      machine.data === undefined ? '' : dataText(machine.data, Math.floor(Date.now() / 1000)),
    ]);
    lines.push('', table(['MACHINE', 'STATE', 'SINCE', 'WAITS FOR', 'YOUR DATA'], rows));
  }
  return lines.join('\n');
}

/** When the cache was last gone over and what was found. */
const scrubText = ({ everyDays, failure, last, running }: ScrubStatus): string => {
  const by =
    everyDays === 0 ? 'only when you ask for it' : `every ${everyDays === 1 ? 'day' : `${String(everyDays)} days`}`;
  const now =
    running === null ? '' : `; going on now, ${megabytes(running.bytes)} of ${megabytes(running.bytesExpected)}`;
  const failed = failure === null ? '' : `; could not come to its end: ${failure}`;
  return `${last === null ? 'the cache not yet' : `the cache on ${timeOf(last.finishedAt)}, ${scrubResult(last)}`}, ${by}${now}${failed}`;
};

/** What went wrong and was put right, a line each. */
export const faultLines = (faults: FaultCounts): string[] =>
  Object.entries(faults).map(([name, times], at) => {
    const text = isFaultName(name) ? FAULTS[name] : name;
    return `${at === 0 ? 'met         ' : '            '}${times === 1 ? 'once' : `${String(times)} times`}: ${text}`;
  });
