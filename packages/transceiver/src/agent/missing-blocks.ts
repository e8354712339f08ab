/** Asks the block daemon which of many blocks it has, by a file that it reads. */
import { randomBytes } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import type { BlockCount, BlockList } from './machine-port.js';

const BLOCKD_START_MS = 20_000;

/** Undefined: there is no block daemon, and none may be started. Errors: those of blockd's `missing`, `local-io`. */
export async function missingBlocks(
  home: Home,
  lists: readonly BlockList[],
  { mayStart }: { readonly mayStart: boolean },
): Promise<readonly BlockCount[] | undefined> {
  if (mayStart) (await SupervisorClient.open(home)).close(); // which starts the block daemon
  const client = await ControlClient.connect(home.blockdSocket, mayStart ? { waitMs: BLOCKD_START_MS } : {}).catch(
    (error: unknown) => {
      if (mayStart) throw error;
      return undefined;
    },
  );
  if (client === undefined) return undefined;
  try {
    return await withListFile(home, async (file) => {
      const counts: BlockCount[] = [];
      for (const list of lists) counts.push(await client.request('missing', await file(list)));
      return counts;
    });
  } finally {
    client.close();
  }
}

/** Those of a list that are not in the cache, in its order. Errors: those of blockd's `missing`, `local-io`. */
export async function listMissing(
  home: Pick<Home, 'directory'>,
  list: BlockList,
  client: Pick<ControlClient, 'request'>,
): Promise<Buffer> {
  return withListFile(home, async (file) => {
    const asked = await file(list);
    const answer = `${asked.path}.answer`;
    try {
      await client.request('missing', { ...asked, answer });
      return await readFile(answer);
    } finally {
      await rm(answer, { force: true });
    }
  });
}

/** `work` with a file that blockd reads: `file` puts a list into it and gives the request's parameters. */
export async function withListFile<T>(
  home: Pick<Home, 'directory'>,
  work: (file: (list: BlockList) => Promise<{ readonly blockBytes: number; readonly path: string }>) => Promise<T>,
): Promise<T> {
  const path = join(home.directory, 'run', `blocks-${randomBytes(6).toString('hex')}`);
  try {
    return await work(async ({ blockBytes, digests }) => {
      await writeFile(path, digests, { mode: 0o600 });
      return { blockBytes, path };
    });
  } finally {
    await rm(path, { force: true });
  }
}
