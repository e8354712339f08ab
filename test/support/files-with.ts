/** Looks for a text in every file of a folder, as a thief of the disk would. */
import { open, readdir } from 'node:fs/promises';
import path from 'node:path';

const PIECE_BYTES = 4 << 20;
/** A file that was renamed while the folder was read has the text under its new name: the whole folder is read again. */
const LOOKS = 20;

/** The files below `folder` whose content or name has the text or bytes; links are not followed. */
export const filesWith = async (folder: string, text: string | Buffer): Promise<string[]> => {
  const wanted = Buffer.from(text);
  for (let look = 1; ; look++) {
    const found = await filesOnce(folder, text, wanted).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' && look < LOOKS) return undefined;
      throw error;
    });
    if (found) return found;
  }
};

const filesOnce = async (folder: string, text: string | Buffer, wanted: Buffer): Promise<string[]> => {
  const isName = (name: string): boolean => typeof text === 'string' && name.includes(text);
  const found: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name);
    if (isName(entry.name) || (entry.isFile() && (await holds(file, wanted)))) found.push(file);
  }
  return found;
};

const holds = async (file: string, wanted: Buffer): Promise<boolean> => {
  const handle = await open(file, 'r');
  try {
    const piece = Buffer.alloc(PIECE_BYTES);
    for (let at = 0; ; at += PIECE_BYTES - wanted.length) {
      const { bytesRead } = await handle.read(piece, 0, PIECE_BYTES, at);
      if (piece.subarray(0, bytesRead).includes(wanted)) return true;
      if (bytesRead < PIECE_BYTES) return false;
    }
  } finally {
    await handle.close();
  }
};
