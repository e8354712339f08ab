/** A person's home and a repository as child processes, driven by their command lines as a person would. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { SpawnOptions } from 'node:child_process';
import { Child, run, type RunResult } from './child.js';
import { GuestWatch } from './guest-evidence.js';
import { homeEndsWithUs, homeHasEnded } from './leftovers.js';
import { COLLECTIVE, COLLECTIVE_REPOSITORY } from './paths.js';

export const PASSWORD = 'a password for tests';

/** `collective-repository … --json`, parsed. */
export const repositoryCommand = async (words: readonly string[]): Promise<Readonly<Record<string, unknown>>> => {
  const result = await run(process.execPath, [COLLECTIVE_REPOSITORY, ...words, '--json']);
  if (result.code !== 0)
    throw new Error(
      `collective-repository ${words.join(' ')} ended with ${result.code}\n${result.stdout}\n${result.stderr}`,
    );
  return JSON.parse(result.stdout) as Readonly<Record<string, unknown>>;
};

const textField = (record: Readonly<Record<string, unknown>>, name: string): string => {
  const value = record[name];
  if (typeof value !== 'string') throw new Error(`no text field ${name} in ${JSON.stringify(record)}`);
  return value;
};

/** A repository folder and its serving process. */
export class Repository implements AsyncDisposable {
  readonly folder: string;
  readonly port: number;
  readonly #spawnAt: (port: number) => Child;
  #child: Child;

  private constructor(folder: string, port: number, child: Child, spawnAt: (port: number) => Child) {
    this.#spawnAt = spawnAt;
    this.folder = folder;
    this.port = port;
    this.#child = child;
  }

  /**
   * Serves `folder`, made by `init`, with more `words` for `serve`. Port 0 takes a free one. `program`: one of a test's own, which is
   * called as collective-repository is and says where it listens. `inside`: a command that starts it somewhere else.
   */
  static async serve(
    folder: string,
    port = 0,
    words: readonly string[] = [],
    program = COLLECTIVE_REPOSITORY,
    inside: readonly string[] = [],
  ): Promise<Repository> {
    const spawn = (at: number): Child => {
      const node = [process.execPath, program, 'serve', folder, '--listen', `127.0.0.1:${at}`, '--log-level', 'warn'];
      const [command = '', ...rest] = [...inside, ...node, '--json', ...words];
      return new Child('repository', command, rest);
    };
    const child = spawn(port);
    return new Repository(folder, Repository.#portOf(await child.waitFor(/^(\{.*"origin".*\})$/m)), child, spawn);
  }

  static #portOf(match: RegExpExecArray): number {
    return Number(new URL(textField(JSON.parse(match[1] ?? '') as Record<string, unknown>, 'origin')).port);
  }

  get process(): Child {
    return this.#child;
  }

  /** kill -9, then the same folder on the same port again. */
  async restart(): Promise<void> {
    await this.#child.stop('SIGKILL');
    this.#child = this.#spawnAt(this.port);
    await this.#child.waitFor(/^(\{.*"origin".*\})$/m);
  }

  /** A join link with an invitation for a new account; `throughPort` names a link in front of the server. */
  async invite(
    account: string,
    role: 'admin' | 'publisher' | 'user',
    options: { readonly appliances?: readonly string[]; readonly throughPort?: number } = {},
  ): Promise<string> {
    const appliances = (options.appliances ?? []).flatMap((name) => ['--appliance', name]);
    const link = textField(
      await repositoryCommand(['invite', this.folder, account, '--role', role, ...appliances]),
      'joinLink',
    );
    return link.replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${options.throughPort ?? this.port}`);
  }

  async allow(account: string, ...appliances: readonly string[]): Promise<void> {
    await repositoryCommand(['trust', 'allow', this.folder, account, ...appliances]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stop();
  }
}

/** A home directory and the `collective` command on it. */
export class Person implements AsyncDisposable {
  readonly home: string;
  readonly #temporary: boolean;

  private constructor(home: string, temporary: boolean) {
    this.home = home;
    this.#temporary = temporary;
  }

  static at(home: string): Person {
    return new Person(home, false);
  }

  static async temporary(): Promise<Person> {
    const home = await mkdtemp(path.join(os.tmpdir(), 'person-'));
    homeEndsWithUs(home);
    return new Person(home, true);
  }

  /** Runs `collective WORDS`, whatever it ends with. */
  async run(
    words: readonly string[],
    options: SpawnOptions & { readonly input?: string; readonly timeoutMs?: number } = {},
  ): Promise<RunResult> {
    return await run(process.execPath, [COLLECTIVE, '--home', this.home, ...words], options);
  }

  /** Runs `collective WORDS --json` and gives what it printed, parsed; fails with its output when it fails. */
  async json(
    words: readonly string[],
    options: SpawnOptions & { readonly input?: string; readonly timeoutMs?: number } = {},
  ): Promise<Readonly<Record<string, unknown>>> {
    using watch = this.watchGuests();
    const result = await this.run([...words, '--json'], options);
    if (result.code !== 0)
      throw new Error(
        `collective ${words.join(' ')} ended with ${result.code}\n${result.stdout}\n${result.stderr}\n${watch.text}`,
      );
    return JSON.parse(result.stdout) as Readonly<Record<string, unknown>>;
  }

  /** Says what the guests of this home do when something takes minutes. */
  watchGuests(): GuestWatch {
    return new GuestWatch(this.home, async () => (await this.run(['status', '--json'])).stdout);
  }

  /** A long-running command, `collective console …` or `collective export …`. */
  spawn(words: readonly string[]): Child {
    return new Child(`collective ${words.join(' ')}`, process.execPath, [COLLECTIVE, '--home', this.home, ...words]);
  }

  async login(joinLink: string, account: string, password = PASSWORD): Promise<void> {
    await this.json(['login', joinLink, '--account', account, '--password-stdin', '--no-recovery-code-check'], {
      input: `${password}\n`,
    });
  }

  /** Stops all machines at once and ends every process of this home. */
  async end(): Promise<void> {
    await this.run(['stop', '--all', '--force']);
    await this.run(['shutdown']);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    if (!this.#temporary) return;
    await rm(this.home, { recursive: true, force: true });
    homeHasEnded(this.home);
  }
}
