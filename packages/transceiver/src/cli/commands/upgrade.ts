/**
 * collective upgrade: agent, supervisor and block daemon become those of the installation that this command belongs to, one after the other, while
 * machines run (docs/adr/0013). Agent and supervisor end and leave everything running; the new ones take over, and the
 * supervisor replaces the block daemon.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type AgentStatus } from '../../agent/agent-types.js';
import { SOFTWARE } from '../../software.js';
import { findAgent, runningAgent } from '../agent-process.js';
import { printResult, type GlobalOptions } from '../output.js';

const END_WAIT_MS = 60_000;
const REPLACED_WAIT_MS = 120_000;
const LOOK_INTERVAL_MS = 100;

export async function upgrade(options: GlobalOptions): Promise<void> {
  const before = await runningAgent(options);
  const found = before === undefined ? undefined : await statusOf(before.client);
  if (before !== undefined && (found === undefined || !isAll(found))) {
    await before.client.post(AGENT_PATHS.leave);
    await until(
      'the agent that runs does not end',
      END_WAIT_MS,
      async () => (await runningAgent(options)) === undefined,
    );
  }
  const { client } = await findAgent(options);
  let now: AgentStatus | undefined;
  await until('not everything could be replaced; see log/supervisor.log in the home', REPLACED_WAIT_MS, async () => {
    now = await statusOf(client);
    return now !== undefined && isAll(now);
  });
  const machines = now?.machines.filter(({ state }) => state === 'running' || state === 'paused').length ?? 0;
  printResult(
    options,
    { software: SOFTWARE, before: found?.agent.software ?? null, machines },
    `${SOFTWARE} runs${found === undefined || found.agent.software === SOFTWARE ? '' : ` in the place of ${found.agent.software}`}.${
      machines === 0 ? '' : ` ${String(machines)} ${machines === 1 ? 'machine has' : 'machines have'} gone on.`
    }`,
  );
}

/** Undefined when an agent of another protocol answers. */
async function statusOf(client: { get(path: string): Promise<unknown> }): Promise<AgentStatus | undefined> {
  try {
    return (await client.get(AGENT_PATHS.status)) as AgentStatus;
  } catch (error) {
    if (error instanceof CollectiveError && error.code === 'other-software') return undefined;
    throw error;
  }
}

/** What runs is of this software; a supervisor is there when machines are. */
function isAll({ agent, supervisor }: AgentStatus): boolean {
  if (agent.software !== SOFTWARE) return false;
  if (!supervisor.running) return supervisor.wanted !== true;
  return supervisor.software === SOFTWARE && supervisor.blockdSoftware === SOFTWARE;
}

async function until(what: string, timeoutMs: number, isSo: () => Promise<boolean>): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > giveUpAt) throw new CollectiveError('agent-unreachable', `${what}.`);
    await delay(LOOK_INTERVAL_MS);
  }
}
