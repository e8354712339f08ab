import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { runPeriodically } from './periodic-command.js';

const OPTIONS = { what: 'collecting', everyMs: 10, niceness: 10 };

type Line = { readonly what: string; readonly fields: Readonly<Record<string, unknown>> };

/** Lines as they come; `nth` resolves when there are so many. */
const logOf = (): {
  readonly logger: Parameters<typeof runPeriodically>[1]['logger'];
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
  const periodic = runPeriodically([process.execPath, '-e', 'console.log("{}")'], { ...OPTIONS, logger });
  await nth(3);
  await periodic.stop();
  expect(lines.slice(0, 3)).toEqual(Array(3).fill({ what: 'collecting', fields: { result: '{}' } }));
});

test('a collector that fails is logged with what it said, and tried again', async () => {
  const { logger, lines, nth } = logOf();
  const script = 'process.stderr.write("damaged"); process.exit(4)';
  const periodic = runPeriodically([process.execPath, '-e', script], { ...OPTIONS, logger });
  await nth(2);
  await periodic.stop();
  expect(lines[1]).toEqual({ what: 'collecting failed', fields: { code: 4, stderr: 'damaged' } });
});

test('a program that cannot be started is logged', async () => {
  const { logger, lines, nth } = logOf();
  const periodic = runPeriodically(['/nonexistent/program'], { ...OPTIONS, logger });
  await nth(1);
  await periodic.stop();
  expect(lines[0]).toMatchObject({ what: 'collecting failed' });
});

test('stopping ends a collection under way, without calling it a failure', async () => {
  const { logger, lines } = logOf();
  const folder = await mkdtemp(join(tmpdir(), 'periodic-'));
  const started = join(folder, 'started');
  const script = `require("fs").writeFileSync(${JSON.stringify(started)}, ""); setInterval(() => {}, 1000)`;
  const periodic = runPeriodically([process.execPath, '-e', script], { ...OPTIONS, everyMs: 1, logger });
  await expect.poll(() => existsSync(started), { timeout: 15_000, message: 'the collection starts' }).toBe(true);
  await periodic.stop();
  await rm(folder, { recursive: true });
  expect(lines).toEqual([]);
});
