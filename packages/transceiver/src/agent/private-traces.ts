/**
 * The boot traces of a machine's user disks as they lie here, `traces/<disk>.private`: written by the block daemon at the end of a boot or brought with a
 * snapshot, sealed under the disk key of the machine (docs/formats/trace.md).
 */
import { openPrivateTrace, privateTraceKey, sealPrivateTrace } from '@collective/shared';
import type { PrivateTraces } from '../backup/bring-traces.js';
import type { Home } from '../home.js';
import { readIfThere, writeDurably } from '../storage/durable-file.js';
import { chooseDiskKey } from './disk-key-ring.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';

export const privateTracesOf = (
  name: string,
  options: {
    readonly home: Pick<Home, 'machinesDirectory'>;
    readonly session: Pick<Session, 'diskKeys'>;
    readonly log: (text: string) => void;
  },
): PrivateTraces => {
  const { home, session, log } = options;
  const onFailed = (error: unknown): void => log(`${name}: the boot trace of a user disk: ${String(error)}`);
  const find = async (disk: string): Promise<{ readonly path: string; readonly key: Buffer }> => {
    const subscription = await Subscription.open(home.machinesDirectory, name);
    const diskKey = chooseDiskKey(session.diskKeys, await subscription.keyChecks(), `a disk of ${name}`);
    const key = privateTraceKey(Buffer.from(diskKey, 'base64url'));
    return { path: subscription.privateTracePath(disk), key };
  };
  return {
    onFailed,
    read: async (disk) => {
      try {
        const { path, key } = await find(disk);
        const box = await readIfThere(path);
        return box === undefined ? undefined : openPrivateTrace(key, box);
      } catch (error) {
        onFailed(error);
        return undefined;
      }
    },
    write: async (disk, trace) => {
      const { path, key } = await find(disk);
      await writeDurably(path, sealPrivateTrace(key, trace));
    },
  };
};
