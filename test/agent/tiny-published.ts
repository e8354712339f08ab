/** The tiny appliance in a repository of its own: pat publishes it, ben may start it and reaches the server through a link. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

export type AtHand = { readonly version: number; readonly blocks: number; readonly missingBlocks: number };

export class TinyPublished implements AsyncDisposable {
  /** Where its disks lie. */
  readonly image = path.join(BUILD, 'images', 'tiny');
  readonly fixture: RepositoryFixture;
  /** The test's own; it goes at the end. */
  readonly folder: string;
  readonly pat: Person;
  readonly ben: Person;
  readonly link: Link;

  private constructor(fixture: RepositoryFixture, folder: string, people: readonly [Person, Person], link: Link) {
    this.fixture = fixture;
    this.folder = folder;
    [this.pat, this.ben] = people;
    this.link = link;
  }

  static async open(): Promise<TinyPublished> {
    const fixture = await RepositoryFixture.open();
    const folder = await mkdtemp(path.join(os.tmpdir(), 'tiny-'));
    const people = [await Person.temporary(), await Person.temporary()] as const;
    const link = await Link.open({ toPort: fixture.server.port, profile: 'lan' });
    const tiny = new TinyPublished(fixture, folder, people, link);
    const { image, pat, ben } = tiny;
    await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
    await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
    await fixture.server.allow('pat', 'tiny');
    await pat.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
    const invitation = { appliances: ['tiny'], throughPort: link.port };
    await ben.login(await fixture.server.invite('ben', 'user', invitation), 'ben');
    return tiny;
  }

  /** What ben's machine has of a version; undefined: it could not be started without the repository. */
  async atHand(version: number): Promise<AtHand | undefined> {
    const { appliances } = (await this.ben.json(['appliances'])) as {
      readonly appliances: readonly { readonly atHand?: readonly AtHand[] }[];
    };
    return appliances[0]?.atHand?.find((each) => each.version === version);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pat[Symbol.asyncDispose]();
    await this.ben[Symbol.asyncDispose]();
    await this.link.close();
    await this.fixture[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true });
  }
}
