/** Two machines of one person behind emulated links: what a start takes on each, and what travels for it. */
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../../support/child.js';
import { Person, type Repository } from '../../support/collective.js';
import { eventually } from '../../support/eventually.js';
import { Link } from '../../support/link.js';
import type { BenchGuest } from './guests.js';

const STEP_MS = 900_000;
export const ACCOUNT = 'anna';

/** Bytes from the repository until then. */
export type Travelled = {
  /** Chunks of what the person has written: of the user disk alone. */
  readonly privateBytes: number;
  /** Chunks that anybody may have: of the system disk, and of what the user disk began as. */
  readonly publicBytes: number;
};
export type Start = Travelled & { readonly seconds: number };

export class Transceiver implements AsyncDisposable {
  readonly person: Person;
  readonly #link: Link;
  readonly #guest: BenchGuest;

  private constructor(person: Person, link: Link, guest: BenchGuest) {
    this.person = person;
    this.#link = link;
    this.#guest = guest;
  }

  /** A home with nothing in it, behind a link of its own, on which the person has logged in. `cacheOf`: it has that one's public cache. */
  static async open(
    repository: Repository,
    guest: BenchGuest,
    options: { readonly joinLink: string; readonly cacheOf?: Person },
  ): Promise<Transceiver> {
    const link = await Link.open({ toPort: repository.port, profile: 'lan' });
    const person = await Person.temporary();
    if (options.cacheOf !== undefined) {
      await options.cacheOf.json(['shutdown']);
      const [from, to] = [path.join(options.cacheOf.home, 'cache'), path.join(person.home, 'cache')];
      await runOrThrow('cp', ['-a', '--sparse=always', from, to]);
    }
    await person.login(options.joinLink.replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${link.port}`), ACCOUNT);
    return new Transceiver(person, link, guest);
  }

  /** From the command to the login prompt. */
  async start(): Promise<Start> {
    const { appliance, prompt } = this.#guest;
    const beganAt = performance.now();
    await this.person.json(['start', appliance, '--wait-for', prompt, '--wait-seconds', '800'], { timeoutMs: STEP_MS });
    const seconds = (performance.now() - beganAt) / 1_000;
    return { seconds, ...(await this.travelled()) };
  }

  async travelled(): Promise<Travelled> {
    const client = await ControlClient.connect(path.join(this.person.home, 'run/blockd.sock'), { waitMs: 30_000 });
    try {
      const status = await client.request('status', {});
      return { privateBytes: status.private?.fetch.link.bytes ?? 0, publicBytes: status.fetch.link.bytes };
    } finally {
      client.close();
    }
  }

  /** In order; resolves when all is saved and another machine may start it. */
  async stop(): Promise<void> {
    const { appliance } = this.#guest;
    await this.person.json(['stop', appliance], { timeoutMs: STEP_MS });
    const file = path.join(this.person.home, 'machines', appliance, 'backup.json');
    await eventually('all is saved, and the lease given back', STEP_MS, async () => {
      const state = JSON.parse(await readFile(file, 'utf8')) as { readonly pending: unknown; readonly lease: unknown };
      return state.pending === null && state.lease === null ? true : undefined;
    });
  }

  /** Ends it; gives the bytes that its link carried towards it, all included. */
  async end(): Promise<number> {
    await this.person.end();
    return (await this.#link.close()).downBytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.person[Symbol.asyncDispose]();
    await this.#link[Symbol.asyncDispose]();
    await rm(this.person.home, { recursive: true, force: true });
  }
}
