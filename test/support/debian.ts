/** The real appliance for tests of the whole product: Debian, published to a repository of its own, and people who may start it. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { runOrThrow } from './child.js';
import { Person, Repository, repositoryCommand } from './collective.js';
import type { Link } from './link.js';
import { BUILD, ROOT } from './paths.js';

export const DEBIAN = 'debian-server';
/** Building it is quick when nothing has changed. */
export const DEBIAN_OPEN_MS = 1_800_000;

export class DebianRepository implements AsyncDisposable {
  /** The test's own; it goes at the end. */
  readonly folder: string;
  readonly repository: Repository;

  private constructor(folder: string, repository: Repository) {
    this.folder = folder;
    this.repository = repository;
  }

  static async open(): Promise<DebianRepository> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'debian-'));
    const image = path.join(BUILD, 'images', DEBIAN);
    await runOrThrow('bash', [path.join(ROOT, 'images', DEBIAN, 'build.sh'), image], { timeoutMs: 900_000 });
    await repositoryCommand(['init', path.join(folder, 'repository')]);
    const repository = await Repository.serve(path.join(folder, 'repository'));
    await using publisher = await Person.temporary();
    await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher');
    await repository.allow('publisher', DEBIAN);
    await publisher.json(['publish', DEBIAN, '--machine', path.join(image, 'appliance.json'), '--no-boot-test'], {
      timeoutMs: 600_000,
    });
    return new DebianRepository(folder, repository);
  }

  /** Somebody new who is logged in, and reaches the server through the link. */
  async person(account: string, link: Link): Promise<Person> {
    const person = await Person.temporary();
    const invitation = { appliances: [DEBIAN], throughPort: link.port };
    await person.login(await this.repository.invite(account, 'user', invitation), account);
    return person;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.repository[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true });
  }
}

export type MachineRow = { readonly name: string; readonly state: string; readonly pausedWhy?: string };

/** Debian in `collective status`; undefined: it does not run. */
export const debianOf = async (person: Person): Promise<MachineRow | undefined> =>
  ((await person.json(['status']))['machines'] as readonly MachineRow[]).find(({ name }) => name === DEBIAN);

export const bytesFetched = async (person: Person): Promise<number> => {
  const { blockd } = (await person.json(['status'])) as { readonly blockd?: { readonly fetchedBytes?: number } };
  return blockd?.fetchedBytes ?? 0;
};
