/** A kept disk of a stopped machine as it lies here, read from outside: by the block daemon that runs, and nbdcopy. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { CollectiveError, deriveEpochKeys, derivePersonKeys, type PersonKeys } from '@collective/shared';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { eventually } from '../support/eventually.js';

const LET_GO_MS = 400_000;

type KeptDisk = {
  readonly name: string;
  readonly version: number;
  readonly diskBytes: number;
  readonly blockBytes: number;
  readonly root: string | null;
};

/**
 * Writes what the disk holds into the sparse `file`: its layers over what the backup has committed of it. Waits until the backup has
 * let go of the disk. The person is logged in.
 */
export const readKeptDisk = async (
  home: string,
  what: { readonly machine: string; readonly appliance: string; readonly disk: string; readonly file: string },
): Promise<void> => {
  const machine = path.join(home, 'machines', what.machine);
  const { disks } = JSON.parse(await readFile(path.join(machine, 'subscription.json'), 'utf8')) as {
    readonly disks: readonly KeptDisk[];
  };
  const disk = disks.find(({ name }) => name === what.disk);
  if (disk === undefined) throw new Error(`no kept disk ${what.disk}`);
  const { name, version, diskBytes, blockBytes, root } = disk;
  const socket = `${what.file}.sock`;
  const client = await ControlClient.connect(path.join(home, 'run/blockd.sock'), { waitMs: 30_000 });
  const person = await loggedIn(home);
  const diskKey = person.diskKey.toString('base64url');
  const { blockNameKey, chunkKey } = deriveEpochKeys(person.firstEpochSecret);
  const [nameKey, key] = [blockNameKey.toString('base64url'), chunkKey.toString('base64url')];
  const attach = async (): Promise<void> => {
    await client.request('attach', {
      session: 'kills-check',
      disk: name,
      source:
        root === null
          ? { kind: 'zero', diskBytes }
          : {
              kind: 'published',
              ...{ appliance: what.appliance, version, diskBytes, blockBytes, root },
              map: path.join(machine, 'maps', root),
            },
      overlay: { path: path.join(machine, 'overlays', name), mode: 'persistent', fresh: false, key: diskKey },
      diskKey,
      blockKeys: [{ epoch: 1, blockNameKey: nameKey, chunkKey: key }],
      waitMs: 60_000,
      listen: { path: socket },
    });
  };
  try {
    await eventually(`the backup lets go of disk ${name}`, LET_GO_MS, async () =>
      attach().then(
        () => true,
        (error: unknown) => {
          if (error instanceof CollectiveError && error.code === 'in-use') return undefined;
          throw error;
        },
      ),
    );
    await runOrThrow('nbdcopy', [`nbd+unix:///${name}?socket=${socket}`, what.file], { timeoutMs: 600_000 });
    await client.request('detach', { session: 'kills-check' });
  } finally {
    client.close();
  }
};

/** The keys of the person who is logged in, from what a restarted agent would find. */
const loggedIn = async (home: string): Promise<PersonKeys> => {
  const session = await readFile(path.join(home, 'run/session.json'), 'utf8');
  const { personSecret } = JSON.parse(session) as { readonly personSecret: string };
  return derivePersonKeys(Buffer.from(personSecret, 'base64url'));
};
