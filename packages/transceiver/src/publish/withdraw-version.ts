/**
 * withdraw: the older state again, under the next number; then the withdrawn version is marked. No chunk is sent: the
 * repository has all of them, and rebuilds the maps from "no change since". A candidate, or a version that is not the one
 * for all any more, is only marked. After a kill between the two steps the same command, with the number, does the rest.
 */
import {
  ChangedPairs,
  CollectiveError,
  encodeChangedPairs,
  mapColumns,
  type DiskDescription,
  type SigningKey,
} from '@collective/shared';
import type { WithdrawReply, WithdrawRequest } from '../agent/agent-types.js';
import type { TrustSource, VerifiedVersion } from '../agent/trust-client.js';
import { allowedPublishingKey } from './publishing-key.js';
import { checkNextVersion, commitVersion, explainConflict, type PublishParts } from './send-version.js';
import { openUpload } from './upload-session.js';

type WithdrawParts = Pick<PublishParts, 'session' | 'home' | 'job'>;

/** Errors: `not-found`, `conflict` when there is nothing older to go back to, or somebody was faster; `not-allowed`. */
export async function withdrawVersion(
  { name, version }: WithdrawRequest,
  parts: WithdrawParts,
): Promise<WithdrawReply> {
  const { session, job } = parts;
  const { signal } = job;
  const { source, note } = await session.refresh(signal);
  if (source === undefined)
    throw new CollectiveError('repository-unreachable', note ?? 'Withdrawing needs the repository.');
  const key = await allowedPublishingKey(session, name, signal);
  const isForAll = session.trust.heads?.heads.some((head) => head.appliance === name) ?? false;
  const head = isForAll ? await session.trust.released(name, source) : undefined;
  const withdrawn = version ?? head?.manifest.version;
  const rows = await session.client.call('versions', { params: { name }, signal });
  if (withdrawn === undefined || !rows.some((row) => row.version === withdrawn))
    throw new CollectiveError('not-found', `${name} has no version ${String(withdrawn ?? '')} to withdraw.`);
  let republished: { readonly version: number; readonly from: number } | null = null;
  if (head !== undefined && withdrawn === head.manifest.version) {
    const older = await stateBefore(head, rows, { session, source, job });
    republished = { version: await republish(older, head, { key, parts }), from: older.manifest.version };
  }
  await session.client.call('withdrawVersion', { params: { name, version: withdrawn }, signal });
  await session.refresh(signal);
  return { name, withdrawn, republished };
}

/**
 * The newest version before `head` that is not withdrawn: along the chain of parents, which publishers have signed. The
 * repository's list says only which of them were withdrawn, and the publisher is told of each.
 */
async function stateBefore(
  head: VerifiedVersion,
  rows: readonly { readonly version: number; readonly withdrawn: boolean }[],
  { session, source, job }: Pick<WithdrawParts, 'session' | 'job'> & { readonly source: TrustSource },
): Promise<VerifiedVersion> {
  const { appliance: name, version: withdrawn } = head.manifest;
  for (let { parent } = head.manifest; parent !== null;) {
    const older = await session.trust.version(name, parent.version, source);
    const row = rows.find(({ version }) => version === older.manifest.version);
    if (row?.withdrawn === false) return older;
    const state = row === undefined ? 'deleted' : 'withdrawn';
    job.emit({ event: 'note', text: `${name}@${String(older.manifest.version)} was ${state}: it is passed over.` });
    parent = older.manifest.parent;
  }
  throw new CollectiveError('conflict', `There is no version of ${name} before ${String(withdrawn)} to go back to.`);
}

/** Makes the state of `older` the version after `head`; gives its number. */
async function republish(
  older: VerifiedVersion,
  head: VerifiedVersion,
  by: { readonly key: SigningKey; readonly parts: WithdrawParts },
): Promise<number> {
  const { session, home, job } = by.parts;
  const { signal } = job;
  const { appliance: name, version: olderVersion, machine, title, disks } = older.manifest;
  const headVersion = head.manifest.version;
  const opened = await openUpload(
    { repository: session.device.repository.identity, appliance: name, parent: headVersion },
    { uploadsDirectory: home.uploadsDirectory, client: session.client, signal },
  ).catch(explainConflict(name));
  const { upload } = opened;
  for (const disk of disks) if (disk.root !== null) await sendUnchanged(upload, disk, olderVersion, by.parts);
  const notes = `Version ${String(headVersion)} was withdrawn. This is version ${String(olderVersion)} again.`;
  const committed = await commitVersion(
    upload,
    {
      name,
      version: checkNextVersion(name, opened.nextVersion, headVersion),
      draft: { machine, title, notes, disks: disks.map((description) => ({ description })) },
      parent: head,
      base: older,
      contents: [],
      isCandidate: false,
    },
    { key: by.key, session, signal },
  ).catch(explainConflict(name));
  await opened.forget();
  return committed.version;
}

async function sendUnchanged(
  upload: string,
  disk: DiskDescription,
  since: number,
  { session, job }: WithdrawParts,
): Promise<void> {
  const { root } = await session.client.call('uploadDisk', {
    params: { upload, disk: disk.name },
    query: { since: String(since) },
    body: encodeChangedPairs(new ChangedPairs(disk, new Uint32Array(0), mapColumns(0))),
    signal: job.signal,
  });
  if (root !== disk.root)
    throw new CollectiveError(
      'digest-mismatch',
      `The repository built the map ${root} for disk ${disk.name}, its version has ${String(disk.root)}.`,
    );
}
