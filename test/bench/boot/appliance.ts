/** The appliance that the boot and trace benchmarks start: built, and published to a repository. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { checkMachineDescription, type DiskDescription } from '@collective/shared';
import { runOrThrow } from '../../support/child.js';
import { PASSWORD, Person, type Repository } from '../../support/collective.js';
import { BUILD, ROOT } from '../../support/paths.js';
import type { BootImages } from './qemu-boot.js';

export const APPLIANCE = 'debian-server';

export type ApplianceImages = BootImages & { readonly recipe: string };

export const buildImages = async (log: (line: string) => void, appliance = APPLIANCE): Promise<ApplianceImages> => {
  const out = path.join(BUILD, 'images', appliance);
  log(`building ${appliance} (quick when nothing changed)`);
  await runOrThrow('bash', [path.join(ROOT, 'images', appliance, 'build.sh'), out], { timeoutMs: 900_000 });
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

export const publish = async (
  repository: Repository,
  images: ApplianceImages,
  appliance = APPLIANCE,
): Promise<void> => {
  await using publisher = await Person.temporary();
  const account = `publisher-${appliance}`;
  await publisher.login(await repository.invite(account, 'publisher'), account, PASSWORD);
  await repository.allow(account, appliance);
  const disks = ['--disk', `system=${images.system}`, '--disk', `user=${images.user}`];
  await publisher.json(['publish', appliance, '--machine', images.recipe, ...disks, '--no-boot-test'], {
    timeoutMs: 900_000,
  });
};
