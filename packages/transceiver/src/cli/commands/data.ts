/** collective snapshots, undo, reset, delete, continue: what a person does with the data of an appliance. */
import { resolve } from 'node:path';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import type {
  ContinueReply,
  RestoreReply,
  SnapshotRow,
  SnapshotsReply,
  TakeSnapshotReply,
  UndoReply,
} from '../../agent/data-types.js';
import type { AgentClient } from '../agent-client.js';
import { findAgent } from '../agent-process.js';
import {
  Interrupted,
  interruptSignal,
  megabytes,
  note,
  printResult,
  progressView,
  timeOf,
  type GlobalOptions,
} from '../output.js';
import { askLine, isInteractive } from '../prompt.js';
import { table } from '../table.js';

export async function listSnapshots(
  name: string,
  options: GlobalOptions & { readonly deleted?: boolean },
): Promise<void> {
  const { client } = await findAgent(options);
  const reply = await snapshotsOf(client, name, options.deleted === true);
  printResult(
    options,
    reply,
    reply.snapshots.length === 0 ? `Nothing of ${name} has been saved yet.` : snapshotTable(reply.snapshots),
  );
}

export async function takeSnapshot(name: string, options: GlobalOptions & { readonly wait: boolean }): Promise<void> {
  const { client } = await findAgent(options);
  const view = await progressView();
  const reply = (await client
    .job(AGENT_PATHS.snapshotsTake, { name, wait: options.wait }, { onEvent: view.show, signal: interruptSignal() })
    .finally(view.end)) as TakeSnapshotReply;
  const said =
    reply.number === null
      ? options.wait
        ? `Nothing of ${name} has changed since it was saved.`
        : `A snapshot of ${name} is made and will be saved.`
      : `${name} is saved as snapshot ${String(reply.number)} (${megabytes(reply.sentBytes)} sent).`;
  printResult(options, reply, said);
}

/** Serves a disk of an old snapshot until Ctrl-C, or shows it to the running guest. */
export async function openSnapshot(
  name: string,
  snapshot: string,
  options: GlobalOptions & { readonly disk?: string; readonly socket?: string },
): Promise<void> {
  const { client } = await findAgent(options);
  const wanted = {
    name,
    snapshot: snapshotNumber(snapshot),
    ...(options.disk === undefined ? {} : { disk: options.disk }),
  };
  if (options.socket === undefined) {
    await client.post(AGENT_PATHS.snapshotsShow, wanted);
    printResult(
      options,
      wanted,
      `Snapshot ${snapshot} is a read-only disk of ${name} now. collective snapshots close ${name} ${snapshot} takes it away.`,
    );
    return;
  }
  const socket = resolve(options.socket);
  const view = await progressView();
  try {
    await client.job(
      AGENT_PATHS.snapshotsOpen,
      { ...wanted, socket },
      {
        signal: interruptSignal(),
        onEvent: (event) => {
          if (event.event !== 'progress' || event.step !== 'serving') return view.show(event);
          if (options.json)
            process.stdout.write(
              `${JSON.stringify({ serving: true, uri: `nbd+unix:///?socket=${socket}`, socket })}\n`,
            );
          else note(`${event.text} Ctrl-C ends it.`);
        },
      },
    );
  } catch (error) {
    // Ctrl-C is how it ends well.
    if (!(error instanceof Interrupted)) throw error;
  } finally {
    view.end();
  }
}

export async function closeSnapshot(name: string, snapshot: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  await client.post(AGENT_PATHS.snapshotsShow, { name, snapshot: snapshotNumber(snapshot), close: true });
  printResult(options, { name, snapshot }, `Snapshot ${snapshot} is no disk of ${name} any more.`);
}

export async function restoreSnapshot(name: string, snapshot: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  await client.post(AGENT_PATHS.snapshotsRestore, { name, snapshot: snapshotNumber(snapshot) });
  printResult(options, { name, snapshot }, `Snapshot ${snapshot} of ${name} is there again, and is kept.`);
}

export async function saveEvery(name: string, text: string, options: GlobalOptions): Promise<void> {
  const seconds = Number(text);
  if (!Number.isInteger(seconds) || seconds < 5 || seconds > 86_400)
    throw new CollectiveError('usage', 'Say after how many seconds, from 5 to 86400.');
  const { client } = await findAgent(options);
  await client.post(AGENT_PATHS.snapshotsEvery, { name, seconds });
  printResult(options, { name, seconds }, `What is written to ${name} is saved every ${String(seconds)} s.`);
}

/** Without a number the list is shown and asked for one. */
export async function undo(name: string, snapshot: string | undefined, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const wanted = snapshot ?? (await askSnapshot(client, name));
  const view = await progressView();
  const reply = (await client
    .job(
      AGENT_PATHS.undo,
      { name, snapshot: snapshotNumber(wanted) },
      { onEvent: view.show, signal: interruptSignal() },
    )
    .finally(view.end)) as UndoReply;
  printResult(
    options,
    reply,
    `${name} is as it was in snapshot ${String(reply.snapshot)}, which is snapshot ${String(reply.number)} now. ` +
      `It was written by version ${String(reply.writtenBy)}: collective start ${name}@${String(reply.writtenBy)} starts both as they were. ` +
      `To undo this: collective undo ${name} ${String(reply.before)}.` +
      (reply.unfinished === undefined ? '' : ` ${reply.unfinished}`),
  );
}

export async function reset(name: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  await client.post(AGENT_PATHS.reset, { name });
  printResult(
    options,
    { name },
    `${name} begins anew at its next start: temporary disks and memory are gone, your own disk is kept.`,
  );
}

export async function deleteSubscription(
  name: string,
  options: GlobalOptions & { readonly yes?: boolean },
): Promise<void> {
  const { client } = await findAgent(options);
  const confirmation =
    options.yes === true
      ? name
      : await askLine(
          `Your own disk of ${name} is deleted, here and later (after 30 days, unless its administrator has set another time) on the server too. Type ${name} to go on: `,
        );
  await client.post(AGENT_PATHS.delete, { name, confirmation });
  printResult(
    options,
    { name },
    `${name} is deleted. For 30 days, unless the repository’s administrator has set another time, it can be brought back: collective restore ${name}.`,
  );
}

export async function restoreSubscription(name: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const reply = (await client.post(AGENT_PATHS.restore, { name })) as RestoreReply;
  const as = reply.name === name ? '' : `, as ${reply.name}: there is another ${name} now`;
  printResult(options, reply, `${name} is there again${as}. collective start ${reply.name} goes on with it.`);
}

export async function continueHere(
  name: string,
  options: GlobalOptions & { readonly here?: boolean; readonly both?: boolean; readonly discard?: boolean },
): Promise<void> {
  const { here, both, discard } = options;
  if ((here === true) === (both === true) || (discard === true && here !== true))
    throw new CollectiveError(
      'usage',
      'Say --here (this machine goes on, the other state stays as a snapshot; with --discard without what is lost) or --both (this machine’s becomes a subscription of its own).',
    );
  const { client } = await findAgent(options);
  const reply = (await client.post(AGENT_PATHS.continue, {
    name,
    which: here === true ? 'here' : 'both',
    ...(discard === true ? { discard } : {}),
  })) as ContinueReply;
  printResult(
    options,
    reply,
    reply.addedName === undefined
      ? `${name} goes on here. What the repository has stays among its snapshots.`
      : `What was here is ${reply.addedName} now; ${name} is what the repository has.`,
  );
}

const snapshotsOf = async (client: AgentClient, name: string, isDeleted: boolean): Promise<SnapshotsReply> => {
  const query = new URLSearchParams({ name, ...(isDeleted ? { which: 'deleted' } : {}) });
  return (await client.get(`${AGENT_PATHS.snapshots}?${query.toString()}`)) as SnapshotsReply;
};

const snapshotTable = (snapshots: readonly SnapshotRow[]): string =>
  table(
    ['SNAPSHOT', 'SAVED', 'MADE FOR', 'ADDED', ''],
    snapshots.map(({ number, committedAt, reason, addedBytes, pinned, isHead, deletedAt }) => [
      String(number),
      timeOf(committedAt),
      REASONS[reason],
      megabytes(addedBytes),
      [
        ...(isHead ? ['newest'] : []),
        ...(pinned ? ['kept'] : []),
        ...(deletedAt === null ? [] : [`deleted ${timeOf(deletedAt)}`]),
      ].join(', '),
    ]),
  );

const REASONS: Readonly<Record<SnapshotRow['reason'], string>> = {
  start: 'a start',
  stop: 'a stop',
  periodic: 'the time',
  request: 'you',
  update: 'a new version',
  suspend: 'a suspend',
  undo: 'an undo',
};

async function askSnapshot(client: AgentClient, name: string): Promise<string> {
  const { snapshots } = await snapshotsOf(client, name, false);
  if (!isInteractive())
    throw new CollectiveError('usage', `Say which snapshot: collective snapshots ${name} lists them.`);
  note(snapshotTable(snapshots));
  return askLine('Which snapshot? ');
}

function snapshotNumber(text: string): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1 || number > 2 ** 31 - 1)
    throw new CollectiveError('usage', `"${text}" is no number of a snapshot.`);
  return number;
}
