import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { collectPeriodically } from './periodic-collection.js';

type Line = { readonly what: string; readonly fields: Readonly<Record<string, unknown>> };

/** Lines as they come; `nth` resolves when there are so many. */
const logOf = (): {
  readonly logger: Parameters<typeof collectPeriodically>[1]['logger'];
  readonly lines: Line[];
  readonly nth: (count: number) => Promise<void>;
} => {
  const lines: Line[] = [];
  const waiting: { readonly count: number; readonly resolve: () => void }[] = [];
  const log = (fields: unknown, what?: unknown): void => {
    lines.push({ what: String(what), fields: { ...(typeof fields === 'object' ? fields : {}) } });
    for (const { count, resolve } of waiting) if (lines.length >= count) resolve();
  };
  const nth = (count: number): Promise<void> =>
    new Promise((resolve) => {
      waiting.push({ count, resolve });
      if (lines.length >= count) resolve();
    });
  return { logger: { info: log, error: log }, lines, nth };
};

test('runs the collector again and again, and logs what it did', async () => {
  const { logger, lines, nth } = logOf();
  const periodic = collectPeriodically([process.execPath, '-e', 'console.log("{}")'], { everyMs: 10, logger });
  await nth(3);
  await periodic.stop();
  expect(lines.slice(0, 3)).toEqual(Array(3).fill({ what: 'collected', fields: { result: '{}' } }));
});

test('a collector that fails is logged with what it said, and tried again', async () => {
  const { logger, lines, nth } = logOf();
  const script = 'process.stderr.write("damaged"); process.exit(4)';
  const periodic = collectPeriodically([process.execPath, '-e', script], { everyMs: 10, logger });
  await nth(2);
  await periodic.stop();
  expect(lines[1]).toEqual({ what: 'the collector failed', fields: { code: 4, stderr: 'damaged' } });
});

test('a program that cannot be started is logged', async () => {
  const { logger, lines, nth } = logOf();
  const periodic = collectPeriodically(['/nonexistent/program'], { everyMs: 10, logger });
  await nth(1);
  await periodic.stop();
  expect(lines[0]).toMatchObject({ what: 'the collector failed' });
});

test('stopping ends a collection under way, without calling it a failure', async () => {
  const { logger, lines } = logOf();
  const folder = await mkdtemp(join(tmpdir(), 'periodic-'));
  const started = join(folder, 'started');
  const script = `require("fs").writeFileSync(${JSON.stringify(started)}, ""); setInterval(() => {}, 1000)`;
  const periodic = collectPeriodically([process.execPath, '-e', script], { everyMs: 1, logger });
  await expect.poll(() => existsSync(started), { timeout: 15_000, message: 'the collection starts' }).toBe(true);
  await periodic.stop();
  await rm(folder, { recursive: true });
  expect(lines).toEqual([]);
});
