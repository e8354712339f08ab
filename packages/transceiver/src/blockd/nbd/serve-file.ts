/**
 * Serves a raw file, or an overlay over it, by NBD on a unix socket, for tests and benchmarks:
 *
 *   node serve-file.js --file RAW --socket PATH [--writable | --overlay FOLDER]
 *
 * Prints "ready" when clients can connect and ends on SIGTERM or SIGINT. Exit code 1 with the error's code when it cannot.
 */
import { parseArgs } from 'node:util';
import { CollectiveError } from '@collective/shared';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import type { BlockDevice } from '../block-device.js';
import { FileDevice } from '../file-device.js';
import { Overlay } from '../overlay/overlay.js';
import { NbdExport } from './nbd-export.js';
import { NbdServer } from './nbd-server.js';

const main = async (): Promise<void> => {
  const { values } = parseArgs({
    options: {
      file: { type: 'string' },
      socket: { type: 'string' },
      writable: { type: 'boolean', default: false },
      overlay: { type: 'string' },
    },
  });
  if (values.file === undefined || values.socket === undefined) {
    throw new CollectiveError('usage', '--file and --socket are needed');
  }
  const fileSystem = new LocalFileSystem();
  const file = await FileDevice.open(fileSystem, values.file, { readOnly: !values.writable });
  const devices: BlockDevice[] = [file];
  if (values.overlay !== undefined) devices.unshift(await Overlay.open(fileSystem, values.overlay, file));
  const server = await NbdServer.open({
    listen: { path: values.socket },
    exports: [new NbdExport({ name: 'disk', device: devices[0] ?? file })],
    failed: (error) => console.error(error),
  });
  console.log('ready');
  const stop = async (): Promise<void> => {
    await server.close();
    for (const device of devices) await device.close();
    process.exit(0);
  };
  process.once('SIGTERM', () => void stop());
  process.once('SIGINT', () => void stop());
};

try {
  await main();
} catch (error) {
  console.error(error instanceof CollectiveError ? `${error.code}: ${error.message}` : error);
  process.exit(1);
}
