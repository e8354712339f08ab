/** Where the built program is that serves a raw file, or an overlay over it, by NBD. */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

export const SERVE_FILE = join(
  dirname(createRequire(import.meta.url).resolve('@collective/transceiver')),
  'blockd/nbd/serve-file.js',
);
