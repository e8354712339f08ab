/**
 * The commit of a publish, whatever becomes of its answer. A server that fails after it has created the manifest (its disk
 * is full, it dies, the line breaks) has made a version all the same; so the same bytes are sent again, which are
 * answered as the first time, and when that does not tell either, the signed heads do.
 */
import { CollectiveError, hasCode, sha256, type Digest, type ErrorCode } from '@collective/shared';
import type { Session } from '../agent/session.js';
import type { TrustClient } from '../agent/trust-client.js';
import type { RepositoryClient } from '../repository/repository-client.js';

export type SignedManifest = { readonly name: string; readonly version: number; readonly envelope: Buffer };
export type CommitParts = {
  readonly client: Pick<RepositoryClient, 'call'>;
  readonly refresh: Session['refresh'];
  readonly trust: Pick<TrustClient, 'version' | 'announced'>;
  readonly signal: AbortSignal;
};

/** After these, the version may be there. */
const UNDECIDED: ReadonlySet<ErrorCode> = new Set([
  'disk-full',
  'local-io',
  'internal',
  'repository-unreachable',
  'shutting-down',
  'malformed',
]);

/** After an undecided answer, these decide: the server says them only of bytes that it has not made a version of. */
const DECIDED: ReadonlySet<ErrorCode> = new Set(['conflict', 'block-missing', 'digest-mismatch', 'bad-request']);

/** Errors: those of the commit; with `data.undecided`, the version may have been made nevertheless, and the message says what to do. */
export async function commitManifest(
  upload: string,
  signed: SignedManifest,
  parts: CommitParts,
): Promise<{ readonly version: number; readonly manifest: Digest }> {
  const { client, signal } = parts;
  const { name, version, envelope } = signed;
  const ask = async (): Promise<{ readonly version: number; readonly manifest: Digest }> =>
    client.call('commitUpload', { params: { upload }, body: envelope, signal });
  try {
    return await ask();
  } catch (error) {
    if (!isUndecided(error)) throw error;
  }
  try {
    return await ask();
  } catch (error) {
    signal.throwIfAborted();
    if (await isPublished(signed, parts)) return { version, manifest: sha256(envelope) };
    if (!(error instanceof CollectiveError) || DECIDED.has(error.code)) throw error;
    throw new CollectiveError(
      error.code,
      `Whether ${name}@${String(version)} was published is not known: the repository failed at the last step (${reasonOf(error)}). When it works again, look whether version ${String(version)} is there (collective appliances); if it is not, publish again: what was sent already is not sent again.`,
      { cause: error, data: { undecided: true } },
    );
  }
}

/** Do the heads, or the chain behind them, name this very manifest? False when they cannot be had. */
async function isPublished({ name, version, envelope }: SignedManifest, parts: CommitParts): Promise<boolean> {
  try {
    const { source } = await parts.refresh(parts.signal);
    if (source === undefined) return false;
    const digest = parts.trust.announced(name, version) ?? (await parts.trust.version(name, version, source)).digest;
    return digest === sha256(envelope);
  } catch (error) {
    parts.signal.throwIfAborted();
    if (error instanceof CollectiveError) return false;
    throw error;
  }
}

/**
 * Says what to do about an upload that does not go on: the session has ended, it had become a version, or the repository
 * has no room.
 */
export async function explainUpload(
  error: unknown,
  {
    name,
    upload,
    client,
    signal,
  }: { readonly name: string; readonly upload: string } & Pick<CommitParts, 'client' | 'signal'>,
): Promise<unknown> {
  if (!(error instanceof CollectiveError) || error.data['undecided'] === true) return error;
  const explained = (text: string): CollectiveError =>
    new CollectiveError(error.code, text, { cause: error, data: error.data });
  if (error.code === 'disk-full')
    return explained(
      `The repository's disk is full; nothing of ${name} was published. Tell the administrator to make room, then publish again: what was sent already is not sent again.`,
    );
  if (error.code !== 'not-found') return error;
  const hasEnded = await client.call('upload', { params: { upload }, signal }).then(
    () => false,
    (asked: unknown) => hasCode(asked, 'not-found'),
  );
  if (!hasEnded) return error;
  return explained(
    `The repository has ended this upload of ${name}, because it took too long or was given up from elsewhere. Nothing was published. Publish again: that begins a new upload.`,
  );
}

const isUndecided = (error: unknown): boolean => error instanceof CollectiveError && UNDECIDED.has(error.code);

const reasonOf = (error: CollectiveError): string =>
  error.code === 'disk-full' ? "the repository's disk is full" : error.message.replace(/\.$/, '');
