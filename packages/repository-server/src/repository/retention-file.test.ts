/** The setting of retention: what it says, what is refused, and that what is wrong never deletes anything. */
import { type CollectiveError, hasCode } from '@collective/shared';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GRACE_SECONDS_DEFAULT } from '../limits.js';
import { type FileSystem } from '../storage/file-system.js';
import { localFileSystem } from '../storage/local-file-system.js';
import { RETENTION_DEFAULT } from './retention.js';
import { keptInAYear, parseRetention, readRetentionFile, retentionWords } from './retention-file.js';

const DEFAULT = { plan: RETENTION_DEFAULT, deletedSeconds: GRACE_SECONDS_DEFAULT };
const WORDS = { keep: '1h:all,1d:5m,1w:1h,30d:1d,rest:1w', newest: 10, deleted: '30d' };
const withFile = (text: string | Uint8Array): FileSystem => ({
  ...localFileSystem,
  read: (path) =>
    Promise.resolve(path === '/repository/server/retention.json' ? Buffer.from(text as string) : undefined),
});
const read = (text: string | Uint8Array) => readRetentionFile(withFile(text), '/repository');
const refusal = (words: Partial<typeof WORDS>): string => {
  try {
    parseRetention({ ...WORDS, ...words });
    return 'taken';
  } catch (error) {
    if (!hasCode(error, 'usage')) throw error;
    return (error as CollectiveError).message;
  }
};

describe('the words', () => {
  test('of the default say what it is, and are read again as the same', () => {
    expect(retentionWords(DEFAULT)).toEqual(WORDS);
    expect(parseRetention(WORDS)).toEqual(DEFAULT);
    expect(keptInAYear(RETENTION_DEFAULT)).toBe(660);
  });
  test('all for a week and nothing then', () => {
    expect(parseRetention({ ...WORDS, keep: '7d:all,rest:none' }).plan).toEqual({
      steps: [{ ageSeconds: 604_800, everySeconds: 0 }],
      everySecondsThen: undefined,
      newestCount: 10,
    });
    expect(parseRetention({ ...WORDS, keep: 'rest:1d' }).plan.steps).toEqual([]);
  });
  test.each([
    [{ newest: 9 }, /at least the last 10 snapshots stay/],
    [{ newest: 1e9 }, /at most 1000/],
    [{ newest: 10.5 }, /10\.5 is not allowed/],
    [{ deleted: '12h' }, /from 1d to 3650d.*gc --grace/],
    [{ deleted: 'soon' }, /soon is not a time/],
    [{ keep: '1h:all,1d:5m' }, /does not end with rest:TIME, rest:all or rest:none/],
    [{ keep: '1d:5m,1h:1h,rest:1d' }, /ages must grow/],
    [{ keep: '1h:5m,1d:7m,rest:1d' }, /multiple of that, like 5m or 10m/],
    [{ keep: '1h:5m,1d:all,rest:1d' }, /multiple of that/],
    [{ keep: '1h:5m,rest:all' }, /multiple of that/],
    [{ keep: '1h:none,rest:1d' }, /none is not a time/],
    [{ keep: '1h:0s,rest:1d' }, /say all/],
    [{ keep: '1h,rest:1d' }, /not AGE:TIME or AGE:all, like 1d:5m/],
    [{ keep: '' }, /does not end with/],
    [{ keep: '1h:all,rest:365d' }, /up to 1051200 snapshots would stay.*the steps between closer/],
    [{ keep: 'rest:all' }, /up to 1051200 snapshots would stay.*let the first steps end earlier/],
    [{ keep: `${Array.from({ length: 17 }, (_, at) => `${at + 1}d:1d`).join(',')},rest:1d` }, /18 steps; 17 are/],
  ])('%j is refused and says what is right', (words, expected) => {
    expect(refusal(words)).toMatch(expected);
  });
});

describe('the file', () => {
  test('says what was set; without it there is nothing set', async () => {
    expect(await read('{"format":1,"keep":"7d:all,rest:none","newest":50,"deleted":"90d"}')).toMatchObject({
      plan: { newestCount: 50 },
      deletedSeconds: 90 * 86_400,
    });
    expect(await readRetentionFile(withFile(''), '/other')).toBeUndefined();
  });
  test.each([
    ['', /retention\.json: .*set it anew with collective-repository retention \/repository --keep …, or --default/],
    ['{"format":1,"keep":"rest:1d","newest":3,"deleted":"30d"}', /at least the last 10/],
    ['{"format":1,"keep":"rest:1d","newest":10,"deleted":"30d","newest":20}', /malformed|twice|repeated|newest/],
    ['{"format":1,"keep":"rest:1d","newest":10,"deleted":"30d","oldest":2}', /oldest|retention/],
  ])('%s is malformed', async (text, expected) => {
    await expect(read(text)).rejects.toSatisfy((error: CollectiveError) => {
      expect([error.code, error.message]).toEqual(['malformed', expect.stringMatching(expected)]);
      return true;
    });
  });
  test('of a later program is not set anew', async () => {
    await expect(read('{"format":2,"keep":"rest:1d"}')).rejects.toMatchObject({ code: 'unknown-format' });
  });
  test('whatever bytes it has: a plan that keeps the last ten and is written as it was read, or malformed', async () => {
    const word = fc.constantFrom(
      '1h',
      '5m',
      '1d',
      '7d',
      '30d',
      'all',
      'none',
      'rest',
      ':',
      ',',
      '0s',
      '999999w',
      '-1h',
    );
    const keep = fc.array(word, { maxLength: 24 }).map((words) => words.join(''));
    const text = fc.oneof(
      fc.record({ format: fc.constantFrom(1, 2), keep, newest: fc.oneof(fc.nat(2_000), fc.double()), deleted: word }),
      fc.record({ format: fc.constant(1), keep, newest: fc.constant(10), deleted: fc.constant('30d') }),
      fc.json(),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          text.map((value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))),
          fc.uint8Array({ maxLength: 200 }),
        ),
        async (bytes) => {
          const found = await read(bytes).catch((error: unknown) => {
            expect(hasCode(error, 'malformed') || hasCode(error, 'unknown-format')).toBe(true);
            return undefined;
          });
          if (found === undefined) return;
          expect(found.plan.newestCount).toBeGreaterThanOrEqual(10);
          expect(parseRetention(retentionWords(found))).toEqual(found);
        },
      ),
      { numRuns: 1_000 },
    );
  });
});
