/**
 * `npm run bench -- restore`: a person has data on the user disk of an appliance, logs in on a second machine and starts it there. Time from
 * the command to the login prompt and what travels until then, beside the sizes of disk and data and a start on the first machine; once with
 * nothing on the second machine, once where the appliance has been used before by others (its public cache is there). Every link is the
 * `lan`. Afterwards the guest reads all of its data, which must be what was written. With --quick a tiny guest with a disk of 64 MiB.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Person, Repository, repositoryCommand } from '../../support/collective.js';
import {
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { buildRecipe, DEBIAN, TINY, type BenchGuest } from './guests.js';
import { ACCOUNT, Transceiver, type Start } from './transceivers.js';

const ROUNDS = 3;
const KINDS = ['nothing on it', 'the appliance on it'] as const;
type Kind = (typeof KINDS)[number];

type Second = Start & {
  /** The same round's start on the first machine. */
  readonly first: number;
  readonly downBytes: number;
  readonly readSeconds: number;
  /** Of the person's chunks, after everything was read. */
  readonly allPrivateBytes: number;
};

const startOnSecond = async (
  repository: Repository,
  guest: BenchGuest,
  options: { readonly joinLink: string; readonly checksum: string; readonly first: number; readonly cacheOf?: Person },
): Promise<Second> => {
  await using second = await Transceiver.open(repository, guest, options);
  const start = await second.start();
  const beganAt = performance.now();
  const checksum = await guest.readAll(second.person);
  const readSeconds = (performance.now() - beganAt) / 1_000;
  if (checksum !== options.checksum) throw new Error(`the data has checksum ${checksum}, not ${options.checksum}`);
  const { privateBytes: allPrivateBytes } = await second.travelled();
  await second.stop();
  const downBytes = await second.end();
  return { ...start, first: options.first, downBytes, readSeconds, allPrivateBytes };
};

const megabytes = (values: readonly number[]): string =>
  `${interval(
    values.map((each) => each / 1e6),
    1,
  )} MB`;

const casesOf = (
  guest: BenchGuest,
  firsts: readonly number[],
  seconds: Readonly<Record<Kind, readonly Second[]>>,
): BenchCase[] => [
  informs('size of the user disk', guest.diskBytes / 1e6, 'MB'),
  informs('data on it', guest.dataBytes / 1e6, 'MB', 'does not compress'),
  informs('start to prompt on the first machine', median(firsts), 's', interval(firsts, 1)),
  ...KINDS.flatMap((kind) => {
    const all = seconds[kind];
    const of = (value: (second: Second) => number): number[] => all.map(value);
    const privates = of(({ privateBytes }) => privateBytes);
    const ratios = of((second) => second.seconds / second.first);
    return [
      informs(
        `second, ${kind}: start to prompt`,
        median(of((second) => second.seconds)),
        's',
        interval(
          of((second) => second.seconds),
          1,
        ),
      ),
      informs(`second, ${kind}: start / on the first`, median(ratios), 'x', interval(ratios)),
      informs(
        `second, ${kind}: of the user disk until the prompt`,
        median(privates) / 1e6,
        'MB',
        `${megabytes(privates)}; ${((100 * median(privates)) / guest.dataBytes).toFixed(1)} % of the data, ${((100 * median(privates)) / guest.diskBytes).toFixed(2)} % of the disk`,
      ),
      informs(
        `second, ${kind}: public chunks until the prompt`,
        median(of(({ publicBytes }) => publicBytes)) / 1e6,
        'MB',
      ),
      informs(
        `second, ${kind}: then all of the data read`,
        median(of(({ readSeconds }) => readSeconds)),
        's',
        `with its checksum; of the user disk then ${megabytes(of(({ allPrivateBytes }) => allPrivateBytes))}; all that its link carried until the end ${megabytes(of(({ downBytes }) => downBytes))}`,
      ),
    ];
  }),
];

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const guest = quick ? TINY : DEBIAN;
  log(`building ${guest.appliance} (quick when nothing changed)`);
  const recipe = await buildRecipe(guest);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'restore-bench-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    {
      await using publisher = await Person.temporary();
      await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher');
      await repository.allow('publisher', guest.appliance);
      await publisher.json(['publish', guest.appliance, '--machine', recipe, '--no-boot-test'], { timeoutMs: 900_000 });
    }
    const invitation = await repository.invite(ACCOUNT, 'user', { appliances: [guest.appliance] });
    await using first = await Transceiver.open(repository, guest, { joinLink: invitation });
    await first.start();
    log(`writing ${guest.dataBytes >> 20} MiB of data and saving it`);
    const checksum = await guest.fill(first.person);
    await first.stop();
    const joinLink = invitation.replace(/\.invite\..*$/, '');
    const firsts: number[] = [];
    const seconds: Record<Kind, Second[]> = { 'nothing on it': [], 'the appliance on it': [] };
    for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) {
      if (round > 0) {
        // What the second machine has written comes here first.
        await first.start();
        await first.stop();
      }
      const here = await first.start();
      await first.stop();
      firsts.push(here.seconds);
      log(`round ${round + 1}: first ${here.seconds.toFixed(1)} s`);
      for (const kind of round % 2 === 0 ? KINDS : [...KINDS].reverse()) {
        const cacheOf = kind === 'nothing on it' ? {} : { cacheOf: first.person };
        const second = await startOnSecond(repository, guest, { joinLink, checksum, first: here.seconds, ...cacheOf });
        seconds[kind].push(second);
        log(
          `round ${round + 1}: second, ${kind}, ${second.seconds.toFixed(1)} s, ${(second.privateBytes / 1e6).toFixed(2)} MB of the user disk`,
        );
      }
    }
    return { bench: 'restore', machine: describeMachine(), cases: casesOf(guest, firsts, seconds) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
