/** What becomes of the person's machines when an agent was killed in the middle of something, or another device did something meanwhile. Over 400 lines: all of it begins from one home. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CollectiveError, type Digest, type Profile } from '@collective/shared';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { BackupFile, type BackupState } from '../backup/backup-file.js';
import { keepBoth } from '../backup/continue.js';
import { eventually } from '../blockd/testing/eventually.js';
import { openHome, type Home } from '../home.js';
import { deletedRows, subscriptionRows } from './appliance-list.js';
import { DataDesk } from './data-desk.js';
import type { MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { PersonData } from './person-data.js';
import type { StartWish } from './prepare-data.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';

const digest = (digit: string): Digest => digit.repeat(64) as Digest;
const [S1, S2] = ['a'.repeat(32), 'b'.repeat(32)] as const;
const head = { number: 3, manifest: digest('5'), savedAt: 9, deviceName: 'desk' };
const listed = (id: string, name: string): Profile['subscriptions'][number] => ({ id, appliance: 'tiny', name, head });

let home: Home;
let profile: Profile;
/** What was asked of the repository, and how it refuses. */
let calls: string[];
let refused: Map<string, CollectiveError>;
let answers: Map<string, unknown>;
/** What is called when the repository answers again. */
let back: () => void;

beforeEach(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'collective-data-'));
  home = await openHome(join(folder, 'h'), { XDG_RUNTIME_DIR: folder });
  onTestFinished(async () => rm(folder, { recursive: true, force: true }));
  [calls, refused, answers] = [[], new Map(), new Map()];
  profile = {
    ...{ format: 1, number: 1, account: 'pat', devices: [], epochs: [], formerIdentities: [], subscriptions: [] },
    repository: { identity: digest('1'), origin: 'http://127.0.0.1:1', pin: null },
  };
});

const away = (): CollectiveError => new CollectiveError('repository-unreachable', 'as the test wants it');
const session = {
  client: {
    onBack: (call: () => void) => (back = call),
    call: async (name: string) => {
      calls.push(name);
      const error = refused.get(name);
      if (error !== undefined) throw error;
      const answer = answers.get(name);
      if (answer !== undefined) return answer;
      if (name === 'deleteSubscription' || name === 'restoreSubscription') return {};
      throw away();
    },
  },
  keys: { account: 'pat', deviceSeed: Buffer.alloc(32, 1), ring: [] },
  device: { repository: { identity: digest('1') }, device: digest('2'), deviceName: 'laptop' },
  person: { identity: { publicKey: 'x' } },
  profile: {
    get profile() {
      return profile;
    },
    refresh: async () => profile,
    update: async (change: (now: Profile) => Profile) => (profile = change(profile)),
  },
  ...{ blockKeys: [], diskKeys: [Buffer.alloc(64, 1).toString('base64url')] },
  blocks: async () => ({ origin: 'http://127.0.0.1:1' }),
} as unknown as Session;
const machines = {
  blockd: async () => {
    throw away();
  },
  authorize: async () => undefined,
  addKeys: async () => undefined,
  hide: async () => undefined,
} as unknown as MachinePort;

const open = async (): Promise<PersonData> => {
  const data = await PersonData.open({ home, machines, session, objects: {} as ObjectCache, log: () => undefined });
  onTestFinished(async () => data.close());
  return data;
};
const deskOf = (data: PersonData): DataDesk => {
  const turn = async <T>(work: (of: Session, mine: PersonData) => Promise<T>): Promise<T> => work(session, data);
  return new DataDesk({ home, machines, inTurn: turn, beside: turn, onSettings: () => undefined });
};
const WRITER = { appliance: 'tiny', version: 1, manifest: digest('4') };
const folderOf = (name: string): string => join(home.machinesDirectory, name);

/** A machine at rest, of which everything is saved. */
const makeMachine = async (name: string, subscription: string, more: Partial<BackupState> = {}): Promise<void> => {
  await Subscription.open(home.machinesDirectory, name);
  await BackupFile.create(folderOf(name), {
    ...{ format: 1, subscription, appliance: 'tiny', isRegistered: true, periodSeconds: 30 },
    disks: [
      {
        name: 'user',
        isAttached: true,
        bus: 'virtio',
        diskBytes: 1 << 20,
        blockBytes: 4_096,
        base: null,
        committed: null,
      },
    ],
    ...{ writer: WRITER, toPin: [] },
    head: { number: 3, manifest: digest('5'), committedAt: 9, deviceName: 'desk' },
    ...{ objects: [], mustResend: false, mustCommit: false, lease: null, pending: null, next: [], apart: null },
    ...more,
  });
};
const suspend = async (name: string): Promise<void> => {
  await mkdir(join(folderOf(name), 'memory'), { recursive: true });
  await writeFile(join(folderOf(name), 'memory', 'image.json'), '{}');
};

describe('continue --both', () => {
  const apart: Partial<BackupState> = {
    apart: { why: 'other-head', since: 1, head: { number: 4, manifest: digest('6') }, deviceName: 'desk' },
    pending: {
      kind: 'sealed',
      reason: 'stop',
      createdAt: 1,
      layers: [{ disk: 'user', layer: 'c'.repeat(32) }],
      writtenBy: WRITER,
      mustPin: false,
    },
  };
  beforeEach(async () => {
    profile = { ...profile, subscriptions: [listed(S1, 'tiny')] };
    await makeMachine('tiny', S1, apart);
  });
  const isBoth = (data: PersonData): void => {
    expect([existsSync(folderOf('tiny')), existsSync(folderOf('tiny-2'))]).toEqual([false, true]);
    const { state } = data.backup('tiny-2');
    expect(state).toMatchObject({ isRegistered: false, head: null, mustResend: true, apart: null });
    expect([state.subscription === S1, state.movesTo, state.pending?.kind]).toEqual([false, undefined, 'sealed']);
    expect(() => data.backup('tiny')).toThrow(/no data of tiny/);
  };

  it('what is here gets a subscription and a folder of its own', async () => {
    const data = await open();
    expect(await deskOf(data).continue({ name: 'tiny', which: 'both' })).toEqual({ name: 'tiny', addedName: 'tiny-2' });
    isBoth(data);
  });

  // Seen in review: the folder kept its name with the new subscription in it. Both were `tiny` then, and nothing asked again.
  it('killed before the folder has its new name: the next agent goes on', async () => {
    const killed = await open();
    await keepBoth(killed.backup('tiny'), 'tiny-2');
    await killed.close();
    isBoth(await open());
  });

  it('killed before the note of it was removed, and by a start of the machine itself', async () => {
    const killed = await open();
    await keepBoth(killed.backup('tiny'), 'tiny-2');
    await killed.close();
    await rename(folderOf('tiny'), folderOf('tiny-2'));
    isBoth(await open());
  });

  it('killed, and the name was given to another meanwhile: the next free one', async () => {
    const killed = await open();
    await keepBoth(killed.backup('tiny'), 'tiny-2');
    await killed.close();
    await makeMachine('tiny-2', S2);
    const data = await open();
    expect(data.backup('tiny-2').state.subscription).toBe(S2);
    expect(data.backup('tiny-2-2').state).toMatchObject({ mustResend: true });
  });
});

describe('a suspended machine, with which another device went on', () => {
  const apart = { why: 'lease-lost', since: 1, head: null, deviceName: 'desk' } as const;
  const remote = { subscription: S1, head: { number: 3, manifest: digest('5'), committedAt: 9 }, deletedAt: null };
  beforeEach(async () => {
    await makeMachine('tiny', S1, { apart });
    await suspend('tiny');
    answers.set('takeLease', { lease: 8, expiresAt: 1 });
    answers.set('subscriptions', [remote]);
  });

  it('goes on here: it is still suspended, nothing of its disks or its memory was touched', async () => {
    const data = await open();
    expect(await deskOf(data).continue({ name: 'tiny', which: 'here' })).toEqual({ name: 'tiny' });
    expect(data.backup('tiny').state).toMatchObject({ apart: null, lease: 8, pending: null });
    expect(data.isSuspended('tiny')).toBe(true);
  });

  it('does not become a subscription of its own before the person has said what becomes of its memory', async () => {
    const data = await open();
    const both = deskOf(data).continue({ name: 'tiny', which: 'both' });
    await expect(both).rejects.toMatchObject({
      code: 'suspended',
      message: expect.stringMatching(/resume and stop it first/),
    });
    expect(data.backup('tiny').state.apart).toEqual(apart);
  });
});

describe('continue on a machine with which nobody else went on', () => {
  beforeEach(async () => makeMachine('tiny', S1));
  const wished = [{ which: 'here' }, { which: 'here', discard: true }, { which: 'both' }] as const;

  it.each(wished)('%o: nothing is lost, so nothing is to be chosen', async (wish) => {
    const data = await open();
    const { state } = data.backup('tiny');
    const going = deskOf(data).continue({ name: 'tiny', ...wish });
    await expect(going).rejects.toMatchObject({ code: 'bad-request' });
    expect(data.backup('tiny').state).toEqual(state);
  });

  it.each(wished)('%o: not of one that is suspended: its memory goes with its disks', async (wish) => {
    await suspend('tiny');
    const going = deskOf(await open()).continue({ name: 'tiny', ...wish });
    await expect(going).rejects.toMatchObject({ code: 'suspended' });
  });
});

describe('at a logout', () => {
  // Seen in review: the choice was made, the block daemon could not be reached, and everything was said to be saved.
  it('what the person has chosen to keep and nothing has sealed yet is only here', async () => {
    await makeMachine('tiny', S1, { isRegistered: false, head: null, mustResend: true, mustCommit: true });
    const data = await open();
    const left = await data.settle({ signal: AbortSignal.timeout(10_000), onProgress: () => undefined });
    expect(left.machines.map(({ name }) => name)).toEqual(['tiny']);
  });

  it('what is saved and has no other head is not', async () => {
    await makeMachine('tiny', S1);
    const data = await open();
    expect(await data.settle({ signal: AbortSignal.timeout(10_000), onProgress: () => undefined })).toMatchObject({
      unsavedBytes: 0,
    });
  });
});

describe('two machines of one name', () => {
  beforeEach(() => {
    profile = { ...profile, subscriptions: [listed(S1, 'tiny'), listed(S2, 'tiny-2')] };
  });

  it('the one that is called something else on the other devices is so here, too; both are shown, and both can be started', async () => {
    await makeMachine('tiny', S2);
    const data = await open();
    expect(data.backup('tiny-2').state.subscription).toBe(S2);
    expect(existsSync(folderOf('tiny'))).toBe(false);
    const rows = subscriptionRows(profile, (id) => data.nameHere(id));
    expect(rows.map(({ name, here }) => [name, here])).toEqual([
      ['tiny', null],
      ['tiny-2', 'tiny-2'],
    ]);
    expect([data.applianceOf('tiny'), data.applianceOf('tiny-2')]).toEqual(['tiny', 'tiny']);
  });

  it('of one that is suspended the folder waits until it is not; meanwhile nobody makes it a second time', async () => {
    await makeMachine('tiny', S2);
    await suspend('tiny');
    const data = await open();
    expect(data.nameHere(S2)).toBe('tiny');
    const version = { disks: [{ description: { name: 'user', kind: 'user' } }] } as unknown as StartWish['version'];
    const wish = { name: 'tiny-2', appliance: 'tiny', version, isOnline: true, isTakenOver: false } as StartWish;
    await expect(data.start(wish, async () => undefined)).rejects.toMatchObject({ code: 'in-use' });
    await rm(join(folderOf('tiny'), 'memory'), { recursive: true });
    expect(await data.followNames()).toEqual([{ from: 'tiny', to: 'tiny-2' }]);
    expect(data.nameHere(S2)).toBe('tiny-2');
  });

  it('a command that names what has just become another machine’s is refused, and nothing is deleted', async () => {
    await makeMachine('tiny', S2);
    profile = { ...profile, subscriptions: [] };
    const data = await open();
    profile = { ...profile, subscriptions: [listed(S1, 'tiny'), listed(S2, 'tiny-2')] };
    const desk = deskOf(data);
    await expect(desk.delete({ name: 'tiny', confirmation: 'tiny' })).rejects.toMatchObject({ code: 'conflict' });
    expect([calls.includes('deleteSubscription'), data.nameHere(S2)]).toEqual([false, 'tiny-2']);
  });

  // Seen in review: each waited for the name of the other one.
  it('that have each other’s names change them', async () => {
    await makeMachine('tiny', S2);
    await makeMachine('tiny-2', S1);
    await suspend('tiny');
    const data = await open();
    expect([data.nameHere(S1), data.nameHere(S2)]).toEqual(['tiny-2', 'tiny']);
    await rm(join(folderOf('tiny'), 'memory'), { recursive: true });
    expect(new Set(await data.followNames())).toEqual(
      new Set([
        { from: 'tiny', to: 'tiny-2' },
        { from: 'tiny-2', to: 'tiny' },
      ]),
    );
    expect([data.nameHere(S1), data.nameHere(S2)]).toEqual(['tiny', 'tiny-2']);
    expect((await readdir(home.machinesDirectory)).sort()).toEqual(['tiny', 'tiny-2']);
    expect(await data.followNames()).toEqual([]);
  });

  it('three in a ring change them too, also when the agent was killed between', async () => {
    const S3 = 'd'.repeat(32);
    profile = { ...profile, subscriptions: [listed(S1, 'tiny'), listed(S2, 'tiny-2'), listed(S3, 'tiny-3')] };
    await makeMachine('tiny', S2);
    await makeMachine('tiny-2', S3);
    // Out of the way, and not yet at its name.
    await makeMachine('tiny-3', S1, { movesTo: 'tiny-9' });
    const data = await open();
    expect([S1, S2, S3].map((id) => data.nameHere(id))).toEqual(['tiny', 'tiny-2', 'tiny-3']);
    expect(data.backup('tiny').state.movesTo).toBeUndefined();
  });

  it('one that the profile names like another one here stays as it is', async () => {
    await makeMachine('tiny', S2);
    await makeMachine('tiny-2', 'c'.repeat(32), { isRegistered: false });
    const data = await open();
    expect([data.nameHere(S2), data.nameHere('c'.repeat(32))]).toEqual(['tiny', 'tiny-2']);
  });
});

describe('a version that calls a disk ephemeral which is the person’s by another device’s version', () => {
  const version = { disks: [{ description: { name: 'user', kind: 'ephemeral' } }] } as unknown as StartWish['version'];
  const wishOf = (isOnline: boolean): StartWish =>
    ({
      name: 'tiny',
      appliance: 'tiny',
      version,
      isOnline,
      isTakenOver: false,
      job: { emit: () => undefined },
    }) as never;
  const started = async ({ notes }: { readonly notes: readonly string[] }): Promise<readonly string[]> => notes;
  beforeEach(() => {
    profile = { ...profile, subscriptions: [listed(S1, 'tiny')] };
  });

  // It ran with an empty disk of its own, over whose layers the person's came to lie at the start of the other version.
  it('brings theirs; when that fails it is not started without', async () => {
    const data = await open();
    await expect(data.start(wishOf(true), started)).rejects.toMatchObject({ code: 'repository-unreachable' });
    expect(calls).toContain('subscriptions');
  });

  it('without the repository it runs, and says what will become of it', async () => {
    const data = await open();
    expect(await data.start(wishOf(false), started)).toEqual([expect.stringMatching(/saved on desk.*gives way to it/)]);
  });
});

describe('a deleted subscription', () => {
  beforeEach(async () => {
    profile = { ...profile, subscriptions: [listed(S1, 'tiny')] };
    await makeMachine('tiny', S1);
  });

  it('is gone here, is remembered for all devices, and comes back with its head', async () => {
    const data = await open();
    const desk = deskOf(data);
    await desk.delete({ name: 'tiny', confirmation: 'tiny' });
    expect([existsSync(folderOf('tiny')), profile.subscriptions]).toEqual([false, []]);
    expect(deletedRows(profile)).toMatchObject([{ name: 'tiny', appliance: 'tiny', savedAt: 9 }]);
    expect(await desk.restore({ name: 'tiny' })).toEqual({ name: 'tiny' });
    expect(profile.subscriptions).toEqual([listed(S1, 'tiny')]);
    expect([deletedRows(profile), calls]).toEqual([[], ['deleteSubscription', 'restoreSubscription']]);
    await expect(desk.restore({ name: 'tiny' })).rejects.toMatchObject({ code: 'not-found' });
  });

  it('by another device: not listed again, a start says so, and what is left here can be removed', async () => {
    profile = {
      ...profile,
      subscriptions: [],
      deletedSubscriptions: [{ id: S1, deletedAt: 5, was: { appliance: 'tiny', name: 'tiny', head } }],
    };
    const before = profile;
    const data = await open();
    const version = { disks: [{ description: { name: 'user', kind: 'user' } }] } as unknown as StartWish['version'];
    const wish = { name: 'tiny', appliance: 'tiny', version, isOnline: true, isTakenOver: false } as StartWish;
    await expect(data.start(wish, async () => undefined)).rejects.toThrow(/was deleted on .*collective restore tiny/);
    await data.close();
    expect(profile).toBe(before);
    refused.set('deleteSubscription', new CollectiveError('not-found', 'forgotten'));
    await deskOf(await open()).delete({ name: 'tiny', confirmation: 'tiny' });
    expect([existsSync(folderOf('tiny')), profile]).toEqual([false, before]);
  });
});

describe('the repository is back', () => {
  it('whoever found it: each machine’s backup tries again at once', async () => {
    await makeMachine('tiny', S1);
    await makeMachine('other', S2);
    const data = await open();
    const kicks = ['tiny', 'other'].map((name) => vi.spyOn(data.backup(name), 'kick'));
    back();
    for (const kick of kicks) expect(kick).toHaveBeenCalledOnce();
  });
});

describe('opened snapshots', () => {
  const opened = (name: string): string => join(folderOf('tiny'), 'opened', name);
  beforeEach(async () => {
    await makeMachine('tiny', S1);
    for (const name of ['3', '3-0badcafe']) await mkdir(opened(name), { recursive: true });
  });

  it('of an agent that was killed are cleared when the next one takes the machine up', async () => {
    await open();
    expect([existsSync(opened('3')), existsSync(opened('3-0badcafe'))]).toEqual([false, false]);
  });

  it('that a running guest is shown stay until it is over; what another agent served does not', async () => {
    await writeFile(join(folderOf('tiny'), 'machine.json'), '{}');
    await open();
    expect([existsSync(opened('3')), existsSync(opened('3-0badcafe'))]).toEqual([true, false]);
    await rm(join(folderOf('tiny'), 'machine.json'));
    await eventually('what it was shown is gone', () => !existsSync(opened('3')));
  });

  it('go when the guest is not shown them any more', async () => {
    await writeFile(join(folderOf('tiny'), 'machine.json'), '{}');
    const data = await open();
    await deskOf(data).showSnapshot({ name: 'tiny', snapshot: 3, close: true });
    expect(existsSync(opened('3'))).toBe(false);
  });
});

describe('the line', () => {
  it('is a running machine’s while it waits for blocks: parts of an upload keep back', async () => {
    await makeMachine('tiny', S1);
    let waiting: readonly object[] = [{ blockIndex: 1, waitedMs: 4, isUnavailable: false }];
    const server = net.createServer((socket) => {
      socket.on('data', (text) => {
        for (const line of text.toString().split('\n').filter(Boolean)) {
          const { id } = JSON.parse(line) as { readonly id: number };
          socket.write(
            `${JSON.stringify({ id, result: { pid: 1, disks: [{ session: 'tiny', disk: 'system', waiting }] } })}\n`,
          );
        }
      });
    });
    const data = await open();
    await new Promise<void>((resolve) => server.listen(home.blockdSocket, resolve));
    onTestFinished(() => void server.close());
    const { gate } = data.backup('tiny').parts;
    const gone = new AbortController();
    const kept = gate.pass(gone.signal);
    await eventually('the gate is closed', () => !gate.isOpen);
    gone.abort(new Error('enough'));
    await expect(kept).rejects.toThrow('enough');
    waiting = [];
    await gate.pass(new AbortController().signal);
    expect(gate.isOpen).toBe(true);
  });
});
