/** collective logout, collective appliances, collective shutdown: small calls of the agent. */
import { AGENT_PATHS, type AppliancesReply, type LogoutReply, type VersionAtHand } from '../../agent/agent-types.js';
import { findAgent, runningAgent } from '../agent-process.js';
import { interruptSignal, megabytes, note, printResult, progressView, timeOf, type GlobalOptions } from '../output.js';
import { table } from '../table.js';

export type LogoutOptions = GlobalOptions & {
  readonly stop?: boolean;
  readonly discard?: boolean;
  readonly remove?: boolean;
};

export async function logout(options: LogoutOptions): Promise<void> {
  const { client } = await findAgent(options);
  const view = await progressView();
  const request = {
    ...(options.stop === true ? { stop: true } : {}),
    ...(options.discard === true ? { discard: true } : {}),
    ...(options.remove === true ? { remove: true } : {}),
  };
  const { removed, notes } = (await client
    .job(AGENT_PATHS.logout, request, { onEvent: view.show, signal: interruptSignal() })
    .finally(view.end)) as LogoutReply;
  const text = removed
    ? 'Logged out. Everything of yours is removed from this machine.'
    : 'Logged out. The keys of the session are erased.';
  printResult(options, { loggedOut: true, removed, notes }, [text, ...notes].join('\n'));
}

export async function appliances(options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.get(AGENT_PATHS.appliances)) as AppliancesReply;
  if (reply.note !== undefined && !options.json) note(reply.note);
  const rows = reply.appliances.map((row) => [
    row.name,
    row.latest === null ? '-' : String(row.latest),
    row.access,
    (row.atHand ?? []).map(hereText).join(', '),
    row.title,
  ]);
  const list =
    rows.length === 0
      ? 'There is no appliance for you yet.'
      : table(['NAME', 'VERSION', 'ACCESS', 'HERE', 'TITLE'], rows);
  printResult(
    options,
    reply,
    [
      list,
      ...(reply.subscriptions.length === 0 ? [] : ['', 'Your own disks:', subscriptionTable(reply.subscriptions)]),
    ].join('\n'),
  );
}

/** collective appliances --deleted. */
export async function deletedSubscriptions(options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const { deleted } = (await client.get(AGENT_PATHS.appliances)) as AppliancesReply;
  const rows = deleted.map(({ name, appliance, savedAt, deletedAt }) => [
    ...[name, appliance, savedAt === null ? '-' : timeOf(savedAt), timeOf(deletedAt)],
  ]);
  printResult(
    options,
    { deleted },
    rows.length === 0
      ? 'Nothing of yours was deleted lately.'
      : `${table(['NAME', 'APPLIANCE', 'SAVED', 'DELETED'], rows)}\ncollective restore NAME brings one back, for 30 days unless the repository’s administrator has set another time.`,
  );
}

const subscriptionTable = (rows: AppliancesReply['subscriptions']): string =>
  table(
    ['NAME', 'APPLIANCE', 'SAVED', 'BY', 'HERE'],
    rows.map(({ name, appliance, savedAt, savedBy, here }) => [
      ...[name, appliance, savedAt === null ? '-' : timeOf(savedAt), savedBy ?? '-'],
      here === null ? 'no' : here === name ? 'yes' : `as ${here}`,
    ]),
  );

/** What this machine has of a version. */
const hereText = ({ version, bytes, missingBytes }: VersionAtHand): string =>
  missingBytes === 0
    ? `${String(version)}: all ${megabytes(bytes)}`
    : `${String(version)}: missing ${megabytes(missingBytes)} of ${megabytes(bytes)}`;

export async function shutdown(options: GlobalOptions): Promise<void> {
  const found = await runningAgent(options);
  if (found === undefined) {
    printResult(options, { running: false }, 'No agent is running.');
    return;
  }
  await found.client.post(AGENT_PATHS.shutdown);
  printResult(options, { running: false }, 'The agent and what belongs to it have ended.');
}
