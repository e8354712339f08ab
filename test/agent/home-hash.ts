/** A digest over what a home holds that counts: names, modes and contents, without sockets, logs and the cache's own housekeeping. */
import { createHash } from 'node:crypto';
import { lstat, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';

// The supervisor's own files, and what they are renamed from, come in the background after a login.
const LEFT_OUT = /^(?:run|log|objects|cache|supervisor.*)$/;

export const homeHash = async (home: string): Promise<string> => {
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
