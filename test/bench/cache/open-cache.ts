/**
 * Opens a cache folder in a process of its own and prints, as one JSON line, how long it took, what it allocated for each
 * slot, by how much the process grew, and what a lookup costs. Usage: node open-cache.js FOLDER BLOCKS
 */
import { createHash } from 'node:crypto';
import { CacheWriter, LocalFileSystem, SlotReader, putDigestWords, slotFileName } from '@collective/transceiver';

const BLOCK_BYTES = 65_536;
const LOOKUPS = 400_000;

const [folder, blocksText] = process.argv.slice(2);
const blocks = Number(blocksText);
if (folder === undefined || !Number.isSafeInteger(blocks)) throw new Error('usage: open-cache.js FOLDER BLOCKS');

const fileSystem = new LocalFileSystem();
const rssBefore = process.memoryUsage().rss;
const beganMs = performance.now();
const writer = await CacheWriter.open(fileSystem, folder, { cacheBytesMax: blocks * BLOCK_BYTES, reserveBytes: 0 });
const file = await writer.file(BLOCK_BYTES);
const openMs = performance.now() - beganMs;
const rssBytes = process.memoryUsage().rss - rssBefore;
const { usedSlots, memoryBytes } = file;

const reader = new SlotReader(file.memory, await fileSystem.open(`${folder}/${slotFileName(BLOCK_BYTES)}`, 'read'));
const words = new Uint32Array(LOOKUPS * 4);
for (let lookup = 0; lookup < LOOKUPS; lookup += 1) {
  const number = Math.floor((lookup / LOOKUPS) * blocks * 1.25); // a fifth of them is not there
  putDigestWords(createHash('sha256').update(String(number)).digest('hex'), words, lookup * 4);
}
let found = 0;
const lookupBeganMs = performance.now();
for (let lookup = 0; lookup < LOOKUPS; lookup += 1) if (reader.find(words, lookup * 4) >= 0) found += 1;
const lookupUs = ((performance.now() - lookupBeganMs) * 1000) / LOOKUPS;

console.log(JSON.stringify({ openMs, usedSlots, memoryBytes, rssBytes, lookupUs, foundPart: found / LOOKUPS }));
process.exit(0); // without writing the table back
