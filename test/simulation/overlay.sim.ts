/** Never a lost byte: an overlay and its layers on a simulated disk, under kill -9, power cuts, full disks and failing syncs. */
import { describe } from 'vitest';
import { OverlayWorld, type WorldOptions } from './overlay-world.js';
import type { Random } from './random.js';
import { simulate, type Tally } from './simulate.js';

const HANG_MS = 60_000;

const history = async (random: Random, options: WorldOptions): Promise<Tally> => {
  const world = new OverlayWorld(random, options);
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`hangs in: ${world.step}`)), HANG_MS);
  });
  try {
    await Promise.race([world.run(), hang]);
  } finally {
    clearTimeout(timer);
  }
  return world.tally;
};

describe('an overlay on a disk that loses power', () => {
  simulate(
    'every flushed write is there after a power cut, every acknowledged one after kill -9, and sealed layers never change',
    2_100,
    (random) => history(random, { hasFaults: false }),
    {
      cuts: 4.77,
      kills: 1.5,
      'cuts while opening': 1,
      'kills while opening': 0.2,
      'partial granules': 30,
      'writes with the link down': 8,
      flushes: 10,
      'FUA writes': 6,
      seals: 1.7,
      'seals cut off': 0.4,
      rebases: 0.3,
      'rebases of several layers': 0.05,
      'opens over a base': 0.3,
      'looks through views': 0.5,
      'views ended by a rebase': 0.01,
      'open sectors': 100,
      encrypted: 0.4,
    },
  );
  simulate(
    'a full disk and failing syncs are told, and what was acknowledged stays',
    250,
    (random) => history(random, { hasFaults: true }),
    {
      cuts: 3,
      kills: 1.5,
      'refused writes': 10,
      'failed writes': 0.1,
      'failed syncs': 0.2,
      'opens refused after a failed sync': 0.01,
      seals: 0.3,
      encrypted: 0.4,
    },
  );
  simulate(
    'bits that flip in the data of its layers are refused or healed, in use, in sealed layers and over a clean close, and never served',
    700,
    (random) => history(random, { hasFaults: false, hasDamage: true }),
    {
      cuts: 3,
      kills: 1,
      'bits flipped': 2,
      'reads refused for damage': 0.2,
      'writes refused for damage': 0.1,
      'first looks refused for damage': 0.1,
      seals: 1,
      encrypted: 0.4,
    },
  );
});
