/** What every command shares: output for people or as JSON, errors, exit codes. */
import { CollectiveError, type ErrorCode } from '@collective/shared';

/** 0 done, 1 failed, 2 used wrongly, 3 refused (it exists, is in use, not allowed, somebody was faster), 4 damage found. */
export const EXIT = { done: 0, failed: 1, usage: 2, refused: 3, damaged: 4 } as const;

const REFUSALS: readonly ErrorCode[] = ['conflict', 'exists', 'in-use', 'not-allowed', 'untrusted', 'rollback'];
const DAMAGES: readonly ErrorCode[] = ['digest-mismatch', 'block-missing', 'bad-signature'];

export type CommonOptions = { readonly json?: true };

/** One JSON document on stdout, or the lines for people. */
export const print = (
  options: CommonOptions,
  result: Readonly<Record<string, unknown>>,
  lines: readonly string[],
): void => {
  process.stdout.write(
    options.json === true ? `${JSON.stringify(result)}\n` : lines.map((line) => `${line}\n`).join(''),
  );
};

export const exitCodeOf = (error: unknown): number => {
  if (!(error instanceof CollectiveError)) return EXIT.failed;
  if (error.code === 'usage') return EXIT.usage;
  if (REFUSALS.includes(error.code)) return EXIT.refused;
  return DAMAGES.includes(error.code) ? EXIT.damaged : EXIT.failed;
};

export const printError = (error: unknown, isJson: boolean): void => {
  const known = error instanceof CollectiveError ? error : undefined;
  const message = error instanceof Error ? error.message : String(error);
  if (isJson) {
    process.stderr.write(`${JSON.stringify({ error: { code: known?.code ?? 'internal', message } })}\n`);
    return;
  }
  const hint = known?.code === 'usage' ? ' See --help.' : '';
  process.stderr.write(`collective-repository: ${message}${hint}\n`);
};
