import { CollectiveError, DiskMap, sha256 } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { tellFirstTraces } from './first-traces.js';
import type { NewVersion, PublishParts } from './send-version.js';

const BLOCK = 65_536;
const root = sha256(Buffer.from('root'));
const description = { name: 'system', kind: 'system', blockBytes: BLOCK, diskBytes: BLOCK, root };
const map = DiskMap.empty({ diskBytes: BLOCK, blockBytes: BLOCK });
const version = (base?: unknown): NewVersion =>
  ({
    name: 'demo',
    version: 2,
    draft: { disks: [{ description }, { description: { ...description, name: 'user', kind: 'user' } }] },
    contents: [{ description, map, source: { kind: 'file', path: '/nothing', diskBytes: BLOCK } }],
    base,
  }) as unknown as NewVersion;

/** A repository that says what it is asked, and a publisher who reads the notes. */
const told = async (next: NewVersion, booted: Parameters<typeof tellFirstTraces>[1], answer: () => unknown) => {
  const calls: unknown[] = [];
  const notes: string[] = [];
  const call = async (name: string, { params, query, body }: Record<string, unknown>): Promise<unknown> => {
    calls.push({ name, params, ...(query === undefined ? {} : { query }), ...(body === undefined ? {} : { body }) });
    return answer();
  };
  const parts = {
    session: { client: { call } },
    job: { emit: ({ text }: { text: string }) => notes.push(text), signal: new AbortController().signal },
  } as unknown as PublishParts;
  await tellFirstTraces(next, booted, parts);
  return { calls, notes };
};
const before = { manifest: { version: 1, disks: [description] } };
const refuse = (code: 'not-found' | 'repository-unreachable') => (): never => {
  throw new CollectiveError(code, 'no answer');
};

describe('what a version begins with', () => {
  it('is the boot that preceded its publication, of each system disk', async () => {
    const trace = Buffer.from('trace');
    const { calls, notes } = await told(version(before), new Map([['system', trace]]), () => ({}));
    const params = { name: 'demo', version: 2, disk: 'system' };
    expect(calls).toEqual([{ name: 'addBootTrace', params, query: { kind: 'publication' }, body: trace }]);
    expect(notes).toEqual([]);
  });

  it('is nothing where there was no boot, and no version before of which one is known', async () => {
    expect(await told(version(), undefined, () => ({}))).toEqual({ calls: [], notes: [] });
    const { calls, notes } = await told(version(before), undefined, refuse('not-found'));
    expect(calls).toMatchObject([{ name: 'bootTrace', params: { version: 1 } }]);
    expect(notes).toEqual([]);
  });

  it('never fails a publish: why there is none is said', async () => {
    const { notes } = await told(
      version(),
      new Map([['system', Buffer.from('trace')]]),
      refuse('repository-unreachable'),
    );
    expect(notes).toEqual([expect.stringContaining('no answer')]);
  });
});
