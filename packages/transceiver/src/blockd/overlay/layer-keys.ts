/**
 * The keys of an encrypted overlay (docs/formats/overlay.md), all from one disk key: one for each layer, so that equal sectors at equal places of
 * two layers do not look equal, and a value by which the disk key is known again before anything is opened with it.
 */
import { timingSafeEqual } from 'node:crypto';
import { CollectiveError, DISK_KEY_BYTES, hkdf } from '@collective/shared';
import { SECTOR_KEY_BYTES, SectorCipher } from '../../storage/sector-cipher.js';

const CHECK_BYTES = 16;

/** Known by whoever sees the disk; tells nothing of the key but whether two are the same. 22 characters of base64url. */
export const diskKeyCheck = (diskKey: Uint8Array): string =>
  hkdf(diskKey, 'collective disk key check v1', CHECK_BYTES).toString('base64url');

/**
 * Whether a disk is opened with the key that it was made with; `check` is null for one that is not encrypted. Error: `wrong-key`, whose
 * `data.reason` is `missing`, `other` or `plain`.
 */
export const assertDiskKey = (diskKey: Uint8Array | undefined, check: string | null, what: string): void => {
  const refuse = (reason: 'missing' | 'other' | 'plain', message: string): never => {
    throw new CollectiveError('wrong-key', `${what} ${message}`, { data: { reason } });
  };
  if (check === null) {
    if (diskKey !== undefined) refuse('plain', 'is not encrypted, but a key was given for it');
  } else if (diskKey === undefined) refuse('missing', 'is encrypted, and no key was given for it');
  else if (!timingSafeEqual(Buffer.from(diskKeyCheck(diskKey)), Buffer.from(check)))
    refuse('other', 'is encrypted with another key');
};

/** Of one disk key, of which it keeps a copy: a layer may be made at any time. */
export class LayerKeys {
  readonly check: string;
  readonly #diskKey: Buffer;

  constructor(diskKey: Uint8Array) {
    if (diskKey.length !== DISK_KEY_BYTES) throw new RangeError(`a disk key has 64 bytes, not ${diskKey.length}`);
    this.#diskKey = Buffer.from(diskKey);
    this.check = diskKeyCheck(diskKey);
  }

  cipherOf(layerId: string): SectorCipher {
    const key = hkdf(this.#diskKey, `collective layer v1 ${layerId}`, SECTOR_KEY_BYTES);
    const cipher = new SectorCipher(key);
    key.fill(0);
    return cipher;
  }
}
