/** The repository's histories over the simulated catalogue, in large numbers, and over real SQLite, fewer (docs/adr/0011). */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SimulatedCatalogueFile } from './repository-catalogue.js';
import { repositoryHistory } from './repository-history.js';
import { SqliteCatalogueFile } from './repository-sqlite-file.js';
import { simulate } from './simulate.js';

simulate(
  'repository: publish, commit, collect, with power cuts',
  410,
  (random) => repositoryHistory(random, new SimulatedCatalogueFile()),
  {
    cuts: 24.4,
    kills: 2,
    recoveryCuts: 5,
    acknowledged: 10,
    found: 0.5,
    'versions ended': 2,
    'versions forgotten': 1,
    'chunks collected': 10,
    'chunks read beside': 100,
    'uploads resumed': 3,
    cataloguesLost: 0.3,
    faults: 2,
  },
);

simulate(
  'repository over real SQLite',
  12,
  async (random) => {
    const folder = await mkdtemp(join(tmpdir(), 'repository-sqlite-'));
    const catalogue = await SqliteCatalogueFile.open(folder);
    try {
      return { ...(await repositoryHistory(random, catalogue)), ...catalogue.tally };
    } finally {
      await catalogue.close();
      await rm(folder, { recursive: true, force: true });
    }
  },
  { cuts: 20, kills: 2, acknowledged: 8, logsCut: 0.5 },
);
