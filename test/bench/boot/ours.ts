/**
 * The boot benchmark's own half: the appliance started by the command line, on a filled cache and on an empty one, through an emulated link. The clock
 * starts at the command `start`, in a home that is logged in and has never had a machine: supervisor and block daemon are started in it, too.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { ControlClient } from '@collective/transceiver';
import { Link } from '../../support/link.js';
import { PASSWORD, Person, type Repository } from '../../support/collective.js';
import { processUsage } from '../../support/process-usage.js';
import type { PlayedLink } from '../trace-player/links.js';
import { APPLIANCE } from './appliance.js';

export type OurBoot = {
  /** From the command `start` to the login prompt. */
  readonly seconds: number;
  /** Of these, before QEMU's process was there. */
  readonly beforeGuestSeconds: number;
  /** Time with at least one request of the guest unanswered, all disks together, in seconds. */
  readonly diskWaitSeconds: number;
  /** All that has come over the link from the login of the person to the prompt. */
  readonly downBytes: number;
  readonly fetchedBytes: number;
  /** Reads of the published disks that found their block missing. */
  readonly misses: number;
  /** All that the block daemon has computed since it was started: fetching, checking, unpacking, writing to the cache, answering. */
  readonly daemonCpuSeconds: number;
  /** From the command to the prompt. */
  readonly serverCpuSeconds: number;
};

type MachineRecord = { readonly qemu: { readonly startTicks: number } | null };

const TICKS_PER_SECOND = 100;

/** To a hundredth of a second. */
const guestStartedSecondsAgo = async (home: string): Promise<number> => {
  const record = await readFile(path.join(home, 'machines', APPLIANCE, 'machine.json'), 'utf8');
  const { qemu } = JSON.parse(record) as MachineRecord;
  if (qemu === null) throw new Error('the machine has no QEMU');
  const [uptime] = (await readFile('/proc/uptime', 'latin1')).split(' ');
  return Number(uptime) - qemu.startTicks / TICKS_PER_SECOND;
};

/** `atPrompt`: bytes on the link so far; called the moment the prompt is there. */
const startOnce = async (
  person: Person,
  server: Repository,
  atPrompt: () => Promise<number> = async () => Promise.resolve(0),
): Promise<OurBoot> => {
  const serverPid = server.process.process.pid ?? 0;
  const serverBefore = processUsage(serverPid).cpuSeconds;
  const startedAt = performance.now();
  await person.json(['start', APPLIANCE, '--wait-for', 'login'], { timeoutMs: 900_000 });
  const seconds = (performance.now() - startedAt) / 1000;
  const guestSeconds = await guestStartedSecondsAgo(person.home);
  const sinceCommand = (performance.now() - startedAt) / 1000;
  const downBytes = await atPrompt();
  const serverCpuSeconds = processUsage(serverPid).cpuSeconds - serverBefore;
  const blockd = await ControlClient.connect(path.join(person.home, 'run/blockd.sock'));
  const status = await blockd.request('status', {}).finally(() => blockd.close());
  const disks = status.disks.filter(({ session }) => session === APPLIANCE);
  if (disks.length === 0) throw new Error('the block daemon does not know the machine');
  const result = {
    seconds,
    beforeGuestSeconds: sinceCommand - guestSeconds,
    diskWaitSeconds: disks.reduce((sum, { busyMs }) => sum + busyMs, 0) / 1000,
    downBytes,
    fetchedBytes: status.fetch.link.bytes,
    misses: disks.reduce((sum, { counters }) => sum + (counters?.misses ?? 0), 0),
    daemonCpuSeconds: processUsage(status.pid).cpuSeconds,
    serverCpuSeconds,
  };
  await person.json(['stop', APPLIANCE, '--force']);
  return result;
};

export type ColdOptions = {
  readonly account: string;
  /** Else the person's link is metered, so that no trace is fetched. */
  readonly isTraced: boolean;
};

/** A start in a home that has nothing but its login. `downBytes`: of the line so far. */
export const bootNewHome = async (
  server: Repository,
  joinLink: string,
  { account, isTraced, downBytes }: ColdOptions & { readonly downBytes: () => Promise<number> },
): Promise<OurBoot> => {
  await using person = await Person.temporary();
  await person.login(joinLink, account, PASSWORD);
  if (!isTraced) await person.json(['settings', '--metered', 'on']);
  return await startOnce(person, server, downBytes);
};

/** The same through a fresh link. */
export const bootCold = async (repository: Repository, profile: PlayedLink, options: ColdOptions): Promise<OurBoot> => {
  await using link = await Link.open({ toPort: repository.port, profile });
  const joinLink = await repository.invite(options.account, 'user', {
    appliances: [APPLIANCE],
    throughPort: link.port,
  });
  const downBytes = async (): Promise<number> => (await link.close()).downBytes;
  return await bootNewHome(repository, joinLink, { ...options, downBytes });
};

/** A home whose cache holds what a boot touches. */
export class CachedHome implements AsyncDisposable {
  readonly #person: Person;
  readonly #repository: Repository;

  private constructor(person: Person, repository: Repository) {
    this.#person = person;
    this.#repository = repository;
  }

  static async open(repository: Repository, account: string): Promise<CachedHome> {
    const person = await Person.temporary();
    await person.login(await repository.invite(account, 'user', { appliances: [APPLIANCE] }), account, PASSWORD);
    const home = new CachedHome(person, repository);
    // Twice: the second boot touches a few blocks that the first did not.
    await home.boot();
    await home.boot();
    return home;
  }

  async boot(): Promise<OurBoot> {
    return await startOnce(this.#person, this.#repository);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#person[Symbol.asyncDispose]();
  }
}
