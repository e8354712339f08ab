/** A disk in a temporary folder and our NBD server over it as a child process, for tests with foreign programs. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { NbdProgram } from '../bench/nbd/nbd-program.js';
import { SERVE_FILE } from '../bench/nbd/serve-file-path.js';

const execute = promisify(execFile);

/** How the disk is served: the file itself, or a writable overlay over it; with or without koffi. */
export type Serving = { readonly kind: 'file' | 'overlay'; readonly koffi: boolean };

/** The interpreter that Debian's python3-libnbd belongs to, whatever else is in the path. */
export const PYTHON = '/usr/bin/python3';

/** Odd on purpose: the last granule is not whole. */
export const DISK_BYTES = (48 << 20) + 1536;

/** Bytes that say where they belong, with a hole of zeroes in the second quarter. */
export const diskContent = (): Buffer => {
  const bytes = Buffer.alloc(DISK_BYTES);
  for (let at = 0; at + 4 <= DISK_BYTES; at += 4) bytes.writeUInt32LE((at ^ 0x5a5a_0000) >>> 0, at);
  return bytes.fill(0, 12 << 20, 24 << 20);
};

export class NbdFixture {
  readonly folder: string;
  readonly image: string;
  readonly content: Buffer;
  readonly #serving: Serving;
  #errors = '';
  #program: NbdProgram | undefined;

  private constructor(folder: string, content: Buffer, serving: Serving) {
    this.folder = folder;
    this.image = join(folder, 'disk.raw');
    this.content = content;
    this.#serving = serving;
  }

  static async open(serving: Serving): Promise<NbdFixture> {
    const fixture = new NbdFixture(await mkdtemp(join(tmpdir(), 'interop-')), diskContent(), serving);
    await writeFile(fixture.image, fixture.content);
    await fixture.start();
    return fixture;
  }

  get uri(): string {
    return `nbd+unix:///disk?socket=${this.socket}`;
  }

  get socket(): string {
    return join(this.folder, 'socket');
  }

  get overlay(): string {
    return join(this.folder, 'overlay');
  }

  /** What the server has said on standard error. */
  get errors(): string {
    return this.#errors;
  }

  async start(): Promise<void> {
    const writable = this.#serving.kind === 'file' ? ['--writable'] : ['--overlay', this.overlay];
    this.#program = await NbdProgram.start(
      [process.execPath, SERVE_FILE, '--file', this.image, '--socket', this.socket, ...writable],
      {
        socket: this.socket,
        exportName: 'disk',
        env: this.#serving.koffi ? {} : { COLLECTIVE_NO_KOFFI: '1' },
        onError: (text) => (this.#errors += text),
      },
    );
  }

  async stop(): Promise<void> {
    await this.#program?.stop();
  }

  async kill(): Promise<void> {
    await this.#program?.kill();
  }

  async close(): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true });
  }

  /** Runs a program to its end; standard output, or an error with all it said. */
  async run(program: string, ...words: readonly string[]): Promise<string> {
    const { stdout } = await execute(program, [...words], { maxBuffer: 1 << 26, timeout: 400_000 });
    return stdout;
  }

  /** Runs one of the Python scripts of this folder, which talk NBD through libnbd. */
  python(script: string, ...words: readonly string[]): Promise<string> {
    return this.run(PYTHON, scriptPath(script), this.uri, ...words);
  }
}

/** Scripts are not compiled: they lie in the source folder, also for compiled tests. */
export const scriptPath = (script: string): string =>
  fileURLToPath(new URL(import.meta.url.includes('/dist/') ? `../../interop/${script}` : script, import.meta.url));
