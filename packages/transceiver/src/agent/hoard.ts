/**
 * `collective hoard`: a version is brought in whole, and its blocks stay in the cache whatever else is used, so that it runs without the repository.
 * One version an appliance: a newer one takes the place of the one before, whose blocks are let go of unless something else that is kept has them, too.
 *
 * May be given up and asked for again at any time: what is here is not fetched twice.
 */
import { CollectiveError } from '@collective/shared';
import { megabytes } from '../megabytes.js';
import type { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import type { JobContext } from './agent-server.js';
import type { HoardReply, HoardRequest } from './agent-types.js';
import { readHoard, writeHoard, type Hoarded } from './hoard-file.js';
import { keepBlocks } from './keep-blocks.js';
import type { BlockList, MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { parseReference } from './reference.js';
import { runnableVersion } from './runnable-version.js';
import type { Session } from './session.js';
import { blocksOf } from './versions-at-hand.js';

const DIGEST_BYTES = 32;

export type HoardParts = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'blockd'>;
  readonly session: Session;
  readonly job: JobContext;
};

/** Resolves when all of it is here, or let go of. Errors: those of Session.refresh and runnableVersion; `disk-full`, `not-found`. */
export async function hoard(request: HoardRequest, parts: HoardParts): Promise<HoardReply> {
  const { name, version } = parseReference(request.name);
  const kept = await readHoard(parts.home.hoardFile);
  const before = kept.find(({ appliance }) => appliance === name);
  const others = kept.filter(({ appliance }) => appliance !== name);
  if (request.isOff === true) {
    if (before === undefined) throw new CollectiveError('not-found', `${name} is not kept whole on this machine.`);
    await writeHoard(parts.home.hoardFile, others);
    await letGo(before, others, parts);
    return { name, version: null, blocks: 0, bytes: 0 };
  }
  const { session, objects, job } = parts;
  const { source, note } = await session.refresh(job.signal);
  if (note !== undefined) job.emit({ event: 'note', text: note });
  const wanted = { name, ...(version === undefined ? {} : { version }), isOnline: source !== undefined };
  const found = await runnableVersion(wanted, { session, objects, signal: job.signal });
  const now: Hoarded = { appliance: name, version: found.verified.manifest.version };
  await writeHoard(parts.home.hoardFile, [...others, ...(before === undefined ? [] : [before]), now].slice(-1_000));
  const lists = await listsOf(now, parts);
  const blocks = lists.reduce((sum, { digests }) => sum + digests.length / DIGEST_BYTES, 0);
  const bytes = lists.reduce((sum, { digests, blockBytes }) => sum + (digests.length / DIGEST_BYTES) * blockBytes, 0);
  const text = `Bringing in ${name}@${String(now.version)} (${megabytes(bytes)})`;
  await keepBlocks(parts.home, lists, {
    isKept: true,
    client: await blockdOf(parts),
    signal: job.signal,
    onProgress: (done) => job.emit({ event: 'progress', step: 'hoard', text, done, total: blocks }),
  });
  await writeHoard(parts.home.hoardFile, [...others, now]);
  if (before !== undefined && before.version !== now.version) await letGo(before, [...others, now], parts);
  return { name, version: now.version, blocks, bytes };
}

/** Blocks that nothing else that is kept has are evicted as others again. A version whose maps are gone names none. */
async function letGo(version: Hoarded, kept: readonly Hoarded[], parts: HoardParts): Promise<void> {
  const stay = new Set<string>();
  for (const each of kept)
    for (const list of await listsOf(each, parts)) for (const digest of eachOf(list)) stay.add(digest);
  const lists = (await listsOf(version, parts)).map(({ blockBytes, digests }) => ({
    blockBytes,
    digests: Buffer.concat(
      [...eachOf({ blockBytes, digests })]
        .filter((digest) => !stay.has(digest))
        .map((digest) => Buffer.from(digest, 'hex')),
    ),
  }));
  await keepBlocks(parts.home, lists, {
    isKept: false,
    client: await blockdOf(parts),
    signal: parts.job.signal,
    onProgress: () => undefined,
  });
}

const listsOf = async ({ appliance, version }: Hoarded, { objects, home }: HoardParts): Promise<readonly BlockList[]> =>
  (await blocksOf(appliance, version, { objects, machinesDirectory: home.machinesDirectory })) ?? [];

function* eachOf({ digests }: BlockList): Iterable<string> {
  for (let at = 0; at < digests.length; at += DIGEST_BYTES) yield digests.toString('hex', at, at + DIGEST_BYTES);
}

const blockdOf = async ({ machines, session }: HoardParts): Promise<Pick<ControlClient, 'request'>> =>
  machines.blockd(async () => session.blocks());
