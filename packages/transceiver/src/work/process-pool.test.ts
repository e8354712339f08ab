import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { ProcessPool } from './process-pool.js';

// Seen in review: such a worker kept its place, and every later task failed at it until the agent ended.
it('a worker that cannot be started fails its task only', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'pool-'));
  const script = path.join(folder, 'worker.mjs');
  await writeFile(script, "process.on('message', (task) => process.send({ ok: `${task} done` }));");
  const inline = (): { run: () => Promise<string> } => ({ run: async () => 'here' });
  const pool = ProcessPool.open<string, string>({ script: pathToFileURL(script), inline, workers: 1 });
  const { execPath } = process;
  try {
    process.execPath = path.join(folder, 'no-node');
    await expect(pool.run('a')).rejects.toThrow();
    process.execPath = execPath;
    await expect(pool.run('b')).resolves.toBe('b done');
  } finally {
    process.execPath = execPath;
    await pool.close();
    await rm(folder, { recursive: true, force: true });
  }
});
