/** The first meeting with a repository: its trust files from the one on that the join link pins, verified, then kept. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, followTrust, openFirstTrust, type Digest, type TrustFile } from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import type { TrustSource } from './trust-client.js';

/** Trust files are walked so far; each step may be a request. */
export const TRUST_FILES_MAX = 100_000;

/**
 * Verifies that the server is the one of the join link, without keeping anything: its trust files from 1 on.
 * Errors: `wrong-server`, `untrusted`, `repository-unreachable`.
 */
export async function introduce(
  source: Pick<TrustSource, 'trustFile'>,
  identity: Digest,
): Promise<{ readonly trust: TrustFile; readonly files: readonly Buffer[] }> {
  const first = await source.trustFile(1).catch((error: unknown) => {
    // Another server answers with anything: what it is not matters more than how it says so.
    if (
      error instanceof CollectiveError &&
      ['malformed', 'bad-request', 'too-large', 'not-allowed', 'not-logged-in'].includes(error.code)
    )
      return undefined;
    throw error;
  });
  if (first === undefined)
    throw new CollectiveError('wrong-server', 'The server has no trust file 1: it is no repository of ours.');
  let trust = openFirstTrust(first, identity);
  const files = [first];
  while (files.length < TRUST_FILES_MAX) {
    const next = await source.trustFile(trust.number + 1);
    if (next === undefined) break;
    trust = followTrust(trust, next);
    files.push(next);
  }
  return { trust, files };
}

/** Keeps the trust files of an introduction in the home. Those of another repository, left by a login that was broken off, go. */
export async function keepTrustFiles(trustDirectory: string, files: readonly Buffer[]): Promise<void> {
  const held = await readIfThere(join(trustDirectory, '1'));
  if (held !== undefined && files[0]?.equals(held) !== true) await rm(trustDirectory, { recursive: true, force: true });
  await mkdir(trustDirectory, { recursive: true, mode: 0o700 });
  for (const [at, bytes] of files.entries()) await writeDurably(join(trustDirectory, String(at + 1)), bytes);
}
