/** Where things lie in a checkout, seen from the built tests and from the sources alike. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const findRoot = (): string => {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!existsSync(path.join(folder, 'package-lock.json'))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error('not inside a checkout: package-lock.json was not found above the tests');
    folder = parent;
  }
  return folder;
};

export const ROOT = findRoot();
export const BUILD = path.join(ROOT, 'build');
export const COLLECTIVE = path.join(ROOT, 'packages/transceiver/bin/collective.js');
export const COLLECTIVE_REPOSITORY = path.join(ROOT, 'packages/repository-server/bin/collective-repository.js');
/** The emulated link lies beside the checkout, in what all projects of this workplace share. */
export const LINK = path.join(ROOT, '../shared/tools/link.mjs');
