/**
 * Serves a raw file over NBD on a unix socket, for tests and benchmarks:
 *
 *   node serve-file.js --file RAW --socket PATH [--writable]
 *
 * Prints "ready" when clients can connect and ends on SIGTERM or SIGINT.
 */
import { parseArgs } from 'node:util';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { FileDevice } from '../file-device.js';
import { NbdExport } from './nbd-export.js';
import { NbdServer } from './nbd-server.js';

const main = async (): Promise<void> => {
  const { values } = parseArgs({
    options: { file: { type: 'string' }, socket: { type: 'string' }, writable: { type: 'boolean', default: false } },
  });
  if (values.file === undefined || values.socket === undefined) throw new Error('--file and --socket are needed');
  const fileSystem = new LocalFileSystem();
  const device = await FileDevice.open(fileSystem, values.file, { readOnly: !values.writable });
  const server = await NbdServer.open({
    listen: { path: values.socket },
    exports: [new NbdExport({ name: 'disk', device })],
    failed: (error) => console.error(error),
  });
  console.log('ready');
  const stop = (): void => {
    void server
      .close()
      .then(() => device.close())
      .then(() => process.exit(0));
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
};

await main();
