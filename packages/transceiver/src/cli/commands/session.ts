/** collective logout, collective appliances, collective shutdown: small calls of the agent. */
import { AGENT_PATHS, type AppliancesReply } from '../../agent/agent-types.js';
import { findAgent, runningAgent } from '../agent-process.js';
import { note, printResult, type GlobalOptions } from '../output.js';
import { table } from '../table.js';

export async function logout(options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  await client.post(AGENT_PATHS.logout);
  printResult(options, { loggedOut: true }, 'Logged out. The keys of the session are erased.');
}

export async function appliances(options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.get(AGENT_PATHS.appliances)) as AppliancesReply;
  if (reply.note !== undefined && !options.json) note(reply.note);
  const rows = reply.appliances.map((row) => [
    row.name,
    row.latest === null ? '-' : String(row.latest),
    row.access,
    row.title,
  ]);
  printResult(
    options,
    reply,
    rows.length === 0 ? 'There is no appliance for you yet.' : table(['NAME', 'VERSION', 'ACCESS', 'TITLE'], rows),
  );
}

export async function shutdown(options: GlobalOptions): Promise<void> {
  const found = await runningAgent(options);
  if (found === undefined) {
    printResult(options, { running: false }, 'No agent is running.');
    return;
  }
  await found.client.post(AGENT_PATHS.shutdown);
  printResult(options, { running: false }, 'The agent and what belongs to it have ended.');
}
