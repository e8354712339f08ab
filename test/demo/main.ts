/**
 * `npm start`: the main job on real input, from nothing. Starts a repository server on loopback, builds and publishes the
 * Debian appliance when that has not been done yet, boots it through the cache to its login prompt, says what was fetched,
 * from where and how fast, and stays up until Ctrl-C. It leaves no process behind; a second run is quick.
 *
 * Everything lies under build/demo (COLLECTIVE_DEMO names another folder); remove that folder to begin anew.
 */
import { randomBytes } from 'node:crypto';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Child } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { BUILD, ROOT } from '../support/paths.js';

const NAME = 'debian-server';
const ACCOUNT = 'demo';
const PORT = Number(process.env['COLLECTIVE_DEMO_PORT'] ?? 8470);
/** For tests of this program: end after the login prompt instead of waiting for Ctrl-C. */
const ONCE = process.argv.includes('--once');

const folder = path.resolve(process.env['COLLECTIVE_DEMO'] ?? path.join(BUILD, 'demo'));
const repositoryFolder = path.join(folder, 'repository');
const passwordFile = path.join(folder, 'password');
const person = Person.at(path.join(folder, 'home'));

const say = (text: string): void => console.log(text);
const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
const numberOf = (record: unknown, name: string): number => {
  const value =
    typeof record === 'object' && record !== null ? (record as Readonly<Record<string, unknown>>)[name] : undefined;
  return typeof value === 'number' ? value : 0;
};

/** Builds the appliance; its script is quick when nothing changed. Returns the folder with the disks. */
const buildAppliance = async (): Promise<string> => {
  const out = path.join(BUILD, 'images', NAME);
  const since = performance.now();
  say(`Building the appliance ${NAME} from Debian's packages (quick when nothing changed) …`);
  const child = new Child('image', 'bash', [path.join(ROOT, 'images', NAME, 'build.sh'), out], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const { code } = await child.exit();
  if (code !== 0) throw new Error('The appliance could not be built; its script said why above.');
  say(`  ${out} (${seconds(since)})`);
  return out;
};

/** What the recipe's output is, so that the next run knows whether it has been published already. */
const imageStamp = async (out: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path.join(out, 'appliance.json')))
    .update(existsSync(path.join(out, '.stamp')) ? await readFile(path.join(out, '.stamp')) : '')
    .digest('hex');

const main = async (stopped: Promise<void>): Promise<void> => {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  if (!existsSync(path.join(repositoryFolder, 'trust', '1'))) {
    say('Making a repository (root keys, heads key, catalogue) …');
    await repositoryCommand(['init', repositoryFolder]);
  }
  const out = await buildAppliance();
  await using repository = await Repository.serve(repositoryFolder, PORT);
  say(`Repository server: http://127.0.0.1:${repository.port}`);

  if (!existsSync(passwordFile)) await writeFile(passwordFile, randomBytes(12).toString('base64url'), { mode: 0o600 });
  const password = await readFile(passwordFile, 'utf8');
  const known = existsSync(path.join(person.home, 'device.json'));
  if (known) await person.json(['login', '--password-stdin'], { input: `${password}\n` });
  else await person.login(await repository.invite(ACCOUNT, 'publisher'), ACCOUNT, password);
  say(`Logged in as ${ACCOUNT} (the password is in ${path.relative(process.cwd(), passwordFile)}).`);

  try {
    const publishedFile = path.join(folder, 'published');
    const stamp = await imageStamp(out);
    if (!existsSync(publishedFile) || (await readFile(publishedFile, 'utf8')) !== stamp) {
      say(`Publishing ${NAME} (it is booted once before it becomes a version) …`);
      await repository.allow(ACCOUNT, NAME);
      const published = await person.json(
        [
          'publish',
          NAME,
          ...['--machine', path.join(out, 'appliance.json')],
          ...['--disk', `system=${path.join(out, 'system.raw')}`],
          ...['--disk', `user=${path.join(out, 'user.raw')}`],
        ],
        { stdio: ['pipe', 'pipe', 'inherit'], timeoutMs: 1_200_000 },
      );
      await writeFile(publishedFile, stamp);
      say(
        `  ${NAME}@${numberOf(published, 'version')}: ${megabytes(numberOf(published, 'sentBytes'))} sent in ${numberOf(published, 'seconds').toFixed(1)} s`,
      );
    }
    await bootAndReport(repository.port);
    if (!ONCE) {
      say('\nIt stays up until Ctrl-C. In another terminal:');
      for (const words of ['status', `console ${NAME}`, `stop ${NAME}`]) {
        say(`  packages/transceiver/bin/collective.js --home ${path.relative(process.cwd(), person.home)} ${words}`);
      }
      await stopped;
    }
  } finally {
    say('\nStopping …');
    await person.run(['stop', '--all'], { timeoutMs: 120_000 });
    await person.end();
  }
};

const bootAndReport = async (port: number): Promise<void> => {
  say(`Starting ${NAME} …`);
  const fetchedBefore = numberOf((await person.json(['status']))['blockd'], 'fetchedBytes');
  const since = performance.now();
  await person.json(['start', NAME, '--wait-for', 'login'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    timeoutMs: 1_200_000,
  });
  const took = seconds(since);
  const blockd = (await person.json(['status']))['blockd'];
  const fetched = numberOf(blockd, 'fetchedBytes');
  say(`\n${NAME} is at its login prompt after ${took}.`);
  const now = fetched - fetchedBefore;
  say(
    `  fetched      ${megabytes(now)} from http://127.0.0.1:${port} by this start${now === 0 ? ': everything was in the cache' : ''}`,
  );
  if (fetchedBefore > 0) say(`               ${megabytes(fetchedBefore)} before it, by the boot test of the version`);
  say(`  from cache   ${numberOf(blockd, 'cacheHits')} reads; not in the cache: ${numberOf(blockd, 'cacheMisses')}`);
  if (numberOf(blockd, 'linkBytesPerSecond') > 0)
    say(`  link         ${megabytes(numberOf(blockd, 'linkBytesPerSecond'))}/s`);
};

const stopped = new Promise<void>((resolve) => {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve());
});

try {
  await main(stopped);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
