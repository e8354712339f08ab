/**
 * The disk keys of a person: the present one, and after a reset that was unlocked those of before (docs/formats/keys.md). What a
 * machine left on the local disk under a former key goes on under it: layers are not encrypted anew.
 */
import { CollectiveError } from '@collective/shared';
import { diskKeyCheck } from '../blockd/overlay/layer-keys.js';

/** Each 64 bytes as base64url; the present one first. */
export type DiskKeyRing = readonly [present: string, ...former: string[]];

/**
 * The key for a machine of which `checks` are there already (undefined: something that is not encrypted); the present one for a machine
 * of which nothing is. Error: `wrong-key` when one was made with no key of the ring. That is said before anything of the machine is
 * attached: else a disk that is new would be made with another key than those that are there.
 */
export const chooseDiskKey = (ring: DiskKeyRing, checks: readonly (string | undefined)[], what: string): string => {
  const known = new Map(ring.map((key) => [diskKeyCheck(Buffer.from(key, 'base64url')), key]));
  let chosen = ring[0];
  for (const check of checks) {
    if (check === undefined) continue;
    const key = known.get(check);
    if (key === undefined)
      throw new CollectiveError('wrong-key', `${what} is encrypted with another key`, { data: { reason: 'other' } });
    chosen = key;
  }
  return chosen;
};
