/**
 * Child processes of tests and benchmarks: started with their output kept, waited for with a named step, and ended by
 * their own id, so that a failed test says what it waited for and leaves nothing behind.
 */
import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { endsWithUs } from './leftovers.js';

export type RunResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

const OUTPUT_CHARS_MAX = 4 << 20;

/** A running child whose output is collected (the last 4 MiB) and can be waited for. */
export class Child implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly name: string;
  #stdout = '';
  #stderr = '';
  readonly #exit: Promise<number | null>;
  /** It has ended, and all that it said is here. */
  #isOver = false;
  readonly #listeners = new Set<() => void>();

  constructor(name: string, command: string, words: readonly string[], options: SpawnOptions = {}) {
    this.name = name;
    this.process = spawn(command, words, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    endsWithUs(this.process);
    const collect = (stream: 'stdout' | 'stderr') => (text: string) => {
      if (stream === 'stdout') this.#stdout = (this.#stdout + text).slice(-OUTPUT_CHARS_MAX);
      else this.#stderr = (this.#stderr + text).slice(-OUTPUT_CHARS_MAX);
      for (const listener of this.#listeners) listener();
    };
    this.process.stdout?.setEncoding('utf8').on('data', collect('stdout'));
    this.process.stderr?.setEncoding('utf8').on('data', collect('stderr'));
    this.#exit = new Promise((resolve) => {
      this.process.once('error', (error) => {
        this.#stderr += String(error);
        this.#isOver = true;
        resolve(null);
        for (const listener of this.#listeners) listener();
      });
      this.process.once('close', (code) => {
        this.#isOver = true;
        resolve(code);
        for (const listener of this.#listeners) listener();
      });
    });
  }

  get stdout(): string {
    return this.#stdout;
  }

  get stderr(): string {
    return this.#stderr;
  }

  get running(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null && this.process.pid !== undefined;
  }

  /** Resolves when the child has ended and its output is complete. */
  async exit(): Promise<RunResult> {
    return { code: await this.#exit, stdout: this.#stdout, stderr: this.#stderr };
  }

  /** Resolves with the match as soon as the output has it; fails, with the output, when the child ends first or time runs out. */
  async waitFor(pattern: RegExp, timeoutMs = 180_000): Promise<RegExpExecArray> {
    let timer: NodeJS.Timeout | undefined;
    let listener: (() => void) | undefined;
    try {
      return await new Promise<RegExpExecArray>((resolve, reject) => {
        const fail = (why: string): void =>
          reject(
            new Error(
              `${this.name}: ${why} before ${String(pattern)}\n${this.#stdout.slice(-2000)}\n${this.#stderr.slice(-2000)}`,
            ),
          );
        listener = () => {
          const match = pattern.exec(this.#stdout) ?? pattern.exec(this.#stderr);
          if (match !== null) resolve(match);
          else if (this.#isOver) fail('ended');
        };
        this.#listeners.add(listener);
        timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs);
        listener();
      });
    } finally {
      clearTimeout(timer);
      if (listener !== undefined) this.#listeners.delete(listener);
    }
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    if (this.running) this.process.kill(signal);
  }

  /** Ends the child: `signal`, then SIGKILL after `graceMs`. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', graceMs = 60_000): Promise<RunResult> {
    if (this.running) {
      this.process.kill(signal);
      const timer = setTimeout(() => this.process.kill('SIGKILL'), graceMs);
      await this.#exit;
      clearTimeout(timer);
    }
    return await this.exit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Runs a command to its end. */
export const run = async (
  command: string,
  words: readonly string[],
  options: SpawnOptions & { readonly input?: string; readonly timeoutMs?: number } = {},
): Promise<RunResult> => {
  const { input, timeoutMs, ...rest } = options;
  const child = new Child(command, command, words, rest);
  child.process.stdin?.on('error', () => undefined);
  child.process.stdin?.end(input ?? '');
  const timer = setTimeout(() => child.kill(), timeoutMs ?? 300_000);
  try {
    return await child.exit();
  } finally {
    clearTimeout(timer);
  }
};

/** As `run`; fails with the output when the exit code is not 0. */
export const runOrThrow = async (...words: Parameters<typeof run>): Promise<RunResult> => {
  const result = await run(...words);
  if (result.code !== 0) {
    throw new Error(
      `${words[0]} ${words[1].join(' ')} ended with ${result.code}\n${result.stdout.slice(-3000)}\n${result.stderr.slice(-3000)}`,
    );
  }
  return result;
};

/** Resolves when the child has spawned; rejects when it could not be started. */
export const spawned = async (child: Child): Promise<void> => {
  if (child.process.pid === undefined) await once(child.process, 'spawn');
};
