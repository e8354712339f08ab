/**
 * What the serving thread may not touch. zstd has one static context a process and the fetching thread uses it: a second
 * thread in it would be a wrong block, or a crash, once in a while.
 */
import { readFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const FOLDER = fileURLToPath(new URL('..', import.meta.url));
const DECODERS = /\b(decodeChunk|encodeChunk|decodePrivateChunk|encodePrivateChunk|decodeChunkBatch|zstd\w*)\b/i;
/** Named in block-path.ts, which writes the whole chain on one screen, but built in the other thread only. */
const FETCHING_HALF = ['blockd/fetch/verifying-store.ts', 'blockd/private/private-decoder.ts'];

/** Every file of ours that `entry` imports, itself included; what is only a type is not loaded. */
const loadedBy = async (entry: string): Promise<Map<string, string>> => {
  const found = new Map<string, string>();
  const look = async (file: string): Promise<void> => {
    if (found.has(file)) return;
    const text = await readFile(file, 'utf8');
    found.set(file, text);
    for (const [, specifier] of text.matchAll(/^(?:import|export)(?! type\b)[^;]*?from '(\.[^']+)'/gm))
      await look(join(dirname(file), (specifier ?? '').replace(/\.js$/, '.ts')));
  };
  await look(entry);
  return found;
};

test('nothing that the serving thread runs compresses or decompresses', async () => {
  const files = await loadedBy(join(FOLDER, 'blockd/main.ts'));
  expect([...files.keys()].map((file) => relative(FOLDER, file))).toContain('blockd/control/map-file.ts');
  const code = (text: string): string => text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
  const guilty = [...files].filter(([, text]) => DECODERS.test(code(text))).map(([file]) => relative(FOLDER, file));
  expect(guilty.sort()).toEqual(FETCHING_HALF);
});
