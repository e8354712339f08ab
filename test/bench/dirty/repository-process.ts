/**
 * A repository server in a process of its own. It stands for another computer: it runs only when nobody here wants the processor, so that
 * what it does is not taken for the backup's own work.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { signingKeyFromSeed, type Digest, type SigningKey } from '@collective/shared';
import type { Subscriber } from '@collective/repository-server';

/** What it says when it is ready. `seed`: of the person's device here. */
export type RepositoryIs = {
  readonly port: number;
  readonly account: string;
  readonly identity: Digest;
  readonly personKey: string;
  readonly seed: string;
  readonly deviceId: Digest;
  readonly token: string;
  readonly version: Subscriber['version'];
};
export type RepositoryAsked = { readonly id: number; readonly kind: 'clock' | 'token'; readonly nowSeconds: number };
export type RepositorySays = { readonly is: RepositoryIs } | { readonly id: number; readonly token?: string };

type Reply = Exclude<RepositorySays, { readonly is: unknown }>;

export class RepositoryProcess implements AsyncDisposable {
  readonly is: RepositoryIs;
  readonly device: SigningKey;
  readonly #process: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  private constructor(child: ChildProcess, is: RepositoryIs) {
    this.is = is;
    this.device = signingKeyFromSeed(Buffer.from(is.seed, 'base64url'));
    this.#process = child;
    child.on('message', (message) => {
      const reply = message as Reply;
      this.#waiting.get(reply.id)?.resolve(reply);
      this.#waiting.delete(reply.id);
    });
    child.on('exit', (code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the repository server ended (${code})`));
    });
  }

  /** With a person and a published appliance, in that empty folder. */
  static async open(folder: string): Promise<RepositoryProcess> {
    const child = fork(fileURLToPath(new URL('./repository-main.js', import.meta.url)), [folder], {
      ...{ execPath: 'chrt', execArgv: ['--idle', '0', process.execPath] },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const is = await new Promise<RepositoryIs>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`the repository server ended (${code})`)));
      child.once('message', (message) => resolve((message as { readonly is: RepositoryIs }).is));
    });
    return new RepositoryProcess(child, is);
  }

  /** The server's clock goes with that of the replay. */
  async setClock(nowSeconds: number): Promise<void> {
    await this.#ask('clock', nowSeconds);
  }

  /** A new session of the device. */
  async login(nowSeconds: number): Promise<string> {
    const { token } = await this.#ask('token', nowSeconds);
    if (token === undefined) throw new Error('the repository server gave no token');
    return token;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGKILL');
    await exited;
  }

  async #ask(kind: RepositoryAsked['kind'], nowSeconds: number): Promise<Reply> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#process.send({ id, kind, nowSeconds } satisfies RepositoryAsked);
    });
  }
}
