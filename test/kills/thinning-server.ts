/**
 * The repository server with its own code and another retention: what is older than a quarter of a minute is thinned to one snapshot in
 * ten seconds, at each commit, so that a test of minutes sees what otherwise takes days. Called as `collective-repository serve`.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_LIMITS, startServer, systemClock } from '@collective/repository-server';

const RETENTION = { steps: [{ ageSeconds: 15, everySeconds: 0 }], everySecondsThen: 10, newestCount: 3 };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { listen: { type: 'string' }, 'log-level': { type: 'string' }, json: { type: 'boolean' } },
});
const [, folder] = positionals;
const [host, port] = (values.listen ?? '').split(':');
if (folder === undefined || host === undefined || port === undefined)
  throw new Error('serve FOLDER --listen HOST:PORT');
const { origin } = await startServer({
  folder: path.resolve(folder),
  host,
  port: Number(port),
  insecureHttp: false,
  limits: { ...DEFAULT_LIMITS, retention: RETENTION },
  clock: systemClock,
});
console.log(JSON.stringify({ origin }));
