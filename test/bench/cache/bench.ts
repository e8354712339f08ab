/**
 * `bench cache`: opening a cache of 1,000,000 blocks of 64 KiB, from the page cache and with the pages dropped; memory a
 * block, as allocated and as the process grew; lookup, fill and hit. The table is real, the slots file is a hole of the
 * right length: opening does not look at contents.
 */
import { createHash, randomFillSync } from 'node:crypto';
import { mkdtemp, open, rm, truncate } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { blockDigest } from '@collective/shared';
import {
  CacheWriter,
  FLAGS_WORD,
  LocalFileSystem,
  RECORD_WORDS,
  SLOT_USED,
  SlotReader,
  encodeTableHeader,
  putDigestWords,
  sealRecord,
  slotFileName,
  slotTableName,
  syscalls,
} from '@collective/transceiver';
import {
  atMost,
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { runOrThrow } from '../../support/child.js';

const BLOCK_BYTES = 65_536;
const OPENER = fileURLToPath(new URL('./open-cache.js', import.meta.url));

type Opened = {
  readonly openMs: number;
  readonly usedSlots: number;
  readonly memoryBytes: number;
  readonly rssBytes: number;
  readonly lookupUs: number;
  readonly foundPart: number;
};

const writeTable = async (folder: string, blocks: number): Promise<void> => {
  const records = new Uint32Array(blocks * RECORD_WORDS);
  for (let slot = 0; slot < blocks; slot += 1) {
    putDigestWords(createHash('sha256').update(String(slot)).digest('hex'), records, slot * RECORD_WORDS);
    records[slot * RECORD_WORDS + FLAGS_WORD] = SLOT_USED;
    sealRecord(records, slot, slot % 4);
  }
  const table = await open(path.join(folder, slotTableName(BLOCK_BYTES)), 'w');
  await table.write(encodeTableHeader(BLOCK_BYTES));
  await table.write(new Uint8Array(records.buffer));
  await table.sync();
  await table.close();
  const slots = path.join(folder, slotFileName(BLOCK_BYTES));
  await (await open(slots, 'w')).close();
  await truncate(slots, blocks * BLOCK_BYTES);
};

const dropPages = async (folder: string): Promise<void> => {
  for (const name of [slotTableName(BLOCK_BYTES), slotFileName(BLOCK_BYTES)]) {
    const file = await open(path.join(folder, name), 'r');
    syscalls?.advise(file.fd, 0, 0, 'drop');
    await file.close();
  }
};

const openOnce = async (folder: string, blocks: number): Promise<Opened> => {
  const { stdout } = await runOrThrow(process.execPath, [OPENER, folder, String(blocks)]);
  const opened = JSON.parse(stdout) as Opened;
  if (opened.usedSlots !== blocks) throw new Error(`${opened.usedSlots} of ${blocks} blocks were found`);
  return opened;
};

const measureOpening = async (options: BenchOptions): Promise<BenchCase[]> => {
  const blocks = options.quick ? 100_000 : 1_000_000;
  const rounds = options.quick ? 2 : 7;
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-bench-cache-'));
  try {
    options.log(`writing a table of ${blocks} records`);
    await writeTable(folder, blocks);
    const warm: Opened[] = [];
    const cold: Opened[] = [];
    await openOnce(folder, blocks);
    for (let round = 0; round < rounds; round += 1) {
      options.log(`opening, round ${round + 1} of ${rounds}`);
      warm.push(await openOnce(folder, blocks));
      await dropPages(folder);
      cold.push(await openOnce(folder, blocks));
    }
    const all = [...warm, ...cold];
    const of = (opened: readonly Opened[], field: (each: Opened) => number): number[] => opened.map(field);
    const warmMs = of(warm, (each) => each.openMs);
    const coldMs = of(cold, (each) => each.openMs);
    const rssBytes = of(all, (each) => each.rssBytes / blocks);
    return [
      atMost(`open ${blocks} blocks from the page cache`, median(warmMs), 150, {
        unit: 'ms',
        note: interval(warmMs, 0),
      }),
      atMost(`open ${blocks} blocks, pages dropped`, median(coldMs), 1000, { unit: 'ms', note: interval(coldMs, 0) }),
      atMost('memory a block, allocated', median(of(all, (each) => each.memoryBytes / blocks)), 48, { unit: 'bytes' }),
      atMost('memory a block, growth of the process', median(rssBytes), 48, {
        unit: 'bytes',
        note: `with all that opening needs; ${interval(rssBytes, 1)}`,
      }),
      informs('lookup by digest', median(of(all, (each) => each.lookupUs)), 'us', 'random, four of five there'),
    ];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const measureFilling = async (options: BenchOptions): Promise<BenchCase[]> => {
  const count = options.quick ? 500 : 4000;
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-bench-cache-'));
  const fileSystem = new LocalFileSystem();
  const writer = await CacheWriter.open(fileSystem, folder, {
    cacheBytesMax: 2 * count * BLOCK_BYTES,
    reserveBytes: 0,
  });
  try {
    const blocks = Array.from({ length: count }, () => randomFillSync(Buffer.allocUnsafeSlow(BLOCK_BYTES)));
    const requests = blocks.map((block, index) => ({
      digest: blockDigest(block),
      blockBytes: BLOCK_BYTES,
      neighbourhood: index >> 7,
    }));
    options.log(`filling ${count} blocks`);
    const beganMs = performance.now();
    for (const [index, request] of requests.entries()) await writer.fill(request, blocks[index] ?? Buffer.alloc(0));
    const fillSeconds = (performance.now() - beganMs) / 1000;

    const file = await writer.file(BLOCK_BYTES);
    const reader = new SlotReader(
      file.memory,
      await fileSystem.open(path.join(folder, slotFileName(BLOCK_BYTES)), 'read'),
    );
    const words = new Uint32Array(count * 4);
    requests.forEach((request, index) => putDigestWords(request.digest, words, index * 4));
    const slots = requests.map((_, index) => reader.find(words, index * 4));
    const target = Buffer.allocUnsafeSlow(4096);
    const reads = options.quick ? 50_000 : 500_000;
    let refused = 0;
    const readBeganMs = performance.now();
    for (let read = 0; read < reads; read += 1) {
      const index = Math.imul(read, 2_654_435_761) >>> 0;
      const at = index % count;
      if (!reader.tryRead(slots[at] ?? 0, words, at * 4, target, ((index >>> 16) % 16) << 12)) refused += 1;
    }
    const readUs = ((performance.now() - readBeganMs) * 1000) / reads;
    await reader.close();
    return [
      informs('fill', (count * BLOCK_BYTES) / 1e6 / fillSeconds, 'MB/s', 'verified blocks into slots, one at a time'),
      informs('4 KiB hit', readUs, 'us', `random, one system call each; ${refused} of ${reads} refused`),
    ];
  } finally {
    await writer.close();
    await rm(folder, { recursive: true, force: true });
  }
};

export const run = async (options: BenchOptions): Promise<BenchResult> => ({
  bench: 'cache',
  machine: describeMachine(),
  cases: [...(await measureOpening(options)), ...(await measureFilling(options))],
});
