/**
 * The repository of the boot benchmark: the appliance published, with the trace that real boots in other people's homes have told it, merged, and
 * packed as a server does by itself some minutes later. That takes minutes, so it is made once for the same images and programs and copied for each run.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';
import { PASSWORD, Person, Repository, repositoryCommand } from '../../support/collective.js';
import { eventually } from '../../support/eventually.js';
import { BUILD, ROOT } from '../../support/paths.js';
import { APPLIANCE, publish, type ApplianceImages } from './appliance.js';

/** Homes whose boots are merged: each must touch what the trace names, or two of three. */
export const TOLD_BOOTS = 3;
/** A boot is over 20 s after its last new block, and what it left is looked for every 30 s. */
const TOLD_MS = 600_000;
const KEPT = path.join(BUILD, 'bench', 'boot-repository');

/** Of the images and of every program that makes or serves a version. */
const digestOf = async (images: ApplianceImages): Promise<string> => {
  const hash = createHash('sha256').update(await readFile(images.recipe));
  for (const file of [images.system, images.user]) hash.update(String((await stat(file)).mtimeMs));
  for (const name of ['shared', 'schema', 'repository-server', 'transceiver']) {
    const folder = path.join(ROOT, 'packages', name, 'dist');
    const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.js')).sort();
    for (const file of files) hash.update(file).update(await readFile(path.join(folder, file)));
  }
  return hash.digest('hex').slice(0, 16);
};

/** A folder `r` in `folder` that can be served. */
export const tracedRepository = async (
  images: ApplianceImages,
  folder: string,
  log: (line: string) => void,
): Promise<string> => {
  const kept = path.join(KEPT, await digestOf(images));
  const isKept = await stat(kept).then(
    () => true,
    () => false,
  );
  if (!isKept) {
    await rm(KEPT, { recursive: true, force: true });
    await mkdir(KEPT, { recursive: true });
    await make(images, `${kept}.part`, log);
    await rename(`${kept}.part`, kept);
  }
  const own = path.join(folder, 'r');
  await runOrThrow('cp', ['-a', '--reflink=auto', kept, own]);
  return own;
};

const make = async (images: ApplianceImages, folder: string, log: (line: string) => void): Promise<void> => {
  await repositoryCommand(['init', folder]);
  {
    await using repository = await Repository.serve(folder, 0, ['--collect-every', '0s']);
    log('publishing');
    await publish(repository, images);
    for (let boot = 1; boot <= TOLD_BOOTS; boot += 1) {
      log(`a boot in another home, for its trace: ${boot} of ${TOLD_BOOTS}`);
      await tellBoot(repository, `told-${boot}`, boot);
    }
  }
  await repositoryCommand(['pack-boots', folder]);
};

/** Resolves when the repository has `votes`. */
const tellBoot = async (repository: Repository, account: string, votes: number): Promise<void> => {
  await using person = await Person.temporary();
  await person.login(await repository.invite(account, 'user', { appliances: [APPLIANCE] }), account, PASSWORD);
  await person.json(['start', APPLIANCE, '--wait-for', 'login'], { timeoutMs: 900_000 });
  const traces = path.join(repository.folder, 'appliances', APPLIANCE, '1', 'traces', 'system');
  await eventually(`trace ${votes}`, TOLD_MS, async () =>
    (await readdir(traces).catch(() => [])).length >= votes ? true : undefined,
  );
};
