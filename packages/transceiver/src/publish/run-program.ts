/** Runs a program to its end and returns what it said; output is bounded, a program that hangs is ended. */
import { execFile } from 'node:child_process';
import { CollectiveError } from '@collective/shared';

export type ProgramResult = { readonly exitCode: number; readonly stdout: string; readonly stderr: string };

export type ProgramOptions = {
  readonly signal?: AbortSignal;
  /** Default 10 minutes: `qemu-img check` of a large image reads all its tables. */
  readonly timeoutMs?: number;
  readonly outputBytesMax?: number;
};

/** Errors: `missing-program` with the Debian package that has it; abort rejects with the signal's reason. */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: ProgramOptions = {},
): Promise<ProgramResult> {
  options.signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    execFile(
      program,
      [...args],
      {
        encoding: 'utf8',
        timeout: options.timeoutMs ?? 600_000,
        maxBuffer: options.outputBytesMax ?? 64 * 1024 * 1024,
        env: { ...process.env, LC_ALL: 'C' },
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      },
      (error, stdout, stderr) => {
        if (options.signal?.aborted === true) {
          reject(options.signal.reason instanceof Error ? options.signal.reason : new Error('aborted'));
          return;
        }
        if (error === null) {
          resolve({ exitCode: 0, stdout, stderr });
        } else if (error.code === 'ENOENT') {
          reject(
            new CollectiveError(
              'missing-program',
              `${program} is not installed (Debian: apt install ${DEBIAN_PACKAGES[program] ?? program}).`,
            ),
          );
        } else if (typeof error.code === 'number') {
          resolve({ exitCode: error.code, stdout, stderr });
        } else {
          reject(new CollectiveError('local-io', `${program} did not finish: ${error.message}`, { cause: error }));
        }
      },
    );
  });
}

const DEBIAN_PACKAGES: Readonly<Record<string, string>> = { 'qemu-img': 'qemu-utils', 'qemu-nbd': 'qemu-utils' };
