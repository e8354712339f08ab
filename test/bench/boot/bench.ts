/**
 * `npm run bench -- boot`: the Debian appliance to its login prompt. Local raw file with a qcow2 overlay, cached, and cold on
 * demand through the emulated link, beside nbdkit's curl plugin and QEMU's http driver on the same raw file; ratios of
 * interleaved pairs. Ours is timed from the command to the prompt, the others from the start of QEMU.
 */
import { readFile } from 'node:fs/promises';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { checkMachineDescription, type DiskDescription } from '@collective/shared';
import { runOrThrow } from '../../support/child.js';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import type { LinkProfile } from '../../support/link.js';
import { BUILD, ROOT } from '../../support/paths.js';
import {
  atMost,
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { bootLocal, bootNbdkit, bootQemuHttp } from './competitors.js';
import { bootCold, CachedHome, type OurBoot } from './ours.js';
import type { BootImages } from './qemu-boot.js';

const NAME = 'debian-server';

const buildImages = async (log: BenchOptions['log']): Promise<BootImages & { readonly recipe: string }> => {
  const out = path.join(BUILD, 'images', NAME);
  log(`building ${NAME} (quick when nothing changed)`);
  await runOrThrow('bash', [path.join(ROOT, 'images', NAME, 'build.sh'), out], { timeoutMs: 900_000 });
  const recipe = path.join(out, 'appliance.json');
  const described = JSON.parse(await readFile(recipe, 'utf8')) as { machine: unknown; disks: DiskDescription[] };
  return {
    machine: checkMachineDescription(described.machine),
    disks: described.disks.map(({ name, bus, diskBytes }) => ({ name, bus, diskBytes })),
    system: path.join(out, 'system.raw'),
    user: path.join(out, 'user.raw'),
    recipe,
  };
};

const publish = async (repository: Repository, images: BootImages & { readonly recipe: string }): Promise<void> => {
  await using publisher = await Person.temporary();
  await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher', PASSWORD);
  await repository.allow('publisher', NAME);
  const disks = ['--disk', `system=${images.system}`, '--disk', `user=${images.user}`];
  await publisher.json(['publish', NAME, '--machine', images.recipe, ...disks, '--no-boot-test'], {
    timeoutMs: 900_000,
  });
};

type Runs = { readonly local: number[]; readonly cached: OurBoot[]; readonly cold: Map<LinkProfile, OurBoot[]> };

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const images = await buildImages(log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'boot-repository-'));
  const cases: BenchCase[] = [];
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'));
    log('publishing');
    await publish(repository, images);
    log('filling a cache');
    await using home = await CachedHome.open(repository);

    const runs: Runs = {
      local: [],
      cached: [],
      cold: new Map([
        ['lan', []],
        ['cable', []],
      ]),
    };
    for (let round = 0; round < (quick ? 1 : 5); round += 1) {
      runs.local.push((await bootLocal(images)).seconds);
      runs.cached.push(await home.boot());
      for (const [profile, boots] of runs.cold)
        boots.push(await bootCold(repository, profile, `cold-${profile}-${round}`));
      log(
        `round ${round + 1}: local ${runs.local.at(-1)?.toFixed(1)} s, cached ${runs.cached.at(-1)?.seconds.toFixed(1)} s, ` +
          [...runs.cold].map(([profile, boots]) => `${profile} ${boots.at(-1)?.seconds.toFixed(1)} s`).join(', '),
      );
    }
    const ratios = (boots: readonly OurBoot[]): number[] =>
      boots.map(({ seconds }, at) => seconds / (runs.local[at] ?? Number.NaN));
    const secondsOf = (boots: readonly OurBoot[]): number[] => boots.map(({ seconds }) => seconds);
    cases.push(
      informs('local raw file, qcow2 overlay', median(runs.local), 's', interval(runs.local, 1)),
      atMost('cached / local', median(ratios(runs.cached)), 1.05, {
        note: `${interval(ratios(runs.cached))}; ${interval(secondsOf(runs.cached), 1)} s`,
      }),
      atMost('cached: guest waited for its disks', median(runs.cached.map((boot) => boot.diskWaitSeconds)), 0.3, {
        unit: 's',
        note: interval(runs.cached.map((boot) => boot.diskWaitSeconds)),
      }),
    );
    for (const [profile, boots] of runs.cold) {
      const note = `${interval(ratios(boots))}; ${interval(secondsOf(boots), 1)} s`;
      const ratio = median(ratios(boots));
      cases.push(
        profile === 'lan'
          ? atMost('cold on lan / local', ratio, 1.35, { note })
          : informs(`cold on ${profile} / local`, ratio, 'x', note),
        informs(
          `cold on ${profile}: bytes on the wire, all included`,
          median(boots.map((boot) => boot.downBytes)) / 1e6,
          'MB',
          `chunks alone ${(median(boots.map((boot) => boot.fetchedBytes)) / 1e6).toFixed(1)} MB`,
        ),
        informs(
          `cold on ${profile}: guest waited for its disks`,
          median(boots.map((boot) => boot.diskWaitSeconds)),
          's',
        ),
      );
    }
    for (const profile of ['lan', 'cable'] as const) {
      for (const [name, boot] of [
        ['nbdkit curl+cache+cow', bootNbdkit],
        ["QEMU's http driver", bootQemuHttp],
      ] as const) {
        const figures = await boot(images, profile);
        log(`${name} on ${profile}: ${figures.seconds.toFixed(1)} s`);
        cases.push(
          informs(
            `${name} on ${profile} / local`,
            figures.seconds / median(runs.local),
            'x',
            `${figures.seconds.toFixed(1)} s`,
          ),
          informs(`${name} on ${profile}: bytes on the wire`, figures.downBytes / 1e6, 'MB'),
        );
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return { bench: 'boot', machine: describeMachine(), cases };
};
