/**
 * Two homes of one account for live-through.ts, each with a link of its own to one repository server: real guests, driven by the command
 * line and their serial console. Both have all blocks of the system, so that they start without the repository; each order has an appliance
 * of its own, with the same disks.
 */
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { errorOf, RepositoryFixture } from '../agent/repository-fixture.js';
import { seededBytes } from '../kills/seeded-bytes.js';
import { run, runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { ConsoleShell } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import type { History, OrderDevice, OrderWorld, Settled } from './live-through.js';
import { WHO, type Who } from './moves.js';
import { OrderDisk, PLACES_MAX, sectorOf, type Marks } from './order-disk.js';

const ACCOUNT = 'pat';
const DISK = 'user';
const DISK_BYTES = 1 << 20;
const STRIDE_BYTES = 4_096;
/** What a place has before its first mark, for a shell to show. */
const UNWRITTEN = '-';
const READY = ['--wait-for', 'TINY READY', '--wait-seconds', '240'];
const SETTLED_MS = 240_000;
const LISTED_MS = 60_000;

const initialDisk = (): Buffer => {
  const disk = seededBytes(1, DISK_BYTES);
  for (let place = 0; place < PLACES_MAX; place += 1) sectorOf(UNWRITTEN).copy(disk, place * STRIDE_BYTES);
  return disk;
};
const DISK_OF_ORDERS = new OrderDisk(initialDisk(), STRIDE_BYTES);

type Data = {
  readonly activity: string;
  readonly unsavedBytes: number;
  readonly savedAt: number | null;
  readonly why?: string;
};
type Machine = { readonly name: string; readonly state: string; readonly data?: Data };
type Row = { readonly number: number; readonly isHead: boolean };

class GuestDevice implements OrderDevice {
  readonly person: Person;
  readonly #link: Link;
  /** Another one when it has kept both. */
  #name: string;
  /** One for all questions: each has a number of its own, for the console shows old answers again. */
  #shell: ConsoleShell;

  constructor(person: Person, link: Link, name: string) {
    this.person = person;
    this.#link = link;
    this.#name = name;
    this.#shell = new ConsoleShell(person, name);
  }

  async start({ isTakenOver }: { readonly isTakenOver: boolean }): Promise<boolean> {
    const words = ['start', this.#name, '--accel', 'tcg', ...READY, ...(isTakenOver ? ['--take-over'] : []), '--json'];
    const result = await this.person.run(words);
    if (result.code === 0) return true;
    const { code, message } = errorOf(result);
    if (code !== 'lease-held') throw new Error(`${code}: ${message}`);
    return false;
  }

  /** Makes the machine here, and gives it back; `isWhole`: with all that its guest reads, else without waiting for it. */
  async touch({ isWhole }: { readonly isWhole: boolean }): Promise<void> {
    if (isWhole) {
      if (!(await this.start({ isTakenOver: false }))) throw new Error('in use before it began');
      await this.read();
      await this.stop();
    } else {
      await this.person.json(['start', this.#name, '--accel', 'tcg']);
      await this.person.json(['stop', this.#name, '--force']);
    }
    if ((await this.settle()) !== 'saved') throw new Error('apart before it began');
  }

  async suspend(): Promise<void> {
    await this.person.json(['suspend', this.#name]);
  }

  async resume(): Promise<void> {
    await this.person.json(['start', this.#name]);
  }

  async stop(): Promise<void> {
    await this.person.json(['stop', this.#name]);
  }

  /** Two signals to the link that come at once may be taken in either order: so this one is waited for. */
  async disconnect(): Promise<void> {
    this.#link.down();
    const url = `http://127.0.0.1:${this.#link.port}/`;
    await eventually('the link is down', SETTLED_MS, async () =>
      fetch(url).then(
        async (reply) => reply.body?.cancel(),
        () => true,
      ),
    );
  }

  /** Which the agent learns from the first request that is answered. */
  async reconnect(): Promise<void> {
    this.#link.up();
    await eventually('the repository is back', SETTLED_MS, async () =>
      (await this.person.json(['update']))['connected'] === true ? true : undefined,
    );
  }

  async write(place: number, mark: string): Promise<void> {
    const said = await this.#ask(
      `printf ${mark} | dd of=/dev/vdb bs=512 seek=$((${place}*${STRIDE_BYTES}/512)) conv=notrunc,sync,fsync 2>/tmp/dd && echo written || cat /tmp/dd`,
    );
    if (said !== 'written') throw new Error(`${mark} is not written: ${said}`);
  }

  /** From the disk: the guest's own memory of it goes first. */
  async read(): Promise<Marks> {
    const said = await this.#ask(
      `echo 3 >/proc/sys/vm/drop_caches; p=0; while [ $p -lt ${PLACES_MAX} ]; do dd if=/dev/vdb bs=512 skip=$((p*${STRIDE_BYTES}/512)) count=1 2>/dev/null | tr -d '\\0'; echo -n ,; p=$((p+1)); done`,
    );
    const marks = said.split(',').slice(0, PLACES_MAX);
    if (marks.length !== PLACES_MAX) throw new Error(`the guest says of its disk: ${said}`);
    return marks.map((mark) => (mark === UNWRITTEN ? '' : mark));
  }

  /** The layers of a suspended one stay as they are when they are saved: it says that it waits for that. */
  async settle(): Promise<Settled> {
    const { state } = await this.#machine();
    // What cannot be saved is said by the status.
    if (state === 'running') await this.person.run(['snapshots', 'take', this.#name, '--json']);
    let last = '';
    return eventually<Settled>(`${this.#name} is saved, or apart`, SETTLED_MS, async () => {
      const machine = await this.#machine();
      last = JSON.stringify(machine);
      const { data } = machine;
      if (data === undefined) return undefined;
      if (data.activity === 'apart') return 'apart';
      if (data.savedAt === null) return undefined;
      const isIdle = data.activity === 'idle';
      switch (state) {
        case 'running':
          return isIdle ? 'saved' : undefined;
        case 'suspended':
          return isIdle || data.why?.endsWith('is suspended.') === true ? 'saved' : undefined;
        default:
          return isIdle && data.unsavedBytes === 0 && (await this.state()).lease === null ? 'saved' : undefined;
      }
    }).catch((error: unknown) => {
      throw new Error(`${error instanceof Error ? error.message : String(error)}: ${last}`, { cause: error });
    });
  }

  async continue(which: 'here' | 'both'): Promise<void> {
    const { addedName } = await this.person.json(['continue', this.#name, `--${which}`]);
    if (typeof addedName !== 'string') return;
    this.#name = addedName;
    this.#shell = new ConsoleShell(this.person, addedName);
  }

  /** As the backup keeps it here. */
  async state(): Promise<{ readonly subscription: string; readonly lease: number | null }> {
    const file = path.join(this.person.home, 'machines', this.#name, 'backup.json');
    return JSON.parse(await readFile(file, 'utf8')) as Awaited<ReturnType<GuestDevice['state']>>;
  }

  async snapshots(folder: string): Promise<History['snapshots']> {
    const reply = await this.person.json(['snapshots', this.#name]);
    const snapshots: { number: number; isHead: boolean; marks: Marks }[] = [];
    for (const { number, isHead } of (reply as unknown as { readonly snapshots: readonly Row[] }).snapshots) {
      const image = await this.#readSnapshot(number, folder);
      snapshots.push({ number, isHead, marks: DISK_OF_ORDERS.marksOf(image) });
    }
    return snapshots;
  }

  async #readSnapshot(number: number, folder: string): Promise<Buffer> {
    const file = path.join(folder, 'snapshot.raw');
    const socket = path.join(folder, 's.sock');
    await rm(file, { force: true });
    await using opened = this.person.spawn([
      ...['snapshots', 'open', this.#name, String(number), '--disk', DISK],
      ...['--socket', socket, '--json'],
    ]);
    await opened.waitFor(/"serving":true/, 120_000);
    await runOrThrow('nbdcopy', [`nbd+unix:///${DISK}?socket=${socket}`, file], { timeoutMs: 120_000 });
    return readFile(file);
  }

  async #machine(): Promise<Machine> {
    const { machines } = (await this.person.json(['status'])) as unknown as { readonly machines: readonly Machine[] };
    const machine = machines.find(({ name }) => name === this.#name);
    if (machine === undefined) throw new Error(`status says nothing of ${this.#name}: ${JSON.stringify(machines)}`);
    return machine;
  }

  async #ask(command: string): Promise<string> {
    return this.#shell.ask(command, { timeoutMs: 180_000 });
  }
}

export class GuestLab implements AsyncDisposable {
  readonly #folder: string;
  readonly #fixture: RepositoryFixture;
  readonly #people: Readonly<Record<Who, Person>>;
  readonly #links: Readonly<Record<Who, Link>>;
  #worlds = 0;

  private constructor(
    folder: string,
    fixture: RepositoryFixture,
    people: Readonly<Record<Who, Person>>,
    links: Readonly<Record<Who, Link>>,
  ) {
    this.#folder = folder;
    this.#fixture = fixture;
    this.#people = people;
    this.#links = links;
  }

  static async open(): Promise<GuestLab> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'orders-'));
    const tiny = path.join(BUILD, 'images', 'tiny');
    await runOrThrow('bash', [path.join(ROOT, 'images/tiny/build.sh'), tiny], { timeoutMs: 280_000 });
    const fixture = await RepositoryFixture.open();
    const link = async (): Promise<Link> => Link.open({ toPort: fixture.server.port, profile: 'none' });
    const people = { a: await Person.temporary(), b: await Person.temporary() };
    const lab = new GuestLab(folder, fixture, people, { a: await link(), b: await link() });
    try {
      await lab.#prepare(tiny);
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
    return lab;
  }

  async #prepare(tiny: string): Promise<void> {
    const { a, b } = this.#people;
    const { server, adminLink } = this.#fixture;
    await a.login(await server.invite(ACCOUNT, 'publisher', { throughPort: this.#links.a.port }), ACCOUNT);
    const [, origin = ''] = /^(http:\/\/[^/]+)/.exec(adminLink) ?? [];
    const target = adminLink.replace(origin, `http://127.0.0.1:${this.#links.b.port}`).replace(/\.invite\..*$/, '');
    await b.login(target, ACCOUNT);
    await writeRecipe(this.#folder, tiny);
  }

  /** Of an appliance that nobody has used: both hold the first snapshot, and nobody has the lease. */
  async world(): Promise<OrderWorld> {
    this.#worlds += 1;
    const name = `orders-${this.#worlds}`;
    const { a, b } = this.#people;
    await this.#fixture.server.allow(ACCOUNT, name);
    const recipe = path.join(this.#folder, 'appliance.json');
    await a.json(['publish', name, '--machine', recipe, '--no-boot-test']);
    const devices = { a: new GuestDevice(a, this.#links.a, name), b: new GuestDevice(b, this.#links.b, name) };
    for (const who of WHO) {
      this.#links[who].up();
      // The first time each home gets all blocks of the system, which are the same in each appliance.
      await devices[who].touch({ isWhole: this.#worlds === 1 });
    }
    return { devices, histories: async () => this.#histories(devices, name) };
  }

  async #histories(devices: Readonly<Record<Who, GuestDevice>>, appliance: string): Promise<readonly History[]> {
    const histories = new Map<string, History>();
    for (const who of WHO) {
      const { subscription } = await devices[who].state();
      const snapshots = await devices[who].snapshots(this.#folder);
      const known = histories.get(subscription);
      const heads = (of: History['snapshots']): string => JSON.stringify(of.filter(({ isHead }) => isHead));
      if (known !== undefined && heads(known.snapshots) !== heads(snapshots))
        throw new Error(`two heads: ${heads(known.snapshots)}, ${heads(snapshots)}`);
      histories.set(subscription, { devices: [...(known?.devices ?? []), who], snapshots });
    }
    await eventually(`both list ${histories.size} subscriptions`, LISTED_MS, async () => {
      const listed = await Promise.all(WHO.map(async (who) => this.#listed(who, appliance)));
      return listed.every((count) => count === histories.size) ? true : undefined;
    });
    return [...histories.values()];
  }

  async #listed(who: Who, appliance: string): Promise<number> {
    const { subscriptions } = (await this.#people[who].json(['appliances'])) as unknown as {
      readonly subscriptions: readonly { readonly appliance: string }[];
    };
    return subscriptions.filter((each) => each.appliance === appliance).length;
  }

  /** Nothing of an order that failed runs on. */
  async clear(): Promise<void> {
    for (const who of WHO) {
      this.#links[who].up();
      await this.#people[who].run(['stop', '--all', '--force']);
    }
  }

  /** What agent, supervisor and block daemon of both wrote last. */
  async logs(): Promise<string> {
    const texts = WHO.flatMap((who) =>
      ['agent', 'supervisor', 'blockd'].map(async (name) => {
        const file = path.join(this.#people[who].home, 'log', `${name}.log`);
        return `== ${who}: ${name}\n${(await readFile(file, 'utf8').catch(() => '')).slice(-4_000)}`;
      }),
    );
    const states = WHO.map(
      async (who) =>
        (await run('sh', ['-c', `cat ${this.#people[who].home}/machines/orders-${this.#worlds}*/backup.json`])).stdout,
    );
    return (await Promise.all([...texts, ...states])).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const who of WHO) await this.#people[who][Symbol.asyncDispose]();
    for (const who of WHO) await this.#links[who][Symbol.asyncDispose]();
    await this.#fixture[Symbol.asyncDispose]();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
  }
}

const writeRecipe = async (folder: string, tiny: string): Promise<void> => {
  const { machine } = JSON.parse(await readFile(path.join(tiny, 'appliance.json'), 'utf8')) as {
    readonly machine: unknown;
  };
  await mkdir(folder, { recursive: true });
  await symlink(path.join(tiny, 'system.raw'), path.join(folder, 'system.raw'));
  await writeFile(path.join(folder, 'user.raw'), initialDisk());
  await writeFile(
    path.join(folder, 'appliance.json'),
    JSON.stringify({
      ...{ format: 1, title: 'A disk with places for marks', machine },
      disks: [
        { name: 'system', kind: 'system', bus: 'virtio', blockBytes: 65_536, file: 'system.raw' },
        { name: DISK, kind: 'user', bus: 'virtio', blockBytes: 16_384, file: 'user.raw' },
      ],
    }),
  );
};
