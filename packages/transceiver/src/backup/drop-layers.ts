/**
 * An overlay without what was written to it: description and layers go, the base files and maps beside them stay, and the next attach makes
 * a new one over the base that its source names. Nobody has the disk. Durable when it resolves; again is the same. Errors: those of the disk.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DESCRIPTION_NAME } from '../blockd/overlay/stack-description.js';
import { isErrno, syncFolder } from '../storage/durable-file.js';

export async function dropLayers(folder: string): Promise<void> {
  const sync = async (): Promise<void> =>
    syncFolder(folder).catch((error: unknown) => {
      if (!isErrno(error, 'ENOENT')) throw error;
    });
  // First: layers that nothing describes are nothing.
  await rm(join(folder, DESCRIPTION_NAME), { force: true });
  await sync();
  await rm(join(folder, 'layers'), { recursive: true, force: true });
  await sync();
}
