/**
 * A commit late in a long history: what it costs the server while the number of snapshots, and of objects that the snapshot
 * lists, grows. Real files and a real SQLite; requests without a socket. Each history is the same disk: 256 leaves with 16
 * private blocks each, written by the first snapshot, then one block of one leaf in each snapshot. Three commits are measured:
 *
 * - `old leaves`: one block in each of 32 leaves that nobody has touched for long, so that what was there before lies deep;
 * - `again`: the same of 32 others, with what the first one left in memory;
 * - `left out`: one that lists one dead object less, so that the server looks at the whole disk.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import {
  type BlobStore,
  FolderBlobStore,
  openSubscriber,
  SqliteCatalogue,
  TestBackup,
  type UserPlan,
} from '@collective/repository-server';
import { type BenchCase, type BenchOptions, type BenchResult, describeMachine } from '../bench-result.js';

const LEAVES = 256;
const FANOUT = 128;
const FILLED = 16;
const BUSY_LEAVES = 8;
const OLD_LEAVES = 32;

type Counts = { opens: number; reads: number; readBytes: number; catalogueCalls: number };
type Cost = Counts & { readonly ms: number; readonly cpuMs: number; readonly blockedMs: number };

export const run = async ({ quick, only, log }: BenchOptions): Promise<BenchResult> => {
  const sizes = (only === undefined ? (quick ? [64, 300] : [64, 256, 1_024, 3_072]) : [Number(only)]).map(Number);
  const cases: BenchCase[] = [];
  for (const snapshots of sizes) {
    log(`a history of ${snapshots} snapshots`);
    // Said one by one: a commit of a server that does not do well may take minutes.
    await measure(snapshots, (name, cost) => {
      log(`${name}: ${JSON.stringify(cost)}`);
      cases.push({
        case: `${snapshots} snapshots: ${name}`,
        value: cost.ms,
        unit: 'ms',
        target: '',
        note: `CPU ${cost.cpuMs.toFixed(0)} ms, loop blocked ${cost.blockedMs.toFixed(0)} ms, ${cost.opens} opens, ${cost.reads} reads of ${cost.readBytes} bytes, ${cost.catalogueCalls} calls of the catalogue`,
      });
    });
  }
  return { bench: 'commit', machine: describeMachine(), cases };
};

const measure = async (snapshots: number, report: (name: string, cost: Cost) => void): Promise<void> => {
  const folder = await mkdtemp(path.join(tmpdir(), 'bench-commit-'));
  const counts: Counts = { opens: 0, reads: 0, readBytes: 0, catalogueCalls: 0 };
  const catalogue = await SqliteCatalogue.open({
    database: path.join(folder, 'catalogue.sqlite'),
    lock: path.join(folder, 'lock.sqlite'),
  });
  const blobStore = countingStore(await FolderBlobStore.open(folder, { freeBytesMin: 0 }), counts);
  const world = await openSubscriber({
    blobStore,
    catalogue,
    // The history is made in one moment of the clock; all of it stays.
    limits: { sessionRequests: 1e9, sessionTokenSeconds: 1e9 },
  });
  countCalls(catalogue.subscriptions, counts);
  countCalls(catalogue.versions, counts);
  try {
    const { server, person, version } = world;
    const backup = new TestBackup(server, person, { subscription: '7'.repeat(32), writtenBy: version, base: null });
    await backup.create();
    await backup.take();
    const plan: UserPlan[number][] = Array.from({ length: LEAVES * FANOUT }, (_, at) =>
      at % FANOUT < FILLED ? at + 1 : 0,
    );
    let seed = plan.length;
    const write = (leaf: number): void => void (plan[leaf * FANOUT] = seed += 1);
    const dead: number[] = [];
    for (let number = 1; number <= snapshots; number += 1) {
      if (number > 1) write(number % BUSY_LEAVES);
      await backup.save({ plan: [...plan] });
      if (number > 1 && number <= snapshots - BUSY_LEAVES) dead.push(number);
    }
    for (const [name, first] of [
      ['old leaves', 64],
      ['again', 128],
    ] as const) {
      for (let leaf = first; leaf < first + OLD_LEAVES; leaf += 1) write(leaf);
      const made = backup.make({ plan: [...plan] });
      report(name, await costOf(counts, async () => expectTaken(await backup.upload(made))));
    }
    write(1);
    const [leftOut] = dead;
    const made = backup.make({ plan: [...plan], objects: backup.objects.filter((number) => number !== leftOut) });
    report('left out', await costOf(counts, async () => expectTaken(await backup.upload(made))));
  } finally {
    await world.server.close();
    await rm(folder, { recursive: true });
  }
};

const expectTaken = ({ reply }: Awaited<ReturnType<TestBackup['upload']>>): void => {
  if (reply.status !== 201) throw new Error(`commit: ${reply.status} ${reply.body.toString('utf8')}`);
};

const costOf = async (counts: Counts, work: () => Promise<void>): Promise<Cost> => {
  Object.assign(counts, { opens: 0, reads: 0, readBytes: 0, catalogueCalls: 0 });
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const [startMs, startCpu] = [performance.now(), process.cpuUsage()];
  await work();
  const { user, system } = process.cpuUsage(startCpu);
  const ms = performance.now() - startMs;
  delay.disable();
  return { ...counts, ms, cpuMs: (user + system) / 1_000, blockedMs: delay.max / 1e6 };
};

const countingStore = (store: BlobStore, counts: Counts): BlobStore =>
  new Proxy(store, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      if (name !== 'open') return value.bind(target) as unknown;
      return async (...words: Parameters<BlobStore['open']>) => {
        const file = await target.open(...words);
        counts.opens += 1;
        if (file === undefined) return undefined;
        return {
          ...file,
          read: async (byteOffset: number, byteLength: number) => {
            counts.reads += 1;
            counts.readBytes += byteLength;
            return file.read(byteOffset, byteLength);
          },
        };
      };
    },
  });

const countCalls = (methods: object, counts: Counts): void => {
  for (const [name, method] of Object.entries(methods) as [string, (...words: unknown[]) => unknown][])
    Object.assign(methods, {
      [name]: (...words: unknown[]) => {
        counts.catalogueCalls += 1;
        return method(...words);
      },
    });
};
