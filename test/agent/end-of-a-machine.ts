/** What happens to a machine from outside, it is switched off and its memory is gone, and what must not be found on it then. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import path from 'node:path';
import { derivePersonKeys } from '@collective/shared';
import { expect } from 'vitest';
import { eventually } from '../support/eventually.js';

/**
 * kill -9 of everything of this home, as often as one of them starts another, and of `more` (QEMU need not name the home). Gives the
 * programs.
 */
export const killAllOf = async (home: string, more: readonly number[] = []): Promise<readonly string[]> => {
  const killed = new Set<string>();
  for (const pid of more) process.kill(pid, 'SIGKILL');
  await eventually('no process of the home is left', 240_000, async () => {
    let left = 0;
    for (const entry of await readdir('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      const words = (await readFile(`/proc/${entry}/cmdline`, 'latin1').catch(() => '')).split('\0');
      if (!words.some((word) => word.startsWith(home))) continue;
      left += 1;
      killed.add(
        words
          .map((word) => /(?:dist\/(\w+)\/[\w-]+|bin\/(\w+))\.js$/.exec(word)?.slice(1).join(''))
          .find((name) => name !== undefined) ?? '?',
      );
      try {
        process.kill(Number(entry), 'SIGKILL');
      } catch {
        // it was faster
      }
    }
    return left === 0 ? true : undefined;
  });
  return [...killed].sort();
};

/** Where the session's keys lie in memory. */
export const sessionFolderOf = async (home: string): Promise<string> =>
  path.dirname(await readlink(path.join(home, 'run', 'session.json')));

/** What a home holds that never held anybody, but for sockets and logs; a file that removal forgets is one more. */
export const expectNobody = async (home: string): Promise<void> => {
  const left = (await namesBelow(home)).filter((name) => !/^(cache|objects)\//.test(name)).sort();
  const may =
    /^(agent\.lock|supervisor\.lock|cache|objects|trust|machines|uploads|exports|private|log|run|log\/\w+\.log|run\/agent\.sock)$/;
  expect(left.filter((name) => !may.test(name))).toEqual([]);
  for (const name of left.filter((each) => each.startsWith('log/')))
    expect([name, await readFile(path.join(home, name), 'utf8')]).toEqual([name, '']);
};

/** A folder that goes while it is read is not there. */
const namesBelow = async (home: string): Promise<readonly string[]> =>
  eventually('the home can be read', 60_000, async () =>
    readdir(home, { recursive: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    }),
  );

/** Every secret of the session, as it is and as it is written. */
export const secretsOf = async (home: string): Promise<readonly (string | Buffer)[]> => {
  const session = JSON.parse(await readFile(path.join(home, 'run', 'session.json'), 'utf8')) as {
    readonly personSecret: string;
    readonly deviceSeed: string;
  };
  const person = derivePersonKeys(Buffer.from(session.personSecret, 'base64url'));
  const seeds = [Buffer.from(session.personSecret, 'base64url'), Buffer.from(session.deviceSeed, 'base64url')];
  const bytes: readonly Buffer[] = [...seeds, person.profileKey, person.diskKey, person.firstEpochSecret];
  return bytes.flatMap((each) => [each, each.toString('base64url'), each.toString('base64'), each.toString('hex')]);
};
