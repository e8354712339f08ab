import { describe, expect, it } from 'vitest';
import { CollectiveError, sha256, type Digest, type ErrorCode } from '@collective/shared';
import type { TrustSource } from '../agent/trust-client.js';
import type { RepositoryClient } from '../repository/repository-client.js';
import { commitManifest, explainUpload, type CommitParts } from './commit-manifest.js';

const UPLOAD = 'a'.repeat(32);
const envelope = Buffer.from('signed');
const manifest = sha256(envelope);
const signed = { name: 'demo', version: 3, envelope };
const { signal } = new AbortController();

/** A repository that answers one commit after the other with these, and shows this digest as version 3 in its heads. */
const repositoryThat = (
  answers: readonly (ErrorCode | 'committed')[],
  shown: Digest | 'nothing' | 'is away' = 'nothing',
): CommitParts & { readonly commits: Buffer[] } => {
  const commits: Buffer[] = [];
  const call = async (name: string, { body }: { readonly body: Buffer }): Promise<unknown> => {
    expect(name).toBe('commitUpload');
    const answer = answers[commits.length];
    commits.push(body);
    if (answer === undefined) throw new Error('asked too often');
    if (answer !== 'committed') throw new CollectiveError(answer, `said ${answer}`);
    return { version: 3, manifest };
  };
  const version = async (): Promise<{ digest: Digest }> => {
    if (shown === 'nothing' || shown === 'is away') throw new CollectiveError('not-found');
    return { digest: shown };
  };
  return {
    commits,
    client: { call } as unknown as Pick<RepositoryClient, 'call'>,
    refresh: async () => ({ source: shown === 'is away' ? undefined : ({} as TrustSource) }),
    trust: { version, announced: () => undefined } as unknown as CommitParts['trust'],
    signal,
  };
};

describe('commitManifest', () => {
  it.each(['disk-full', 'local-io', 'internal', 'repository-unreachable', 'shutting-down'] as const)(
    'asks again with the same bytes after %s, for the version may be there',
    async (code) => {
      const parts = repositoryThat([code, 'committed']);
      expect(await commitManifest(UPLOAD, signed, parts)).toEqual({ version: 3, manifest });
      expect(parts.commits).toEqual([envelope, envelope]);
    },
  );

  it.each(['disk-full', 'not-found', 'conflict'] as const)(
    'is done when the heads name its own manifest, also when the second answer is %s',
    async (code) => {
      const parts = repositoryThat(['disk-full', code], manifest);
      expect(await commitManifest(UPLOAD, signed, parts)).toEqual({ version: 3, manifest });
    },
  );

  it.each(['nothing', 'is away', sha256(Buffer.from('of another publisher'))] as const)(
    'does not say that nothing was published when it cannot know (heads: %s), but what to do',
    async (shown) => {
      const failed = commitManifest(UPLOAD, signed, repositoryThat(['disk-full', 'disk-full'], shown));
      await expect(failed).rejects.toMatchObject({
        code: 'disk-full',
        data: { undecided: true },
        message: expect.stringMatching(/demo@3 .* not known.*repository's disk is full.*collective appliances/),
      });
    },
  );

  it('nor when it may not ask any more: the session, the token or the access is gone', async () => {
    for (const code of ['not-found', 'rate-limited', 'revoked', 'untrusted'] as const) {
      const failed = commitManifest(UPLOAD, signed, repositoryThat(['repository-unreachable', code]));
      await expect(failed).rejects.toMatchObject({ code, data: { undecided: true } });
    }
  });

  it('says at once what was refused, and after a failure too when the second answer decides', async () => {
    const parts = repositoryThat(['conflict']);
    await expect(commitManifest(UPLOAD, signed, parts)).rejects.toMatchObject({ message: 'said conflict' });
    expect(parts.commits).toHaveLength(1);
    const later = commitManifest(UPLOAD, signed, repositoryThat(['repository-unreachable', 'block-missing']));
    await expect(later).rejects.toMatchObject({ code: 'block-missing', message: 'said block-missing' });
  });
});

describe('explainUpload', () => {
  const explain = async (error: unknown, state: ErrorCode | 'open'): Promise<unknown> =>
    explainUpload(error, {
      name: 'demo',
      upload: UPLOAD,
      signal,
      client: {
        call: async () => {
          if (state !== 'open') throw new CollectiveError(state);
          return {};
        },
      } as unknown as Pick<RepositoryClient, 'call'>,
    });

  it('says that a session has ended, and to publish again', async () => {
    const gone = new CollectiveError('not-found', 'There is no such upload');
    expect(await explain(gone, 'not-found')).toMatchObject({
      code: 'not-found',
      message: expect.stringMatching(/ended this upload of demo.*Nothing was published. Publish again/),
    });
  });

  it('does not say so of anything else that is not found, nor when it cannot be asked', async () => {
    const other = new CollectiveError('not-found', 'demo@2 has no disk data');
    expect(await explain(other, 'open')).toBe(other);
    expect(await explain(other, 'repository-unreachable')).toBe(other);
  });

  it('says whose disk is full, but not that nothing was published when that is not known', async () => {
    expect(await explain(new CollectiveError('disk-full'), 'open')).toMatchObject({
      code: 'disk-full',
      message: expect.stringMatching(/repository's disk is full; nothing of demo was published/),
    });
    const undecided = new CollectiveError('disk-full', 'x', { data: { undecided: true } });
    expect(await explain(undecided, 'open')).toBe(undecided);
  });
});
