/**
 * A tiny guest whose user disk has a known history (write-history.ts), with everything around it that can be killed while its snapshots are
 * made: agent, supervisor and block daemon in a person's home, the repository server (thinning-server.ts), and its collector.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { run, runOrThrow } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { ConsoleShell } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, COLLECTIVE_REPOSITORY, ROOT } from '../support/paths.js';
import { readKeptDisk } from './kept-disk.js';
import { WriteHistory } from './write-history.js';

export const NAME = 'generations';
const DISK = 'user';
const READY = 'TINY READY';
const BOOT_SECONDS = 240;
const SAVED_MS = 300_000;
/** Between two generations: so a snapshot has some of them, and the guest does not take the processor from those who save it. */
const PAUSE_MS = 40;

export type SnapshotRow = { readonly number: number; readonly isHead: boolean; readonly reason: string };
export type Collected = Readonly<Record<'snapshotsForgotten' | 'objectsDeleted' | 'objectsRewritten', number>>;

export class SnapshotsLab implements AsyncDisposable {
  readonly folder: string;
  readonly repository: Repository;
  readonly person: Person;
  readonly history: WriteHistory;
  readonly #guest: ConsoleShell;

  private constructor(folder: string, repository: Repository, person: Person, history: WriteHistory) {
    this.folder = folder;
    this.repository = repository;
    this.person = person;
    this.history = history;
    this.#guest = new ConsoleShell(person, NAME);
  }

  static async open(seed: number): Promise<SnapshotsLab> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'snapshot-kills-'));
    const tiny = path.join(BUILD, 'images', 'tiny');
    await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), tiny], { timeoutMs: 280_000 });
    const history = new WriteHistory(seed);
    const recipe = await writeRecipe(path.join(folder, 'recipe'), tiny, history);
    const repositoryFolder = path.join(folder, 'repository');
    await repositoryCommand(['init', repositoryFolder]);
    const program = path.join(ROOT, 'test/dist/kills/thinning-server.js');
    const repository = await Repository.serve(repositoryFolder, 0, [], program);
    const lab = new SnapshotsLab(folder, repository, await Person.temporary(), history);
    try {
      await lab.#publish(recipe);
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
    return lab;
  }

  async #publish(recipe: string): Promise<void> {
    const { person, repository } = this;
    await person.login(await repository.invite('paula', 'publisher'), 'paula');
    await repository.allow('paula', NAME);
    await person.json(['publish', NAME, '--machine', recipe, '--no-boot-test'], { timeoutMs: 280_000 });
  }

  /** Starts the guest and its writes. */
  async start(): Promise<void> {
    const wait = ['--wait-for', READY, '--wait-seconds', String(BOOT_SECONDS)];
    await this.person.json(['start', NAME, '--accel', 'tcg', ...wait], { timeoutMs: BOOT_SECONDS * 1_100 });
    await this.person.json(['snapshots', 'every', NAME, '5']);
    const script = this.history.guestScript({ disk: '/dev/vdb', pattern: '/dev/vdc', pauseMs: PAUSE_MS });
    await this.#guest.ask(script);
  }

  /** The guest's last generation that is flushed, by its own word. Fails when a write of it has failed. */
  async flushedGeneration(): Promise<number> {
    const said = await this.#guest.ask(
      "g=; until [ \"$g\" ]; do read g </tmp/g; done; [ ! -e /tmp/bad ] || echo bad; tr '\\n' ' ' 2>/dev/null </tmp/bad; echo $g",
    );
    if (!/^\d+$/.test(said)) throw new Error(`a write of the guest has failed: ${said}`);
    return Number(said);
  }

  /** Ends the writes, then the guest by its power button; gives the last generation. */
  async stop(): Promise<number> {
    await this.#guest.ask(': >/tmp/stop; until [ -e /tmp/over ]; do usleep 100000; done');
    const last = await this.flushedGeneration();
    const troubles = await this.#guest.ask("dmesg | grep -ciE 'I/O error|timeout|blocked for more'");
    if (troubles !== '0') throw new Error(`the guest's kernel saw ${troubles} errors`);
    await this.person.json(['stop', NAME], { timeoutMs: 180_000 });
    return last;
  }

  /** When the stopped machine's disk is on the server, and nothing is under way. */
  async isSaved(): Promise<void> {
    await eventually('everything is saved', SAVED_MS, async () => {
      const { machines } = (await this.person.json(['status'])) as unknown as {
        readonly machines: readonly {
          readonly name: string;
          readonly data?: { readonly unsavedBytes: number; readonly activity: string };
        }[];
      };
      const data = machines.find(({ name }) => name === NAME)?.data;
      return data?.unsavedBytes === 0 && data.activity === 'idle' ? true : undefined;
    });
  }

  /** Of the last snapshot that this machine knows to be committed; 0: none. */
  async headNumber(): Promise<number> {
    const file = path.join(this.person.home, 'machines', NAME, 'backup.json');
    const { head } = JSON.parse(await readFile(file, 'utf8')) as { readonly head: { readonly number: number } | null };
    return head?.number ?? 0;
  }

  async snapshots(which: 'kept' | 'deleted'): Promise<readonly SnapshotRow[]> {
    const words = which === 'deleted' ? ['--deleted'] : [];
    const reply = await this.person.json(['snapshots', ...words, NAME]);
    return (reply as unknown as { readonly snapshots: readonly SnapshotRow[] }).snapshots;
  }

  /** The disk as the server has it, by a cache that has nothing of it when `forgetCaches` came before. */
  async readSnapshot(number: number): Promise<Buffer> {
    const file = path.join(this.folder, 'snapshot.raw');
    const socket = path.join(this.folder, 's.sock');
    await rm(file, { force: true });
    await using opened = this.person.spawn([
      ...['snapshots', 'open', NAME, String(number), '--disk', DISK],
      ...['--socket', socket, '--json'],
    ]);
    await opened.waitFor(/"serving":true/, 120_000);
    await runOrThrow('nbdcopy', [`nbd+unix:///${DISK}?socket=${socket}`, file], { timeoutMs: 120_000 });
    return readFile(file);
  }

  /** The disk as it lies here. */
  async readLocal(): Promise<Buffer> {
    const file = path.join(this.folder, 'local.raw');
    await readKeptDisk(this.person.home, { machine: NAME, appliance: NAME, disk: DISK, file });
    return readFile(file);
  }

  /** How many layers of the disk lie here. */
  async layerCount(): Promise<number> {
    return (await readdir(path.join(this.person.home, 'machines', NAME, 'overlays', DISK, 'layers'))).length;
  }

  /** Ends all processes of the stopped home, and removes what it has fetched. */
  async forgetCaches(): Promise<void> {
    await this.person.json(['shutdown']);
    for (const name of ['cache', 'private'])
      await rm(path.join(this.person.home, name), { recursive: true, force: true });
  }

  /** One pass of the server's collector, killed after so long. Undefined: it was killed, or found no turn. */
  async collect(killAfterMs: number | undefined): Promise<Collected | undefined> {
    const words = [COLLECTIVE_REPOSITORY, 'gc', this.repository.folder, '--grace', '5s', '--json'];
    const { code, stdout } = await run(process.execPath, words, { timeoutMs: killAfterMs ?? 120_000 });
    return code === 0 ? (JSON.parse(stdout) as Collected) : undefined;
  }

  /** What agent, supervisor and block daemon wrote last. */
  async logs(): Promise<string> {
    const read = async (name: string): Promise<string> =>
      `== ${name}\n${(await readFile(path.join(this.person.home, 'log', `${name}.log`), 'utf8').catch(() => '')).slice(-10_000)}`;
    const status = await this.person.run(['status', '--json'], { timeoutMs: 60_000 });
    return [...(await Promise.all(['agent', 'supervisor', 'blockd'].map(read))), status.stdout].join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.person[Symbol.asyncDispose]();
    await this.repository[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
  }
}

const writeRecipe = async (folder: string, tiny: string, history: WriteHistory): Promise<string> => {
  await mkdir(folder);
  const { machine } = JSON.parse(await readFile(path.join(tiny, 'appliance.json'), 'utf8')) as {
    readonly machine: unknown;
  };
  await symlink(path.join(tiny, 'system.raw'), path.join(folder, 'system.raw'));
  await writeFile(path.join(folder, 'user.raw'), history.initial);
  await writeFile(path.join(folder, 'pattern.raw'), history.pattern);
  const file = path.join(folder, 'appliance.json');
  const disk = { bus: 'virtio', blockBytes: 16_384 };
  await writeFile(
    file,
    JSON.stringify({
      ...{ format: 1, appliance: NAME, title: 'A disk with a known history', machine },
      disks: [
        { name: 'system', kind: 'system', bus: 'virtio', blockBytes: 65_536, file: 'system.raw' },
        { name: DISK, kind: 'user', ...disk, file: 'user.raw' },
        // An appliance has one system disk; this one is the person's too and never written.
        { name: 'pattern', kind: 'user', ...disk, file: 'pattern.raw' },
      ],
    }),
  );
  return file;
};
