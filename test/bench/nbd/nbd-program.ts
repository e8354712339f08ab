/** An NBD server as a child process: started from a command, ready when a client can connect, stopped by SIGTERM. */
import { spawn, type ChildProcess } from 'node:child_process';
import net from 'node:net';
import { readFile, rm } from 'node:fs/promises';

const READY_MS = 120_000;
const STOP_MS = 20_000;
/** Linux reports processor times in hundredths of a second. */
const TICK_US = 10_000;

const canConnect = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = net.connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });

export class NbdProgram {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly uri: string;

  private constructor(child: ChildProcess, uri: string) {
    this.#child = child;
    this.uri = uri;
    this.#exited = new Promise((resolve) => child.once('exit', () => resolve()));
  }

  static async start(
    command: readonly string[],
    options: {
      readonly socket: string;
      readonly exportName: string;
      readonly env?: Readonly<Record<string, string>>;
      /** What the program says on standard error. Default: shown. */
      readonly onError?: (text: string) => void;
    },
  ): Promise<NbdProgram> {
    const [program, ...rest] = command;
    if (program === undefined) throw new Error('an empty command');
    await rm(options.socket, { force: true });
    const { onError } = options;
    const child = spawn(program, rest, {
      stdio: ['ignore', 'ignore', onError === undefined ? 'inherit' : 'pipe'],
      env: { ...process.env, ...options.env },
    });
    if (onError !== undefined) child.stderr?.setEncoding('utf8').on('data', onError);
    const started = new NbdProgram(child, `nbd+unix:///${options.exportName}?socket=${options.socket}`);
    const deadlineMs = performance.now() + READY_MS;
    while (!(await canConnect(options.socket))) {
      if (child.exitCode !== null) throw new Error(`${command.join(' ')} ended with ${child.exitCode}`);
      if (performance.now() > deadlineMs) {
        await started.stop();
        throw new Error(`${command.join(' ')} was not ready in time`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return started;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Processor time of the program so far, user and system, all threads. */
  async cpuUs(): Promise<number> {
    const fields = (await readFile(`/proc/${this.pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
    return (Number(fields[11]) + Number(fields[12])) * TICK_US;
  }

  /** kill -9, and gone when this resolves. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    await this.#exited;
    clearTimeout(timer);
  }
}
