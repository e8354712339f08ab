import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CollectiveError, ERROR_TABLE, type ErrorRow, hasCode, isErrorCode } from './errors.js';
import { errorsDocument } from './errors-document.js';

const packagesFolder = fileURLToPath(new URL('../../', import.meta.url));

/** The sources of all packages, without tests and without the table itself. */
const sources = (): string[] =>
  readdirSync(packagesFolder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap((entry) =>
      readdirSync(join(packagesFolder, entry.name, 'src'), { recursive: true, encoding: 'utf8' }).map((path) =>
        join(packagesFolder, entry.name, 'src', path),
      ),
    )
    .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts') && !path.includes('/testing/'))
    .filter((path) => path !== fileURLToPath(new URL('errors.ts', import.meta.url)));

describe('error table', () => {
  it('is what docs/errors.md says (else run packages/shared/scripts/write-errors-document.mjs)', () => {
    expect(readFileSync(new URL('../../../docs/errors.md', import.meta.url), 'utf8')).toBe(errorsDocument());
  });

  it('has no code that nothing throws', () => {
    const text = sources()
      .map((path) => readFileSync(path, 'utf8'))
      .join('\n');
    const unused = Object.keys(ERROR_TABLE).filter((code) => !text.includes(`'${code}'`));
    expect(unused).toEqual([]);
  });

  it.each(Object.entries<ErrorRow>(ERROR_TABLE))(
    '%s has a kebab-case code, a sentence and a status of an error',
    (code, row) => {
      expect(code).toMatch(/^[a-z]+(?:-[a-z]+)*$/);
      expect(row.sentence).toMatch(/^[A-Z][^|.]*$/);
      expect(row.hint).not.toContain('|');
      expect(row.httpStatus).toBeGreaterThanOrEqual(400);
      expect(row.httpStatus).toBeLessThan(600);
    },
  );

  it('gives an error its sentence when it has no message of its own, and keeps cause and data', () => {
    const cause = new Error('inner');
    const error = new CollectiveError('disk-full', undefined, { cause, data: { bytes: 5 } });
    expect(error.message).toBe(ERROR_TABLE['disk-full'].sentence);
    expect(error.cause).toBe(cause);
    expect(error.data).toEqual({ bytes: 5 });
    expect(error.row.nbdErrno).toBe(28);
    expect(hasCode(error, 'disk-full')).toBe(true);
    expect(hasCode(error, 'internal')).toBe(false);
    expect(hasCode(cause, 'internal')).toBe(false);
    expect(isErrorCode('disk-full')).toBe(true);
    expect(isErrorCode('toString')).toBe(false);
  });
});
