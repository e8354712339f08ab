/** collective maintain, publish --from-maintain, candidates, promote, withdraw, update, mandatory: versions and who gets them. */
import { readFile } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared/errors';
import {
  AGENT_PATHS,
  type CandidateRow,
  type MaintainReply,
  type PromoteReply,
  type PublishMaintainedRequest,
  type PublishReply,
  type UpdatesReply,
  type WithdrawReply,
} from '../../agent/agent-types.js';
import { DEFAULT_CLEAN_UP, type CleanUpCommand } from '../../publish/clean-up.js';
import { parseReference } from '../../agent/reference.js';
import { findAgent } from '../agent-process.js';
import {
  Interrupted,
  interruptSignal,
  note,
  printResult,
  progressView,
  timeOf,
  type GlobalOptions,
} from '../output.js';
import { askLine } from '../prompt.js';
import { table } from '../table.js';

/** Runs a job of the agent and shows how far it is. */
async function runJob(options: GlobalOptions, path: string, body: unknown): Promise<unknown> {
  const { client } = await findAgent(options);
  const view = await progressView();
  return client.job(path, body, { onEvent: view.show, signal: interruptSignal() }).finally(view.end);
}

export type MaintainOptions = GlobalOptions & {
  readonly discard?: boolean;
  readonly waitFor?: string;
  readonly waitSeconds?: string;
  readonly accel?: string;
};

export async function maintain(name: string, options: MaintainOptions): Promise<void> {
  if (options.discard === true) {
    const { client } = await findAgent(options);
    await client.post(AGENT_PATHS.maintainDiscard, { name });
    printResult(
      options,
      { name, discarded: true },
      `The maintain session of ${name} is gone, with all that was changed in it.`,
    );
    return;
  }
  const seconds = Number(options.waitSeconds ?? 600);
  if (!Number.isFinite(seconds) || seconds <= 0)
    throw new CollectiveError('usage', '--wait-seconds wants a number above 0.');
  const reply = (await runJob(options, AGENT_PATHS.maintain, {
    name,
    ...(options.accel === undefined ? {} : { accel: options.accel }),
    ...(options.waitFor === undefined ? {} : { waitFor: options.waitFor, waitMs: Math.ceil(seconds * 1000) }),
  })) as MaintainReply;
  const appliance = parseReference(name).name;
  const says = `${reply.machine} is running, ${reply.goesOn ? 'as it was left; it began as' : 'as'} version ${String(reply.version)}. What is changed in it is kept until collective publish ${appliance} --from-maintain, or collective maintain ${appliance} --discard.`;
  printResult(options, reply, [...reply.notes, says].join('\n'));
}

export type PublishMaintainedOptions = GlobalOptions & {
  readonly machine?: string;
  readonly title?: string;
  readonly notes?: string;
  readonly cleanUp: boolean;
  readonly for: readonly string[];
  readonly yes?: boolean;
  readonly bootTest: boolean;
  readonly bootText?: string;
};

/** The clean-up is shown first; without --yes the publisher has to agree to it. Gives the agent's answer. */
export async function publishMaintained(
  name: string,
  options: PublishMaintainedOptions,
  bootTimeoutMs: number | undefined,
): Promise<PublishReply> {
  const own = options.machine === undefined ? undefined : await recipeCleanUp(options.machine);
  const commands = options.cleanUp ? (own ?? DEFAULT_CLEAN_UP) : [];
  await agreeTo(commands, options);
  const request: PublishMaintainedRequest = {
    name,
    cleanUp: commands.map(({ command }) => command),
    candidateFor: options.for,
    bootTest: options.bootTest,
    ...(options.title === undefined ? {} : { title: options.title }),
    ...(options.notes === undefined ? {} : { notes: options.notes }),
    ...(options.bootText === undefined ? {} : { bootText: options.bootText }),
    ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
  };
  return (await runJob(options, AGENT_PATHS.publishMaintained, request)) as PublishReply;
}

async function agreeTo(commands: readonly CleanUpCommand[], options: PublishMaintainedOptions): Promise<void> {
  if (commands.length === 0) {
    note('Nothing is cleaned up: machine id, host keys, logs and caches go out as they are.');
  } else {
    note('Before it shuts down, this is run in the guest:');
    for (const { what, command } of commands) note(`  ${what}: ${command}`);
  }
  if (options.yes === true) return;
  const answer = await askLine('Go on? [y/N] ');
  if (!/^y(es)?$/i.test(answer)) throw new Interrupted();
}

/** The `cleanUp` of a recipe's appliance.json: a list of commands. Undefined when it has none. */
async function recipeCleanUp(path: string): Promise<readonly CleanUpCommand[] | undefined> {
  let recipe: unknown;
  try {
    recipe = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new CollectiveError('not-found', `The recipe ${path} cannot be read.`, { cause });
  }
  if (typeof recipe !== 'object' || recipe === null || !('cleanUp' in recipe)) return undefined;
  const { cleanUp } = recipe;
  if (!Array.isArray(cleanUp) || !cleanUp.every((command): command is string => typeof command === 'string'))
    throw new CollectiveError('usage', `cleanUp of ${path} is no list of commands.`);
  return cleanUp.map((command) => ({ what: 'recipe', command }));
}

export type CandidatesOptions = GlobalOptions & {
  readonly add: readonly string[];
  readonly remove: readonly string[];
};

export async function candidates(text: string, options: CandidatesOptions): Promise<void> {
  const { name, version } = parseReference(text);
  const rows = (await runJob(options, AGENT_PATHS.candidates, {
    name,
    ...(version === undefined ? {} : { version }),
    ...(options.add.length === 0 ? {} : { add: options.add }),
    ...(options.remove.length === 0 ? {} : { remove: options.remove }),
  })) as readonly CandidateRow[];
  const lines = rows.map((row) => [String(row.version), row.accounts.join(', ')]);
  printResult(options, rows, lines.length === 0 ? `${name} has no candidate.` : table(['VERSION', 'FOR'], lines));
}

export async function promote(text: string, options: GlobalOptions): Promise<void> {
  const reply = (await runJob(options, AGENT_PATHS.promote, parseReference(text))) as PromoteReply;
  printResult(options, reply, `${reply.name}@${String(reply.version)} is the version for all now.`);
}

export async function withdraw(text: string, options: GlobalOptions): Promise<void> {
  const reply = (await runJob(options, AGENT_PATHS.withdraw, parseReference(text))) as WithdrawReply;
  const { name, withdrawn, republished } = reply;
  const then =
    republished === null
      ? ''
      : ` Version ${String(republished.version)} is for all now: the state of version ${String(republished.from)}.`;
  printResult(options, reply, `${name}@${String(withdrawn)} is withdrawn.${then}`);
}

export async function update(name: string | undefined, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.post(AGENT_PATHS.updates, name === undefined ? {} : { name })) as UpdatesReply;
  if (reply.note !== undefined && !options.json) note(reply.note);
  const lines = reply.updates.map((row) => {
    const what = row.isCandidate ? `candidate ${String(row.newest)}` : String(row.newest);
    const running = row.running === null ? '-' : String(row.running);
    const isBehind = row.running !== null && row.running < row.newest;
    const { mandatory } = row;
    const must = mandatory === null ? '' : `${String(mandatory.version)} from ${timeOf(mandatory.from)}`;
    return [row.name, running, what, isBehind ? 'the next start uses it' : '', must];
  });
  printResult(
    options,
    reply,
    lines.length === 0
      ? 'There is no appliance for you yet.'
      : table(['NAME', 'RUNNING', 'NEWEST', '', 'MANDATORY'], lines),
  );
}

export type MandatoryOptions = GlobalOptions & {
  readonly from?: string;
  readonly graceDays?: string;
  readonly off?: boolean;
};

export async function mandatory(text: string, options: MandatoryOptions): Promise<void> {
  const { name, version } = parseReference(text);
  const { client } = await findAgent(options);
  if (options.off === true) {
    await client.post(AGENT_PATHS.mandatory, { name, mark: null });
    printResult(options, { name, mandatory: null }, `No version of ${name} is mandatory any more.`);
    return;
  }
  if (version === undefined)
    throw new CollectiveError('usage', 'Say which version is mandatory: NAME@VERSION, or NAME --off.');
  const from = options.from === undefined ? Date.now() : Date.parse(options.from);
  if (!Number.isFinite(from)) throw new CollectiveError('usage', `"${options.from ?? ''}" is no date like 2027-01-31.`);
  const graceDays = Number(options.graceDays ?? 7);
  if (!Number.isInteger(graceDays) || graceDays < 0 || graceDays > 3_650)
    throw new CollectiveError('usage', '--grace-days wants a whole number from 0 to 3650.');
  const mark = { version, from: Math.floor(from / 1000), graceDays };
  await client.post(AGENT_PATHS.mandatory, { name, mark });
  printResult(
    options,
    { name, mandatory: mark },
    `${name}@${String(version)} or a newer version is mandatory from ${timeOf(mark.from)}; where the repository cannot be reached, an older one starts for ${String(graceDays)} days more.`,
  );
}
