/** The boot benchmark's own half: the appliance published once, then started by the command line, cached and cold, through the emulated link. */
import { Link, type LinkProfile } from '../../support/link.js';
import { PASSWORD, Person, type Repository } from '../../support/collective.js';

export type OurBoot = {
  /** From the command `start` to the login prompt. */
  readonly seconds: number;
  /** Time with at least one request of the guest unanswered, all disks together, in seconds. */
  readonly diskWaitSeconds: number;
  readonly downBytes: number;
  readonly fetchedBytes: number;
};

const NAME = 'debian-server';

type MachineStatus = {
  readonly name: string;
  readonly details: { readonly disks?: readonly { readonly busyMs?: number }[] };
};

const startOnce = async (person: Person): Promise<Omit<OurBoot, 'downBytes'>> => {
  const startedAt = performance.now();
  await person.json(['start', NAME, '--wait-for', 'login'], { timeoutMs: 900_000 });
  const seconds = (performance.now() - startedAt) / 1000;
  const status = await person.json(['status']);
  const blockd = status['blockd'] as { readonly fetchedBytes?: number };
  const machine = (status['machines'] as readonly MachineStatus[]).find(({ name }) => name === NAME);
  const waits = (machine?.details.disks ?? []).map((disk) => disk.busyMs);
  if (waits.length === 0 || waits.includes(undefined))
    throw new Error('status does not say how long the guest waited for its disks');
  const result = {
    seconds,
    diskWaitSeconds: waits.reduce<number>((sum, each) => sum + (each ?? 0), 0) / 1000,
    fetchedBytes: blockd.fetchedBytes ?? 0,
  };
  await person.json(['stop', NAME, '--force']);
  return result;
};

/** A start on a home that has nothing but its login, through a fresh link. */
export const bootCold = async (repository: Repository, profile: LinkProfile, account: string): Promise<OurBoot> => {
  const link = await Link.open({ toPort: repository.port, profile });
  try {
    await using person = await Person.temporary();
    await person.login(
      await repository.invite(account, 'user', { appliances: [NAME], throughPort: link.port }),
      account,
      PASSWORD,
    );
    const boot = await startOnce(person);
    await person.end();
    const { downBytes } = await link.close();
    return { ...boot, downBytes };
  } finally {
    await link[Symbol.asyncDispose]();
  }
};

/** A home whose cache holds what a boot touches. */
export class CachedHome implements AsyncDisposable {
  readonly #person: Person;

  private constructor(person: Person) {
    this.#person = person;
  }

  static async open(repository: Repository): Promise<CachedHome> {
    const person = await Person.temporary();
    await person.login(await repository.invite('cached', 'user', { appliances: [NAME] }), 'cached', PASSWORD);
    // Twice: the second boot touches a few blocks that the first did not.
    await startOnce(person);
    await startOnce(person);
    return new CachedHome(person);
  }

  async boot(): Promise<OurBoot> {
    return { ...(await startOnce(this.#person)), downBytes: 0 };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#person[Symbol.asyncDispose]();
  }
}
