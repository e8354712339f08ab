/** collective publish NAME --disk system=FILE …, or --from-maintain: a new appliance, or its next version. The agent does the work. */
import { readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type PublishReply } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { interruptSignal, megabytes, printResult, progressView, type GlobalOptions } from '../output.js';

export type PublishOptions = GlobalOptions & {
  readonly disk: readonly string[];
  readonly machine?: string;
  readonly title?: string;
  readonly notes?: string;
  readonly bootTest: boolean;
  readonly bootText?: string;
  readonly bootSeconds?: string;
  readonly candidate?: boolean;
  readonly for: readonly string[];
  readonly fromMaintain?: boolean;
  readonly cleanUp: boolean;
  readonly yes?: boolean;
};

export async function publish(name: string, options: PublishOptions): Promise<void> {
  const bootSeconds = options.bootSeconds === undefined ? undefined : Number(options.bootSeconds);
  if (bootSeconds !== undefined && !(bootSeconds > 0))
    throw new CollectiveError('usage', '--boot-seconds wants a number above 0.');
  const bootTimeoutMs = bootSeconds === undefined ? undefined : Math.ceil(bootSeconds * 1000);
  if (options.fromMaintain === true) {
    if (options.disk.length > 0) throw new CollectiveError('usage', '--from-maintain has its disk: leave out --disk.');
    const { publishMaintained } = await import('./versions.js');
    return printPublished(options, await publishMaintained(name, options, bootTimeoutMs));
  }
  const given = options.disk.map(parseDisk);
  const disks = [
    ...given,
    ...(await recipeDisks(
      options.machine,
      given.map((disk) => disk.name),
    )),
  ];
  if (disks.length === 0) throw new CollectiveError('usage', 'Say which file is the system disk: --disk system=FILE.');
  const machine = options.machine === undefined ? undefined : await readText(options.machine);
  const { client } = await findAgent(options);
  const view = await progressView();
  const reply = (await client
    .job(
      AGENT_PATHS.publish,
      {
        name,
        disks,
        bootTest: options.bootTest,
        ...(machine === undefined ? {} : { machine }),
        ...(options.title === undefined ? {} : { title: options.title }),
        ...(options.notes === undefined ? {} : { notes: options.notes }),
        ...(options.bootText === undefined ? {} : { bootText: options.bootText }),
        ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
        ...(options.candidate === true || options.for.length > 0 ? { candidateFor: options.for } : {}),
      },
      { onEvent: view.show, signal: interruptSignal() },
    )
    .finally(view.end)) as PublishReply;
  printPublished(options, reply);
}

function printPublished(options: PublishOptions, reply: PublishReply): void {
  const what = reply.candidate === true ? 'a candidate, until collective promote makes it the version for all; ' : '';
  printResult(
    options,
    reply,
    `Published ${reply.name}@${String(reply.version)}: ${what}${megabytes(reply.usedBytes)} used of ${megabytes(reply.diskBytes)}, ${String(reply.changedBlocks)} blocks changed, sent ${megabytes(
      reply.sentBytes,
    )}, fetched ${megabytes(reply.receivedBytes)}, ${reply.seconds.toFixed(1)} s.`,
  );
}

/** `NAME=FILE`, `NAME=FORMAT:FILE`, or `FILE` for the system disk. */
function parseDisk(text: string): { readonly name: string; readonly file: string; readonly format?: string } {
  const match = /^([a-z][a-z0-9-]{0,30})=(.+)$/.exec(text);
  const name = match?.[1] ?? 'system';
  const rest = match?.[2] ?? text;
  const format = /^(raw|qcow2|qcow|qed|vdi|vhdx|vpc|vmdk):(.+)$/.exec(rest);
  return format?.[2] === undefined || format[1] === undefined
    ? { name, file: resolve(rest) }
    : { name, file: resolve(format[2]), format: format[1] };
}

/** The images that a recipe's appliance.json names beside it, of the disks that were not given. The agent checks the rest. */
async function recipeDisks(
  path: string | undefined,
  given: readonly string[],
): Promise<{ readonly name: string; readonly file: string }[]> {
  if (path === undefined) return [];
  let recipe: unknown;
  try {
    recipe = JSON.parse(await readText(path));
  } catch (error) {
    if (error instanceof CollectiveError) throw error;
    return [];
  }
  const disks: unknown = typeof recipe === 'object' && recipe !== null && 'disks' in recipe ? recipe.disks : undefined;
  if (!Array.isArray(disks)) return [];
  return disks.flatMap((disk: unknown) => {
    if (typeof disk !== 'object' || disk === null || !('name' in disk) || !('file' in disk)) return [];
    const { name, file } = disk;
    const isPlain =
      typeof name === 'string' && typeof file === 'string' && basename(file) === file && !given.includes(name);
    return isPlain ? [{ name, file: resolve(dirname(path), file) }] : [];
  });
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new CollectiveError('not-found', `The machine description ${path} cannot be read.`, { cause });
  }
}
