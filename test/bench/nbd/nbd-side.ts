/** The two sides of `bench nbd`: what serves the image over NBD, and what it costs the processor. */
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ControlClient } from '@collective/transceiver';
import { Child, runOrThrow } from '../../support/child.js';
import { eventually } from '../../support/eventually.js';
import { Link } from '../../support/link.js';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import { NbdProgram } from './nbd-program.js';

const execute = promisify(execFile);
/** Linux reports processor times in hundredths of a second. */
const TICK_US = 10_000;
const NAME = 'bench-disk';
/** Another appliance, whose blocks are fetched beside the measured runs. */
const FILL_NAME = 'bench-fill';
/** More than its maps: blocks are coming. */
const FILL_BEGUN_BYTES = 4_000_000;
/** Half of the lan's 100 Mbit/s: who downloads less does not stand for a full line. */
const OTHERS_BYTES_PER_SECOND_MIN = 6_500_000;
/** What runs beside a run has begun before: a scrub of a cache takes minutes to hours, the start of its thread is no part of the figure. */
const UNDER_WAY_MS = 1_500;

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
  #link: Link;

  private constructor(parts: {
    readonly repository: Repository;
    readonly person: Person;
    readonly folder: string;
    readonly link: Link;
  }) {
    this.#repository = parts.repository;
    this.#person = parts.person;
    this.#folder = parts.folder;
    this.#link = parts.link;
  }

  /** Publishes `image` and brings all of it into the cache; of `fillImage` nothing. Afterwards the line is the lan's. */
  static async open(image: string, folder: string, fillImage: string): Promise<ExportSide> {
    await repositoryCommand(['init', path.join(folder, 'repository')]);
    const repository = await Repository.serve(path.join(folder, 'repository'));
    const home = path.join(folder, 'home');
    await mkdir(home, { mode: 0o700 });
    const person = Person.at(home);
    const link = await Link.open({ toPort: repository.port, profile: 'none' });
    const invitation = await repository.invite('bench', 'publisher');
    await person.login(invitation.replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${link.port}`), 'bench');
    for (const [name, file] of [
      [NAME, image],
      [FILL_NAME, fillImage],
    ] as const) {
      await repository.allow('bench', name);
      await person.json(
        ['publish', name, '--disk', `system=${file}`, '--machine', await machineFile(folder), '--no-boot-test'],
        { timeoutMs: 900_000 },
      );
    }
    const side = new ExportSide({ repository, person, folder, link });
    const serving = await side.serve('read');
    try {
      await runOrThrow('nbdcopy', [serving.uri, 'null:'], { timeoutMs: 900_000 });
    } finally {
      await serving.stop();
    }
    await link.close();
    side.#link = await Link.open({ toPort: repository.port, profile: 'lan', port: link.port });
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

  /** Until `stop`: a scrub at its full rate, and `collective hoard` of an appliance, as fast as the lan carries it. A server runs. */
  async disturb(): Promise<{ readonly stop: () => Promise<void> }> {
    const control = await ControlClient.connect(path.join(this.#person.home, 'run/blockd.sock'));
    const bytesNow = async (): Promise<number> => (await control.request('status', {})).fetch.link.bytes;
    const first = await bytesNow();
    // What was brought in beside earlier runs is not asked for again.
    const fill = this.#person.spawn(['hoard', FILL_NAME]);
    await eventually('the fill has begun', 20_000, async () =>
      (await bytesNow()) > first + FILL_BEGUN_BYTES ? true : undefined,
    );
    await control.request('scrub', { start: true });
    await setTimeout(UNDER_WAY_MS);
    const beganMs = performance.now();
    const before = await bytesNow();
    return {
      stop: async () => {
        const isFilling = fill.running;
        const { fetch, scrub } = await control.request('status', {});
        const seconds = (performance.now() - beganMs) / 1000;
        await control.request('scrub', { stop: true });
        await fill.stop('SIGINT');
        // What it had asked for still comes.
        await eventually('the fill has ended', 20_000, async () => {
          const { queued, outstanding } = (await control.request('status', {})).fetch;
          return queued.hoard + outstanding.hoard === 0 ? true : undefined;
        });
        control.close();
        this.disturbance.push({
          fillBytesPerSecond: (fetch.link.bytes - before) / seconds,
          scrubbedBytes: scrub?.running?.bytes ?? scrub?.last?.bytes ?? 0,
          isFilling,
        });
      },
    };
  }

  /**
   * Until `stop`: somebody else downloads the same chunks from the same server over the same line, as fast as it carries them. Server and line are
   * not on a person's machine; here they take the processors that it has. (So does curl, as the reader of the fill does on the other side.)
   */
  async carryForOthers(): Promise<{ readonly stop: () => Promise<void> }> {
    const chunks = path.join(this.#folder, 'repository/chunks');
    const urls = (await readdir(chunks, { recursive: true }))
      .filter((name) => name.includes('/'))
      .map((name) => `url = "http://127.0.0.1:${this.#link.port}/v1/chunks/${path.basename(name)}"\noutput = "-"\n`);
    const list = path.join(this.#folder, 'others.curl');
    await writeFile(list, urls.join(''));
    const target = path.join(this.#folder, 'others');
    const curl = new Child('download of others', 'bash', [
      ...['-c', 'exec curl --silent --fail --parallel --parallel-max 8 --config "$1" >"$2"', '-', list, target],
    ]);
    const sizeNow = async (): Promise<number> => (await stat(target).catch(() => ({ size: 0 }))).size;
    await eventually('the download of others has begun', 10_000, async () =>
      (await sizeNow()) > 0 ? true : undefined,
    );
    await setTimeout(UNDER_WAY_MS);
    const beganMs = performance.now();
    const before = await sizeNow();
    return {
      stop: async () => {
        const bytesPerSecond = ((await sizeNow()) - before) / ((performance.now() - beganMs) / 1000);
        const isRunning = curl.running;
        await curl.stop('SIGTERM');
        await rm(target, { force: true });
        if (!isRunning || bytesPerSecond < OTHERS_BYTES_PER_SECOND_MIN)
          throw new Error(
            `others did not download as fast as the line carries it: ${bytesPerSecond} B/s ${curl.stderr}`,
          );
        this.carried.push({ bytesPerSecond });
      },
    };
  }

  readonly carried: { bytesPerSecond: number }[] = [];
  /** What ran beside the disturbed runs. */
  readonly disturbance: { fillBytesPerSecond: number; scrubbedBytes: number; isFilling: boolean }[] = [];

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
    await this.#link.close();
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
