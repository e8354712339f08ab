/** What a publish from a maintain session asks for before it reads anything, and what it leaves when that is refused. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CollectiveError, sha256, signingKeyFromSeed, derivePersonKeys, type Digest } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PublishMaintainedRequest } from '../agent/agent-types.js';
import { Maintenance } from '../agent/maintenance.js';
import { publishMaintained, type MaintainedParts } from './publish-maintained.js';

const SECRET = Buffer.alloc(32, 7);
const SYSTEM = {
  name: 'system',
  kind: 'system',
  bus: 'virtio',
  diskBytes: 65_536,
  blockBytes: 65_536,
  root: null,
  base: null,
};
const digest = (text: string): Digest => sha256(Buffer.from(text));
const request: PublishMaintainedRequest = { name: 'demo', bootTest: false, cleanUp: ['clean one', 'clean two'] };

let folder: string;
let maintenance: Maintenance;
/** What the machine was asked, in order. */
let asked: string[];
let state: string;
let forAll: { version: number; manifest: Digest };
let candidateParent: Digest | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-publish-maintained-'));
  await mkdir(join(folder, 'machines'));
  maintenance = await Maintenance.begin(join(folder, 'machines'), {
    appliance: 'demo',
    version: 3,
    manifest: digest('3'),
  });
  asked = [];
  state = 'running';
  forAll = { version: 3, manifest: digest('3') };
  candidateParent = undefined;
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** Reads nothing: a publish that comes so far ends with this. */
class ComesToReading extends Error {}

const parts = (machine: Partial<MaintainedParts['machines']> = {}): MaintainedParts => {
  const publicKey = derivePersonKeys(SECRET).publishing(0).publicKey;
  const released = {
    manifest: { appliance: 'demo', version: forAll.version, parent: null, disks: [SYSTEM] },
    digest: forAll.manifest,
    notes: [],
  };
  const trust = {
    trust: { publishers: [{ name: 'pat', key: publicKey, appliances: ['*'] }] },
    heads: { heads: [{ appliance: 'demo', ...forAll }] },
    released: async () => released,
    candidateAsPublisher: async () => {
      if (candidateParent === undefined) throw new CollectiveError('not-found');
      const manifest = { ...released.manifest, version: 3, parent: { version: 2, manifest: candidateParent } };
      return { manifest, digest: digest('3'), notes: [] };
    },
  };
  return {
    session: {
      client: { transferred: { sentBytes: 0, receivedBytes: 0 }, address: { origin: 'http://127.0.0.1:1' } },
      keys: { account: 'pat', personSecret: SECRET },
      diskKeys: [Buffer.alloc(64, 1).toString('base64url')],
      refresh: async () => ({ source: {} }),
      trust,
    },
    job: { emit: () => undefined, signal: new AbortController().signal },
    home: { machinesDirectory: join(folder, 'machines') },
    machines: {
      status: async () => ({ machines: [{ name: 'demo-maintain', state }] }),
      runInMaintained: async (_machine: string, { command }: { command: string }) => {
        asked.push(command);
        return { exitCode: 0, output: '' };
      },
      shutDownCleanly: async () => void asked.push('shut down'),
      openMaintainedDisk: async () => {
        throw new ComesToReading();
      },
      ...machine,
    },
  } as unknown as MaintainedParts;
};
const publish = async (more: Partial<PublishMaintainedRequest> = {}, machine?: Partial<MaintainedParts['machines']>) =>
  publishMaintained({ ...request, ...more }, maintenance, parts(machine));

describe('publish from maintain', () => {
  it('cleans up, command by command, then the guest shuts down, and the session is ready', async () => {
    await expect(publish()).rejects.toThrow(ComesToReading);
    expect(asked).toEqual(['clean one', 'clean two', 'shut down']);
    expect(maintenance.isReady).toBe(true);
  });

  it('ends at a command that fails: nothing is shut down, and the session goes on', async () => {
    const runInMaintained = async (_machine: string, { command }: { readonly command: string }) => {
      asked.push(command);
      return { exitCode: 1, output: 'no space' };
    };
    await expect(publish({}, { runInMaintained })).rejects.toMatchObject({
      code: 'bad-image',
      message: expect.stringContaining('no space') as string,
    });
    expect(asked).toEqual(['clean one']);
    expect(maintenance.isReady).toBe(false);
  });

  it('does not read the disk of a guest that had to be ended', async () => {
    const shutDownCleanly = async (): Promise<void> => {
      throw new CollectiveError('conflict');
    };
    await expect(publish({}, { shutDownCleanly })).rejects.toMatchObject({ code: 'conflict' });
    expect(maintenance.isReady).toBe(false);
    expect(await Maintenance.find(join(folder, 'machines'), 'demo')).toBeDefined();
  });

  it('of a machine at rest goes on only when it was made ready', async () => {
    state = 'stopped';
    await expect(publish()).rejects.toMatchObject({ code: 'not-found' });
    await maintenance.setReady(true);
    await expect(publish()).rejects.toThrow(ComesToReading);
    expect(asked).toEqual([]);
    state = 'suspended';
    await expect(publish()).rejects.toMatchObject({ code: 'suspended' });
  });

  it('is refused before anything is done when another version became the one for all: it would undo that', async () => {
    forAll = { version: 4, manifest: digest('4') };
    await expect(publish()).rejects.toMatchObject({ code: 'conflict' });
    // A candidate that was made from another version than the one for all.
    candidateParent = digest('2');
    await expect(publish()).rejects.toMatchObject({ code: 'conflict' });
    expect(asked).toEqual([]);
  });

  it('from a candidate that follows the version for all goes on', async () => {
    forAll = { version: 2, manifest: digest('2') };
    candidateParent = digest('2');
    await expect(publish()).rejects.toThrow(ComesToReading);
    expect(asked).toHaveLength(3);
  });

  it('by a key that may not publish is refused before anything is done', async () => {
    const strange = parts();
    const other = signingKeyFromSeed(Buffer.alloc(32, 1)).publicKey;
    const trust = { publishers: [{ name: 'x', key: other, appliances: ['*'] }] };
    Object.assign(strange.session.trust, { trust });
    Object.assign(strange.session, { device: { repository: { identity: digest('r') } } });
    Object.assign(strange.session.client, { call: async () => ({}) });
    await expect(publishMaintained(request, maintenance, strange)).rejects.toMatchObject({ code: 'not-allowed' });
    expect(asked).toEqual([]);
  });
});
