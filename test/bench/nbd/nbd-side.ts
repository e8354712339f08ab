/** The two sides of `bench nbd`: what serves the image over NBD, and what it costs the processor. */
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { runOrThrow, type Child } from '../../support/child.js';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import { NbdProgram } from './nbd-program.js';

const execute = promisify(execFile);
/** Linux reports processor times in hundredths of a second. */
const TICK_US = 10_000;
const NAME = 'bench-disk';

export type Mode = 'read' | 'write';

/** A server that runs. */
export type Serving = {
  readonly uri: string;
  /** Processor time of the server so far, all threads. */
  readonly cpuUs: () => Promise<number>;
  readonly stop: () => Promise<void>;
};

export interface NbdSide {
  /** Serves the image; with `write`, writes go to a fresh overlay that `stop` throws away. */
  serve(mode: Mode): Promise<Serving>;
  /** Drops the pages of the image (or of the cache that holds it); nothing is being served. */
  dropPages(): Promise<void>;
  /** Brings them back, and makes the next `serve` a first opening. */
  reopen(): Promise<void>;
}

/** `dd count=0 iflag=nocache` asks the kernel to forget the file's pages; they must be clean. */
const forget = async (file: string): Promise<void> => {
  await execute('sync', [file]);
  await execute('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
};
const remember = async (file: string): Promise<void> => {
  await execute('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M', 'status=none']);
};

/** qemu-nbd on the raw file; writes on a qcow2 overlay with the same backing. */
export class QemuSide implements NbdSide {
  readonly #image: string;
  readonly #folder: string;
  #runs = 0;

  constructor(image: string, folder: string) {
    this.#image = image;
    this.#folder = folder;
  }

  async serve(mode: Mode): Promise<Serving> {
    const socket = path.join(this.#folder, 'theirs.sock');
    const overlay = path.join(this.#folder, `overlay-${(this.#runs += 1)}.qcow2`);
    const common = ['qemu-nbd', '-k', socket, '--cache=writeback', '-e', '1', '-t'];
    if (mode === 'write')
      await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#image, '-F', 'raw', overlay]);
    const command = mode === 'read' ? [...common, '-r', '-f', 'raw', this.#image] : [...common, '-f', 'qcow2', overlay];
    const program = await NbdProgram.start(command, { socket, exportName: '' });
    return {
      uri: program.uri,
      cpuUs: () => program.cpuUs(),
      stop: async () => {
        await program.stop();
        await rm(overlay, { force: true });
      },
    };
  }

  dropPages(): Promise<void> {
    return forget(this.#image);
  }

  reopen(): Promise<void> {
    return remember(this.#image);
  }
}

/** `collective export` of the same image, published before and wholly in the cache. */
export class ExportSide implements NbdSide, AsyncDisposable {
  readonly #repository: Repository;
  readonly #person: Person;
  readonly #folder: string;

  private constructor(repository: Repository, person: Person, folder: string) {
    this.#repository = repository;
    this.#person = person;
    this.#folder = folder;
  }

  static async open(image: string, folder: string): Promise<ExportSide> {
    await repositoryCommand(['init', path.join(folder, 'repository')]);
    const repository = await Repository.serve(path.join(folder, 'repository'));
    const home = path.join(folder, 'home');
    await mkdir(home, { mode: 0o700 });
    const person = Person.at(home);
    await person.login(await repository.invite('bench', 'publisher'), 'bench');
    await repository.allow('bench', NAME);
    await person.json(
      ['publish', NAME, '--disk', `system=${image}`, '--machine', await machineFile(folder), '--no-boot-test'],
      { timeoutMs: 900_000 },
    );
    const side = new ExportSide(repository, person, folder);
    const serving = await side.serve('read');
    try {
      await runOrThrow('nbdcopy', [serving.uri, 'null:'], { timeoutMs: 900_000 });
    } finally {
      await serving.stop();
    }
    return side;
  }

  async serve(mode: Mode): Promise<Serving> {
    const socket = path.join(this.#folder, 'ours.sock');
    const child: Child = this.#person.spawn([
      'export',
      NAME,
      '--disk',
      'system',
      '--socket',
      socket,
      ...(mode === 'write' ? ['--writable'] : []),
    ]);
    await child.waitFor(/Serving disk/);
    const pid = await this.#blockdPid();
    return {
      uri: `nbd+unix:///system?socket=${socket}`,
      cpuUs: async () => {
        const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
        return (Number(fields[11]) + Number(fields[12])) * TICK_US;
      },
      stop: async () => {
        await child.stop('SIGINT');
      },
    };
  }

  async dropPages(): Promise<void> {
    for (const file of await this.#slotFiles()) await forget(file);
  }

  async reopen(): Promise<void> {
    await this.#person.run(['shutdown']);
    for (const file of await this.#slotFiles()) await remember(file);
    await this.#person.json(['login', '--password-stdin'], { input: `${PASSWORD}\n` });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#person[Symbol.asyncDispose]();
    await this.#repository[Symbol.asyncDispose]();
  }

  async #slotFiles(): Promise<string[]> {
    const cache = path.join(this.#person.home, 'cache');
    return (await readdir(cache)).filter((name) => name.endsWith('.slots')).map((name) => path.join(cache, name));
  }

  async #blockdPid(): Promise<number> {
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
      if (line.includes('blockd/main.js') && line.includes(this.#person.home)) return Number(name);
    }
    throw new Error('no block daemon runs for this home');
  }
}

const machineFile = async (folder: string): Promise<string> => {
  const file = path.join(folder, 'machine.json');
  const machine = {
    memoryBytes: 2 ** 28,
    cpus: 1,
    chipset: 'q35',
    firmware: 'bios',
    network: 'none',
    display: 'none',
    guestAgent: false,
    clock: 'utc',
  };
  await writeFile(file, JSON.stringify(machine));
  return file;
};
