/**
 * How the private cache is encrypted (docs/formats/cache.md): one key for each slot file, all from the person's disk key, and a text in the folder
 * by which the disk key is known again. A cache of another key, or of none that is known, is thrown away: it is only a cache.
 */
import { CollectiveError, DISK_KEY_BYTES, hkdf } from '@collective/shared';
import { replaceFileDurably, type FileSystem } from '../../storage/file-system.js';
import { SECTOR_KEY_BYTES, SectorCipher } from '../../storage/sector-cipher.js';
import { slotFileName, slotTableName } from '../cache/slot-file.js';

const CHECK_NAME = 'key-check';
const CHECK_BYTES = 16;

/** Of one disk key (64 bytes), of which it keeps a copy: a slot file may be made at any time. */
export class PrivateCacheKeys {
  readonly check: string;
  readonly #diskKey: Buffer;

  constructor(diskKey: Uint8Array) {
    if (diskKey.length !== DISK_KEY_BYTES) throw new RangeError(`a disk key has 64 bytes, not ${diskKey.length}`);
    this.#diskKey = Buffer.from(diskKey);
    this.check = hkdf(diskKey, 'collective private cache check v1', CHECK_BYTES).toString('base64url');
  }

  cipherOf(blockBytes: number): SectorCipher {
    const key = hkdf(this.#diskKey, `collective private cache v1 ${blockBytes}`, SECTOR_KEY_BYTES);
    const cipher = new SectorCipher(key);
    key.fill(0);
    return cipher;
  }
}

/** Makes the folder one that was filled with these keys: empties it when it was not. Nobody has it open. Errors: `disk-full`, `local-io`. */
export const preparePrivateCache = async (
  fileSystem: FileSystem,
  folder: string,
  { check }: Pick<PrivateCacheKeys, 'check'>,
): Promise<void> => {
  await fileSystem.makeFolder(folder);
  if ((await readCheck(fileSystem, folder)) === check) return;
  // First what is of another key, then the check: a kill in between leaves a folder that is emptied again.
  for (const name of await fileSystem.list(folder)) {
    const blockBytes = Number(/^(\d{4,7})\./.exec(name)?.[1] ?? 0);
    if (name === slotFileName(blockBytes) || name === slotTableName(blockBytes))
      await fileSystem.remove(`${folder}/${name}`);
  }
  await replaceFileDurably(fileSystem, { folder, name: CHECK_NAME }, Buffer.from(check));
};

const readCheck = async (fileSystem: FileSystem, folder: string): Promise<string | undefined> => {
  try {
    return (await fileSystem.readWhole(`${folder}/${CHECK_NAME}`, 64))?.toString('latin1');
  } catch (error) {
    // Longer than any: not ours.
    if (error instanceof CollectiveError && error.code === 'too-large') return undefined;
    throw error;
  }
};
