/**
 * A Debian guest behind the whole product, to be killed around: repository server, link, agent, supervisor, block daemon and
 * QEMU as processes of their own, driven by the command line.
 *
 * The appliance is debian-server with its disks told differently, so that what a guest installs outlives its stop and can be
 * looked at from outside: the operating system lies on a *user* disk (`root`), whose overlay is kept. Its system disk is the
 * shelf of packages; `field` is a user disk of random bytes, where each write lands on ground that must be fetched, and
 * `scratch` an ephemeral one.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { runOrThrow } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { GuestShell } from './guest-shell.js';
import { readKeptDisk } from './kept-disk.js';
import { seededBytes } from './seeded-bytes.js';

export const APPLIANCE = 'kills';
export const FIELD_BYTES = 48 << 20;
const SCRATCH_BYTES = 256 << 20;
const BOOT_MS = 400_000;

export class KillsLab implements AsyncDisposable {
  readonly folder: string;
  readonly repository: Repository;
  readonly link: Link;
  readonly person: Person;
  /** What the disk `field` began as. */
  readonly field: Buffer;
  /** "PACKAGE  MD5  /path" lines of everything on the shelf. */
  readonly shelfContents: string;

  private constructor(parts: {
    folder: string;
    repository: Repository;
    link: Link;
    person: Person;
    field: Buffer;
    shelfContents: string;
  }) {
    this.folder = parts.folder;
    this.repository = parts.repository;
    this.link = parts.link;
    this.person = parts.person;
    this.field = parts.field;
    this.shelfContents = parts.shelfContents;
  }

  /** Builds what is missing, publishes it, and logs a person in through the link. */
  static async open(seed: number): Promise<KillsLab> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'kills-'));
    const debian = path.join(BUILD, 'images', 'debian-server');
    const shelf = path.join(BUILD, 'images', 'package-shelf');
    await runOrThrow('bash', [path.join(ROOT, 'images/debian-server/build.sh'), debian], { timeoutMs: 900_000 });
    await runOrThrow(
      'bash',
      [path.join(ROOT, 'images/package-shelf/build.sh'), shelf, path.join(debian, 'system.raw')],
      { timeoutMs: 900_000 },
    );
    const field = seededBytes(seed, FIELD_BYTES);
    const recipe = await writeRecipe(path.join(folder, 'recipe'), { debian, shelf, field });
    await repositoryCommand(['init', path.join(folder, 'repository')]);
    const repository = await Repository.serve(path.join(folder, 'repository'));
    {
      await using publisher = await Person.temporary();
      await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher');
      await repository.allow('publisher', APPLIANCE);
      await publisher.json(['publish', APPLIANCE, '--machine', recipe, '--no-boot-test'], { timeoutMs: 600_000 });
    }
    const link = await Link.open({ toPort: repository.port, profile: 'lan' });
    const person = await Person.temporary();
    const invitation = await repository.invite('paula', 'user', { appliances: [APPLIANCE], throughPort: link.port });
    await person.login(invitation, 'paula');
    const shelfContents = await readFile(path.join(shelf, 'contents.md5'), 'utf8');
    return new KillsLab({ folder, repository, link, person, field, shelfContents });
  }

  async start(): Promise<GuestShell> {
    await this.person.json(['start', APPLIANCE, '--wait-for', 'login'], { timeoutMs: BOOT_MS });
    const guest = await GuestShell.open(this.person.home, APPLIANCE, BOOT_MS);
    // Seen on a busy machine: a guest that gave up waiting for its user disk, and started with an empty /home.
    await guest.check('mountpoint /home');
    return guest;
  }

  /** When the guest's writes to its user disk last reached the layer's file, as the host's file system says. */
  async lastWriteMs(): Promise<number> {
    const layers = path.join(this.person.home, 'machines', APPLIANCE, 'overlays/user/layers');
    // A layer goes away when it has been committed.
    const times = (await readdir(layers)).map(async (layer) =>
      stat(path.join(layers, layer, 'data')).then(
        ({ mtimeMs }) => mtimeMs,
        () => 0,
      ),
    );
    return Math.max(0, ...(await Promise.all(times)));
  }

  /** In order, by the power button. */
  async stop(): Promise<void> {
    await this.person.json(['stop', APPLIANCE], { timeoutMs: 180_000 });
  }

  /** A kept disk of the stopped machine as it lies here, in a sparse file. */
  async readDisk(name: string): Promise<string> {
    const file = path.join(this.folder, `${name}.raw`);
    await readKeptDisk(this.person.home, { machine: APPLIANCE, appliance: APPLIANCE, disk: name, file });
    return file;
  }

  /** What agent, supervisor and block daemon wrote. */
  async logs(): Promise<string> {
    const read = async (name: string): Promise<string> =>
      `== ${name}\n${(await readFile(path.join(this.person.home, 'log', `${name}.log`), 'utf8').catch(() => '')).slice(-20_000)}`;
    const status = await this.person.run(['status', '--json'], { timeoutMs: 60_000 });
    return [...(await Promise.all(['agent', 'supervisor', 'blockd'].map(read))), `== status\n${status.stdout}`].join(
      '\n',
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.person[Symbol.asyncDispose]();
    await this.link[Symbol.asyncDispose]();
    await this.repository[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true });
  }
}

const writeRecipe = async (
  folder: string,
  from: { readonly debian: string; readonly shelf: string; readonly field: Buffer },
): Promise<string> => {
  await mkdir(folder);
  const { machine } = JSON.parse(await readFile(path.join(from.debian, 'appliance.json'), 'utf8')) as {
    readonly machine: unknown;
  };
  await symlink(path.join(from.debian, 'system.raw'), path.join(folder, 'root.raw'));
  await symlink(path.join(from.debian, 'user.raw'), path.join(folder, 'user.raw'));
  await symlink(path.join(from.shelf, 'shelf.raw'), path.join(folder, 'shelf.raw'));
  await writeFile(path.join(folder, 'field.raw'), from.field);
  const recipe = {
    format: 1,
    appliance: APPLIANCE,
    title: 'Debian whose whole disk is kept',
    machine,
    // The firmware starts from the first one; the guest finds the others by label and by name.
    disks: [
      { name: 'root', kind: 'user', bus: 'virtio', blockBytes: 16_384, file: 'root.raw' },
      { name: 'shelf', kind: 'system', bus: 'virtio', blockBytes: 65_536, file: 'shelf.raw' },
      { name: 'user', kind: 'user', bus: 'virtio', blockBytes: 16_384, file: 'user.raw' },
      { name: 'field', kind: 'user', bus: 'virtio', blockBytes: 16_384, file: 'field.raw' },
      { name: 'ephemeral', kind: 'ephemeral', bus: 'virtio', diskBytes: 2 ** 31, blockBytes: 65_536 },
      { name: 'scratch', kind: 'ephemeral', bus: 'virtio', diskBytes: SCRATCH_BYTES, blockBytes: 65_536 },
    ],
  };
  const file = path.join(folder, 'appliance.json');
  await writeFile(file, JSON.stringify(recipe));
  return file;
};
