/** A digest over what a home holds that counts: names, modes and contents, without sockets, logs and the cache's own housekeeping. */
import { createHash } from 'node:crypto';
import { lstat, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { eventually } from '../support/eventually.js';

// The supervisor's own files, and what they are renamed from, come in the background after a login.
const LEFT_OUT = /^(?:run|log|objects|cache|supervisor.*)$/;

/** Of a home that rests: in the background a file is written beside another and takes its place, so it is looked at until nothing changes. */
export const homeHash = async (home: string): Promise<string> => {
  let last: string | undefined;
  return eventually('the home rests', 60_000, async () => {
    const before = last;
    last = await hashOnce(home).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    return last !== undefined && last === before ? last : undefined;
  });
};

const hashOnce = async (home: string): Promise<string> => {
  const hash = createHash('sha256');
  const walk = async (folder: string, isTop: boolean): Promise<void> => {
    for (const name of (await readdir(folder)).sort()) {
      if (isTop && LEFT_OUT.test(name)) continue;
      const file = path.join(folder, name);
      const found = await lstat(file);
      hash.update(`${path.relative(home, file)} ${found.mode.toString(8)}\n`);
      if (found.isDirectory()) await walk(file, false);
      else if (found.isFile()) hash.update(await readFile(file));
    }
  };
  await walk(home, true);
  return hash.digest('hex');
};
