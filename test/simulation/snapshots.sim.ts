/** Histories of a person's snapshots over the simulated catalogue (docs/adr/0017). */
import { SimulatedCatalogueFile } from './repository-catalogue.js';
import { simulate } from './simulate.js';
import { snapshotHistory } from './snapshot-history.js';

simulate(
  'snapshots: upload, commit, thin, collect, with power cuts',
  40,
  (random) => snapshotHistory(random, new SimulatedCatalogueFile()),
  {
    cuts: 10,
    kills: 1,
    acknowledged: 5,
    'uploads resumed': 1,
    'snapshots forgotten': 0.5,
    'objects rewritten': 0.2,
    'objects deleted': 0.1,
  },
);
