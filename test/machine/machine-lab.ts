/**
 * A home with its supervisor, a repository that can go away, and tiny guests: what every end-to-end test of machines needs.
 * Everything is real but the repository. Disposing leaves no process, or fails and says which.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  identifyProcess,
  isOver,
  type MachineSpec,
  type MachineState,
  type MachineStatus,
  openHome,
  type Home,
  SupervisorClient,
  TestRepository,
} from '@collective/transceiver';
import type { MachineDescription } from '@collective/shared';
import { homeEndsWithUs, homeHasEnded } from '../support/leftovers.js';
import { Link } from '../support/link.js';
import { publishedSource, type TinyImage, tinyImage } from './tiny-image.js';

/** Waits for a condition, by polling; a hang fails with the step's name. */
export const eventually = async (
  step: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 240_000,
): Promise<void> => {
  const giveUpAt = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > giveUpAt) throw new Error(`timed out after ${timeoutMs} ms: ${step}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

export type MachineWish = Partial<MachineDescription> & {
  readonly bus?: 'virtio' | 'sata' | 'ide';
  readonly keepSystemOverlay?: boolean;
};

export class GuestConsole {
  #text = '';
  /** The console has ended, and all that the guest said is here. */
  readonly ended: Promise<void>;
  readonly #write: (text: string) => void;

  constructor(socket: Awaited<ReturnType<SupervisorClient['console']>>) {
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => (this.#text += text));
    socket.on('error', () => undefined);
    this.ended = new Promise((resolve) => socket.once('end', resolve).once('close', resolve));
    this.#write = (text) => socket.write(text);
  }

  get text(): string {
    return this.#text;
  }

  type(line: string): void {
    this.#write(`${line}\n`);
  }

  /** Ends the program in the foreground. A ^C between two programs of a shell's loop reaches neither, so it is typed until the shell answers. */
  async interrupt(): Promise<void> {
    const from = this.#text.length;
    await eventually('the shell answers a ^C', async () => {
      this.#write('\x03');
      this.type('echo inter""rupted');
      const answered = (): boolean => this.#text.slice(from).includes('interrupted');
      for (let waitedMs = 0; !answered() && waitedMs < 2_000; waitedMs += 100) await sleep(100);
      return answered();
    });
  }

  /** Waits until the console has shown the pattern `times` times. */
  async sees(pattern: RegExp, times = 1, timeoutMs = 240_000): Promise<void> {
    const all = new RegExp(pattern.source, 'g');
    await eventually(
      `the console shows ${String(pattern)} ${times} times`,
      () => [...this.#text.matchAll(all)].length >= times,
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#text.slice(-1_500)}`);
    });
  }
}

export type LabOptions = {
  /** An emulated link, as fast as a lan, between block daemon and repository. */
  readonly withLink?: boolean;
  /** Where the lab's folder is made: by default among the temporary ones. */
  readonly parent?: string;
};

export class MachineLab implements AsyncDisposable {
  readonly home: Home;
  readonly repository: TestRepository;
  /** What its machines leave on the local disk is encrypted with it. */
  readonly diskKey = randomBytes(64).toString('base64url');
  readonly #link: Link | undefined;
  readonly #image: TinyImage;
  readonly #folder: string;
  #client: SupervisorClient;

  private constructor(
    folder: string,
    home: Home,
    image: TinyImage,
    repository: TestRepository,
    link: Link | undefined,
    client: SupervisorClient,
  ) {
    this.#folder = folder;
    this.home = home;
    this.#image = image;
    this.repository = repository;
    this.#link = link;
    this.#client = client;
  }

  static async open({ withLink = false, parent = os.tmpdir() }: LabOptions = {}): Promise<MachineLab> {
    const image = await tinyImage();
    const folder = await mkdtemp(path.join(parent, 'collective-lab-'));
    const home = await openHome(path.join(folder, 'home'));
    homeEndsWithUs(home.directory);
    const repository = await TestRepository.open(image.chunks);
    const link = withLink
      ? await Link.open({ toPort: Number(new URL(repository.origin).port), profile: 'lan' })
      : undefined;
    const client = await SupervisorClient.open(home);
    const lab = new MachineLab(folder, home, image, repository, link, client);
    await lab.tellRepository();
    return lab;
  }

  get client(): SupervisorClient {
    return this.#client;
  }

  /** The link of a lab that was opened with one. */
  get link(): Link {
    if (this.#link === undefined) throw new Error('this lab has no link');
    return this.#link;
  }

  async tellRepository(): Promise<void> {
    const origin = this.#link === undefined ? this.repository.origin : `http://127.0.0.1:${this.#link.port}`;
    await this.#client.request('repository', { origin });
  }

  /** Connects to the supervisor anew, starting one when the last was killed. */
  async reconnect(): Promise<void> {
    this.#client.close();
    this.#client = await SupervisorClient.open(this.home);
  }

  async start(
    machine: string,
    { bus = 'virtio', keepSystemOverlay = false, ...wish }: MachineWish = {},
  ): Promise<void> {
    const folder = path.join(this.home.machinesDirectory, machine);
    await mkdir(folder, { recursive: true });
    const disk = async (name: 'system' | 'user') => ({
      name,
      bus,
      source: await publishedSource(this.#image[name], folder),
      overlay: { path: this.overlayPath(machine, name), mode: name === 'system' ? 'temporary' : 'persistent' } as const,
    });
    const spec: MachineSpec = {
      machine,
      description: { ...this.#image.description, ...wish },
      disks: [await disk('system'), await disk('user')],
      uuid: randomUUID(),
      macAddress: `52:54:00:${randomBytes(3).toString('hex').match(/../g)?.join(':') ?? ''}`,
      keepSystemOverlay,
      accelerator: 'auto',
    };
    await this.#client.request('start', { ...spec, diskKey: this.diskKey });
  }

  async resume(machine: string): Promise<void> {
    await this.#client.request('resume', { machine, diskKey: this.diskKey });
  }

  overlayPath(machine: string, disk: string): string {
    return path.join(this.home.machinesDirectory, machine, `${disk}.overlay`);
  }

  /** With what the guest said before, unless `tailBytes` says otherwise. */
  async console(machine: string, options: { readonly tailBytes?: number } = {}): Promise<GuestConsole> {
    const client = await SupervisorClient.connect(this.home);
    const socket = await client.console(machine, options);
    const console = new GuestConsole(socket);
    socket.resume();
    return console;
  }

  async status(machine: string): Promise<MachineStatus> {
    const { machines } = await this.#client.request('status', {});
    const found = machines.find((each) => each.machine === machine);
    if (found === undefined) throw new Error(`no machine ${machine}`);
    return found;
  }

  async state(machine: string): Promise<MachineState> {
    return (await this.status(machine)).state;
  }

  async reaches(machine: string, name: MachineState['name'], timeoutMs = 240_000): Promise<MachineState> {
    return await this.#client.waitForState(machine, (state) => state.name === name, AbortSignal.timeout(timeoutMs));
  }

  /** Processes of this home: supervisor, blockd, QEMU (by the paths in their command lines). */
  async processes(): Promise<string[]> {
    const found: string[] = [];
    for (const entry of await readdir('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      const words = await readFile(`/proc/${entry}/cmdline`, 'latin1').catch(() => '');
      const folders = [this.#folder, ...(await this.#runFolders())];
      if (folders.some((folder) => words.includes(folder)) && (await identifyProcess(Number(entry))) !== undefined) {
        found.push(`${entry} ${words.replaceAll('\0', ' ')}`);
      }
    }
    return found;
  }

  /** kill -9 for one that this lab started; resolves when it is gone. */
  async kill(pid: number | null): Promise<void> {
    if (pid === null) throw new Error('there is no such process');
    process.kill(pid, 'SIGKILL');
    await eventually(`process ${pid} is gone`, async () => (await identifyProcess(pid)) === undefined);
  }

  async log(): Promise<string> {
    const read = (name: string): Promise<string> =>
      readFile(path.join(this.home.logDirectory, `${name}.log`), 'utf8').catch(() => '');
    return `${await read('supervisor')}\n${await read('blockd')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#end();
    } finally {
      // Of a lab that could not be ended in order: they would take the processor from every test after this one.
      for (const line of await this.processes()) process.kill(Number(line.split(' ')[0]), 'SIGKILL');
    }
    await rm(this.#folder, { recursive: true, force: true });
    homeHasEnded(this.home.directory);
  }

  async #end(): Promise<void> {
    if (this.#client.closed) this.#client = await SupervisorClient.open(this.home);
    const { machines } = await this.#client.request('status', {});
    // One that is suspended has no process and cannot be killed: a test that failed there left supervisor and block daemon behind.
    const isUp = ({ state }: MachineStatus): boolean => !isOver(state) && state.name !== 'suspended';
    const running = machines.filter(isUp).map(({ machine }) => machine);
    for (const machine of running) await this.#client.request('kill', { machine });
    await this.#client.request('shutdown', { stopMachines: true, deadlineMs: 0 });
    await this.#link?.[Symbol.asyncDispose]();
    await this.repository[Symbol.asyncDispose]();
    let left: string[] = [];
    await eventually('no process is left', async () => (left = await this.processes()).length === 0).catch(
      (error: unknown) => {
        throw new Error(`${String(error)}: ${left.join('; ')}`);
      },
    );
  }

  /** Where sockets of machines lie, for a lab run by root. */
  async #runFolders(): Promise<string[]> {
    const { createHash } = await import('node:crypto');
    const folder = `/run/collective/${createHash('sha256').update(this.home.directory).digest('hex').slice(0, 12)}`;
    return existsSync(folder) ? [folder] : [];
  }
}

/** A lab for one test; when the test fails, what supervisor and block daemon wrote is shown. */
export const withLab = async <T>(work: (lab: MachineLab) => Promise<T>, options: LabOptions = {}): Promise<T> => {
  await using lab = await MachineLab.open(options);
  try {
    return await work(lab);
  } catch (error) {
    console.error(await lab.log());
    throw error;
  }
};
