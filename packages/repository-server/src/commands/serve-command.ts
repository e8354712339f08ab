/** `serve DIR`: runs until SIGINT or SIGTERM. Prints one line when it listens; logs go to stderr as JSON lines. */
import { resolve } from 'node:path';
import { type Command } from 'commander';
import { CollectiveError } from '@collective/shared';
import { type FastifyBaseLogger } from 'fastify';
import { pino } from 'pino';
import { systemClock } from '../clock.js';
import { parseSeconds } from '../duration.js';
import { DEFAULT_LIMITS } from '../limits.js';
import { runPeriodically, type PeriodicCommand } from '../periodic-command.js';
import { parseOrigin } from '../repository/settings.js';
import { startServer } from '../server.js';
import { type CommonOptions, print } from './command-io.js';

type ServeFlags = CommonOptions & {
  readonly listen: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly publicUrl?: string;
  readonly insecureHttp?: true;
  readonly behindProxy?: string;
  readonly logLevel: string;
  readonly collectEvery: string;
  readonly grace?: string;
};

const TIMER_SECONDS_MAX = 2_000_000;
const COLLECT_NICENESS = 10;
const PACK_EVERY_MS = 600_000;
/** Nobody waits for it, and it takes a processor for some seconds. */
const PACK_NICENESS = 19;

const LOG_LEVELS = ['silent', 'error', 'warn', 'info', 'debug'];

export const addServeCommand = (program: Command): void => {
  program
    .command('serve')
    .description('serve a repository')
    .argument('<dir>', 'folder made by init')
    .option('--listen <host:port>', 'address; port 0 takes a free one', '127.0.0.1:8470')
    .option('--tls-cert <file>', 'certificate chain, PEM')
    .option('--tls-key <file>', 'private key, PEM')
    .option('--public-url <url>', 'where people reach the server, when that is not where it listens')
    .option('--insecure-http', 'allow HTTP beyond loopback (only behind a proxy that has TLS)')
    .option(
      '--behind-proxy <address>',
      'IP address of a proxy in front, which is believed when it says who asks (X-Forwarded-For)',
    )
    .option(
      '--collect-every <time>',
      'how often what no version names is deleted (as gc does): 1d, 12h; 0s: never',
      '1d',
    )
    .option('--grace <time>', 'how long what is withdrawn or deleted keeps its blocks (default: as set by retention)')
    .option('--log-level <level>', LOG_LEVELS.join(', '), 'info')
    .option('--json', 'print JSON')
    .action(async (dir: string, flags: ServeFlags) => {
      const tls = tlsFlags(flags);
      if (!LOG_LEVELS.includes(flags.logLevel))
        throw new CollectiveError('usage', `${flags.logLevel} is not a log level`);
      const collectSeconds = parseSeconds(flags.collectEvery);
      if (flags.grace !== undefined) parseSeconds(flags.grace);
      if (collectSeconds > TIMER_SECONDS_MAX)
        throw new CollectiveError('usage', `--collect-every ${flags.collectEvery}: at most ${TIMER_SECONDS_MAX} s`);
      const logger = pino({ level: flags.logLevel, base: null }, pino.destination({ dest: 2, sync: true }));
      const server = await startServer({
        folder: resolve(dir),
        ...parseListen(flags.listen),
        ...(tls === undefined ? {} : { tls }),
        ...(flags.publicUrl === undefined ? {} : { origin: parseOrigin(flags.publicUrl) }),
        insecureHttp: flags.insecureHttp === true,
        ...(flags.behindProxy === undefined ? {} : { proxyAddress: flags.behindProxy }),
        limits: DEFAULT_LIMITS,
        clock: systemClock,
        logger,
      });
      // Before the line that says it is ready: whoever reads it may send a signal at once.
      const stopped = untilSignal();
      const collector = startCollector(resolve(dir), { collectSeconds, grace: flags.grace, logger });
      print(flags, { origin: server.origin, joinLink: server.joinLink, pid: process.pid }, [
        `Serving ${resolve(dir)} at ${server.origin}`,
        `Join link without an invitation: ${server.joinLink}`,
      ]);
      const packer = startPacking(resolve(dir), logger);
      await stopped;
      await Promise.all([collector?.stop(), packer?.stop()]);
      await server.close();
    });
};

const startPacking = (folder: string, logger: FastifyBaseLogger): PeriodicCommand | undefined => {
  const [, program] = process.argv;
  if (program === undefined) return undefined;
  return runPeriodically([process.execPath, program, 'pack-boots', folder, '--json'], {
    what: 'packing what boots read',
    everyMs: PACK_EVERY_MS,
    niceness: PACK_NICENESS,
    logger,
  });
};

const startCollector = (
  folder: string,
  options: { readonly collectSeconds: number; readonly grace: string | undefined; readonly logger: FastifyBaseLogger },
): PeriodicCommand | undefined => {
  const [, program] = process.argv;
  if (options.collectSeconds === 0 || program === undefined) return undefined;
  const grace = options.grace === undefined ? [] : ['--grace', options.grace];
  const words = [program, 'gc', folder, ...grace, '--json'];
  const everyMs = options.collectSeconds * 1_000;
  return runPeriodically([process.execPath, ...words], {
    what: 'collecting garbage',
    everyMs,
    niceness: COLLECT_NICENESS,
    logger: options.logger,
  });
};

const tlsFlags = ({
  tlsCert,
  tlsKey,
}: ServeFlags): { readonly certificate: string; readonly key: string } | undefined => {
  if (tlsCert !== undefined && tlsKey !== undefined) return { certificate: tlsCert, key: tlsKey };
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  throw new CollectiveError('usage', '--tls-cert and --tls-key go together');
};

/** `host:port`, `[ipv6]:port`. */
export const parseListen = (text: string): { readonly host: string; readonly port: number } => {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || Number(port) > 65_535) {
    throw new CollectiveError('usage', `${text} is not an address like 127.0.0.1:8470 or [::1]:8470`);
  }
  return { host, port: Number(port) };
};

const untilSignal = (): Promise<void> =>
  new Promise((resolveStop) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolveStop());
  });
