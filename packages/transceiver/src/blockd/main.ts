/**
 * The blockd process:
 *
 *   node main.js --home DIR [--cache-bytes-max N] [--cache-reserve-bytes N] [--private-bytes-max N]
 *
 * Takes the lock of DIR/cache and listens on DIR/run/blockd.sock (control/control-protocol.ts). Prints "blockd ready" on standard
 * error when it does. A parent that forked it with an IPC channel may hand over listening sockets; its death, and the
 * end of the standard streams, change nothing. SIGTERM and SIGINT flush and close in order; kill -9 loses no acknowledged write.
 *
 * Exit codes: 0 after SIGTERM or `shutdown`, 1 after a failure, 2 for wrong arguments, 3 when another blockd has the lock.
 */
import net from 'node:net';
import { parseArgs } from 'node:util';
import { CollectiveError, hasCode } from '@collective/shared';
import { LocalFileSystem } from '../storage/local-file-system.js';
import { takeShortTurns } from '../work/short-turns.js';
import { Blockd } from './blockd.js';
import { ControlServer } from './control/control-server.js';
import { keepEarlyConnections } from './control/handed-listener.js';

const CACHE_BYTES_MAX_DEFAULT = 64 * 2 ** 30;
const CACHE_RESERVE_BYTES_DEFAULT = 2 ** 30;
const PRIVATE_BYTES_MAX_DEFAULT = 32 * 2 ** 30;
const CLOSE_MS = 20_000;

type Arguments = {
  readonly home: string;
  readonly cacheBytesMax: number;
  readonly reserveBytes: number;
  /** Of the cache of private blocks, DIR/private. */
  readonly privateBytesMax: number;
};

const readArguments = (): Arguments => {
  const { values } = parseArgs({
    options: {
      home: { type: 'string' },
      'cache-bytes-max': { type: 'string' },
      'cache-reserve-bytes': { type: 'string' },
      'private-bytes-max': { type: 'string' },
    },
  });
  const bytes = (text: string | undefined, byDefault: number): number => {
    const value = text === undefined ? byDefault : Number(text);
    if (!Number.isSafeInteger(value) || value < 0)
      throw new CollectiveError('usage', `${text ?? ''} is not a number of bytes`);
    return value;
  };
  if (values.home === undefined || !values.home.startsWith('/'))
    throw new CollectiveError('usage', '--home DIR (an absolute path) is needed');
  return {
    home: values.home,
    cacheBytesMax: bytes(values['cache-bytes-max'], CACHE_BYTES_MAX_DEFAULT),
    reserveBytes: bytes(values['cache-reserve-bytes'], CACHE_RESERVE_BYTES_DEFAULT),
    privateBytesMax: bytes(values['private-bytes-max'], PRIVATE_BYTES_MAX_DEFAULT),
  };
};

const survive = (): void => {
  // Whoever started us may be gone: nobody reads what we say, and that is no reason to end.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
  process.on('SIGHUP', () => undefined);
  process.on('disconnect', () => undefined);
};

const run = async ({ home, cacheBytesMax, reserveBytes, privateBytesMax }: Arguments): Promise<void> => {
  const fileSystem = new LocalFileSystem();
  const cacheFolder = `${home}/cache`;
  const runFolder = `${home}/run`;
  for (const folder of [home, cacheFolder, runFolder]) await fileSystem.makeFolder(folder);
  const lock = await fileSystem.lock(`${cacheFolder}/lock`);

  const blockd = new Blockd({
    fileSystem,
    cacheFolder,
    cache: { cacheBytesMax, reserveBytes },
    privateFolder: `${home}/private`,
    privateCache: { cacheBytesMax: privateBytesMax, reserveBytes },
    onEvent: (event) => control.broadcast(event),
    onDeath: (error) => {
      console.error('blockd: the fetching thread has died:', error);
      process.exit(1);
    },
  });

  let ending: Promise<void> | undefined;
  const end = (): Promise<void> => {
    ending ??= (async () => {
      const timer = setTimeout(() => process.exit(1), CLOSE_MS);
      let exitCode = 0;
      try {
        await blockd.close();
      } catch (error) {
        console.error('blockd:', error);
        exitCode = 1;
      }
      await control.close();
      await lock.release();
      clearTimeout(timer);
      process.exit(exitCode);
    })();
    return ending;
  };

  const control = await ControlServer.open(`${runFolder}/blockd.sock`, async (request, connection) => {
    if (request.method === 'events') {
      connection.wantEvents();
      return {};
    }
    if (request.method === 'shutdown') {
      if (blockd.diskCount > 0) throw new CollectiveError('in-use', `${blockd.diskCount} disks are attached`);
      setImmediate(() => void end()); // the reply goes out first
      return {};
    }
    return await blockd.handle(request);
  });

  process.on('message', (message: unknown, handle: unknown) => {
    const name: unknown =
      typeof message === 'object' && message !== null ? Reflect.get(message, 'listener') : undefined;
    if (typeof name !== 'string' || !(handle instanceof net.Server)) return;
    keepEarlyConnections(handle);
    blockd.takeHandle(name, handle);
  });
  process.once('disconnect', () => blockd.parentIsGone());
  process.once('SIGTERM', () => void end());
  process.once('SIGINT', () => void end());
  console.error('blockd ready');
};

process.umask(0o077); // a person's files and sockets are nobody else's, wherever the person puts them
survive();
takeShortTurns(); // before the first thread of ours
try {
  await run(readArguments());
} catch (error) {
  console.error('blockd:', error instanceof CollectiveError ? error.message : error);
  process.exit(hasCode(error, 'in-use') ? 3 : hasCode(error, 'usage') || error instanceof TypeError ? 2 : 1);
}
