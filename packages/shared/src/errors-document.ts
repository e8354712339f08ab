/**
 * docs/errors.md, made from the error table (scripts/write-errors-document.mjs writes it, errors.test.ts checks that it
 * is current). Not part of what other packages import.
 */
import { ERROR_TABLE, type ErrorRow } from './errors.js';

const ERRNO_NAMES: Readonly<Record<ErrorRow['nbdErrno'], string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};

const PREFACE = `# Errors

Made from \`packages/shared/src/errors.ts\` by \`node packages/shared/scripts/write-errors-document.mjs\`; do not edit.

Every error has a code. The server answers with \`{"code", "message", "hint"?, "data"?}\` and the HTTP status below; a
guest's disk sees the NBD error; the command line prints message and hint, and with \`--json\` the same object. *Again*:
trying once more, unchanged, can help. Programs match on the code, never on text.
`;

const line = (code: string, row: ErrorRow): string =>
  `| \`${code}\` | ${row.sentence} | ${row.retryable ? 'yes' : ''} | ${row.httpStatus} | ${ERRNO_NAMES[row.nbdErrno]} | ${row.hint} |`;

export const errorsDocument = (): string =>
  [
    PREFACE,
    '| code | sentence | again | HTTP | NBD | hint |',
    '|---|---|---|---|---|---|',
    ...Object.entries<ErrorRow>(ERROR_TABLE).map(([code, row]) => line(code, row)),
    '',
  ].join('\n');
