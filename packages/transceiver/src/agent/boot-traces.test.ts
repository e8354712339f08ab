import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {
  CollectiveError,
  encodeBootTrace,
  encodeDiskUse,
  encodeUseRecord,
  type Digest,
  type ErrorCode,
  type VersionManifest,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BootTraces, type BootTracesOptions } from './boot-traces.js';
import { writeSettings } from './settings-file.js';

const root = 'ab'.repeat(32) as Digest;
const traceOf = (...blocks: number[]): Buffer =>
  encodeBootTrace({
    version: 3,
    root,
    blockBytes: 65_536,
    touches: blocks.map((blockIndex, at) => ({ blockIndex, afterMs: at, phase: 0, chunkBytes: 0 })),
  });
const useOf = (records: number): Buffer =>
  encodeDiskUse({ ...{ version: 3, root, blockBytes: 65_536, records }, blocks: [], groups: [] });
const record = encodeUseRecord({ version: 3, root, blockBytes: 65_536, bursts: [[1, 2], [9]] });
const manifest = {
  appliance: 'demo',
  version: 3,
  disks: [
    { name: 'system', kind: 'system', root },
    { name: 'user', kind: 'user', root },
    { name: 'empty', kind: 'system', root: null },
  ],
} as unknown as VersionManifest;

let folder: string;
let logged: string[];
let open: BootTraces[];
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'boot-traces-'));
  await mkdir(path.join(folder, 'machines/mine/traces'), { recursive: true });
  logged = [];
  open = [];
});
afterEach(async () => {
  await Promise.all(open.map((traces) => traces.close()));
  await rm(folder, { recursive: true, force: true });
});

/** A repository that answers with a trace, with an error, or, for undefined, never. */
const desk = (
  answer: Buffer | ErrorCode | undefined,
  objects: Partial<BootTracesOptions['objects']> = {},
  {
    isMetered = async () => Promise.resolve(false),
    use,
    onTold,
  }: {
    readonly isMetered?: () => Promise<boolean>;
    readonly use?: Buffer;
    readonly onTold?: () => Promise<void>;
  } = {},
) => {
  const kept = new Map<Digest, Buffer>();
  const keptUses = new Map<Digest, Buffer>();
  const told: { readonly params: unknown; readonly body: unknown }[] = [];
  const toldUses: unknown[] = [];
  const call = async (
    name: string,
    options: { params: unknown; body?: unknown; signal: AbortSignal },
  ): Promise<unknown> => {
    if (name === 'addBootTrace') told.push({ params: options.params, body: options.body });
    if (name === 'addUseRecord') toldUses.push({ params: options.params, body: options.body });
    if (answer === undefined)
      return new Promise((_resolve, reject) => {
        options.signal.addEventListener('abort', () =>
          reject(new CollectiveError('repository-unreachable', 'silence')),
        );
      });
    if (typeof answer === 'string') throw new CollectiveError(answer, 'no');
    if (name === 'addUseRecord' && toldUses.length === 1) await onTold?.();
    if (name !== 'diskUse') return answer;
    if (use === undefined) throw new CollectiveError('not-found', 'no');
    return use;
  };
  const traces = new BootTraces({
    home: { machinesDirectory: path.join(folder, 'machines'), settingsFile: path.join(folder, 'settings.json') },
    objects: {
      trace: (of) => kept.get(of),
      putTrace: async (of, bytes) => void kept.set(of, bytes),
      use: (of) => keptUses.get(of),
      putUse: async (of, bytes) => void keptUses.set(of, bytes),
      ...objects,
    },
    client: { call } as unknown as BootTracesOptions['client'],
    applianceOf: () => 'demo',
    isMetered,
    log: (text) => logged.push(text),
  });
  open.push(traces);
  return { traces, kept, keptUses, told, toldUses };
};
const start = { isOnline: true, signal: new AbortController().signal };
const leave = (bytes: Buffer): Promise<void> =>
  writeFile(path.join(folder, 'machines/mine/traces/system.recorded'), bytes);
const left = (): Promise<string[]> => readdir(path.join(folder, 'machines/mine/traces'));

describe('before a start', () => {
  it('the repository is asked for each system disk that has content, and its answer is kept for an outage', async () => {
    const { traces, kept } = desk(traceOf(5, 6));
    expect((await traces.forStart(manifest, start)).traces).toEqual(new Map([['system', traceOf(5, 6)]]));
    expect(kept.get(root)).toEqual(traceOf(5, 6));
    expect((await traces.forStart(manifest, { ...start, isOnline: false })).traces).toEqual(
      new Map([['system', traceOf(5, 6)]]),
    );
  });

  it('it is asked what sessions touch, too', async () => {
    const { traces, keptUses } = desk(traceOf(5), {}, { use: useOf(2) });
    expect((await traces.forStart(manifest, start)).uses).toEqual(new Map([['system', useOf(2)]]));
    expect(keptUses.get(root)).toEqual(useOf(2));
    expect((await traces.forStart(manifest, { ...start, isOnline: false })).uses).toEqual(
      new Map([['system', useOf(2)]]),
    );
  });

  it('an answer that says nothing of use is none', async () => {
    const { traces, keptUses } = desk(traceOf(5), {}, { use: traceOf(5) });
    expect((await traces.forStart(manifest, start)).uses).toEqual(new Map());
    expect(keptUses.size).toBe(0);
    expect(logged.join()).toMatch(/demo.*disk use/);
  });

  it('nothing is asked for ahead on a link that is metered', async () => {
    const { traces, kept } = desk(traceOf(5, 6), {}, { isMetered: async () => Promise.resolve(true) });
    expect((await traces.forStart(manifest, start)).traces).toEqual(new Map());
    expect(kept.size).toBe(0);
  });

  it('settings that cannot be read keep nobody from starting: nothing is fetched ahead, and it is said', async () => {
    const { traces } = desk(
      traceOf(5),
      {},
      { isMetered: async () => Promise.reject(new CollectiveError('malformed')) },
    );
    expect((await traces.forStart(manifest, start)).traces).toEqual(new Map());
    expect(logged.join()).toMatch(/no boot trace is used/);
    expect(await traces.isMetered()).toBe(true);
  });

  it.each(['not-found', 'repository-unreachable', 'internal'] as const)(
    '%s is answered by what is here',
    async (code) => {
      const { traces, kept } = desk(code);
      expect((await traces.forStart(manifest, start)).traces).toEqual(new Map());
      kept.set(root, traceOf(7));
      expect((await traces.forStart(manifest, start)).traces).toEqual(new Map([['system', traceOf(7)]]));
    },
  );

  it('an answer that is no trace is none', async () => {
    const { traces, kept } = desk(Buffer.from('not a trace'));
    expect((await traces.forStart(manifest, start)).traces).toEqual(new Map());
    expect(kept.size).toBe(0);
    expect(logged.join()).toMatch(/boot trace of demo/);
  });

  it('an answer that cannot be kept is used, and said', async () => {
    const { traces } = desk(traceOf(5), { putTrace: async () => Promise.reject(new Error('the disk is full')) });
    expect((await traces.forStart(manifest, start)).traces).toEqual(new Map([['system', traceOf(5)]]));
    expect(logged.join()).toMatch(/the disk is full/);
  });

  it('a start that is given up is not held', async () => {
    const { traces } = desk(undefined);
    const ended = new AbortController();
    const asked = traces.forStart(manifest, { isOnline: true, signal: ended.signal });
    ended.abort(new Error('given up'));
    await expect(asked).rejects.toThrow('given up');
  });
});

describe('what a boot has left', () => {
  it('is told, kept where nothing is known, and gone', async () => {
    const { traces, kept, told } = desk(Buffer.alloc(0));
    await leave(traceOf(1, 2));
    await traces.gather();
    expect(told).toEqual([{ params: { name: 'demo', version: 3, disk: 'system' }, body: traceOf(1, 2) }]);
    expect(kept.get(root)).toEqual(traceOf(1, 2));
    expect(await left()).toEqual([]);
    kept.set(root, traceOf(1));
    await leave(traceOf(1, 2));
    await traces.gather();
    expect(kept.get(root)).toEqual(traceOf(1));
  });

  it('is not told when the person does not want that', async () => {
    const { traces, kept, told } = desk(Buffer.alloc(0));
    await writeSettings(path.join(folder, 'settings.json'), { tellTraces: false, metered: 'auto' });
    await leave(traceOf(1, 2));
    await traces.gather();
    expect(told).toEqual([]);
    expect(kept.get(root)).toEqual(traceOf(1, 2));
    expect(await left()).toEqual([]);
  });

  it('stays for another time while the repository is away, and goes when it is refused', async () => {
    await leave(traceOf(1, 2));
    for (const code of ['repository-unreachable', 'shutting-down', 'not-logged-in'] as const) {
      await desk(code).traces.gather();
      expect(await left()).toEqual(['system.recorded']);
    }
    await desk('not-found').traces.gather();
    expect(await left()).toEqual([]);
  });

  it('of use after it is told, too, and only if the person wants that', async () => {
    const session = path.join(folder, 'machines/mine/traces/system.session');
    const { traces, toldUses } = desk(Buffer.alloc(0));
    await writeFile(session, record);
    await traces.gather();
    expect(toldUses).toEqual([{ params: { name: 'demo', version: 3, disk: 'system' }, body: record }]);
    expect(await left()).toEqual([]);
    await writeSettings(path.join(folder, 'settings.json'), { tellTraces: false, metered: 'auto' });
    await writeFile(session, record);
    await traces.gather();
    expect(toldUses).toHaveLength(1);
    expect(await left()).toEqual([]);
  });

  it('of use while it was told stays for another time', async () => {
    const session = path.join(folder, 'machines/mine/traces/system.session');
    const more = encodeUseRecord({ version: 3, root, blockBytes: 65_536, bursts: [[1, 2], [9], [10]] });
    await writeFile(session, record);
    const { traces, toldUses } = desk(Buffer.alloc(0), {}, { onTold: () => writeFile(session, more) });
    await traces.gather();
    expect(await left()).toEqual(['system.session']);
    await traces.gather();
    expect(toldUses).toHaveLength(2);
  });

  it('and is damaged goes, and is said', async () => {
    const { traces, told } = desk(Buffer.alloc(0));
    await leave(Buffer.from('damaged'));
    await traces.gather();
    expect(told).toEqual([]);
    expect(logged.join()).toMatch(/boot trace of mine/);
    expect(await left()).toEqual([]);
  });
});
