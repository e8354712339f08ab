/**
 * `npm run bench -- publish`: how fast a new image is published, and how much travels when the same image comes again after
 * one small package was installed inside it, beside rsync of the raw file. Bytes are counted on the wire, by a proxy
 * between agent and server; rsync's are its own statistics over a local pipe.
 */
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { runOrThrow } from '../../support/child.js';
import { Person, Repository, repositoryCommand } from '../../support/collective.js';
import { BUILD, ROOT } from '../../support/paths.js';
import {
  atMost,
  describeMachine,
  informs,
  interval,
  median,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { CountingProxy } from './counting-proxy.js';
import { installPackages } from './install-package.js';

const NAME = 'debian-server';
const PACKAGE = 'tree';
const numberOf = (record: Readonly<Record<string, unknown>>, name: string): number => {
  const value = record[name];
  if (typeof value !== 'number') throw new Error(`no number ${name} in ${JSON.stringify(record)}`);
  return value;
};

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const images = path.join(BUILD, 'images', NAME);
  options.log('building the appliance (quick when nothing changed)');
  await runOrThrow('bash', [path.join(ROOT, 'images', NAME, 'build.sh'), images], { timeoutMs: 1_800_000 });
  await mkdir(path.join(BUILD, 'bench'), { recursive: true });
  const folder = await mkdtemp(path.join(BUILD, 'bench', 'publish-'));
  try {
    const changed = path.join(folder, 'system.raw');
    await copySparse(path.join(images, 'system.raw'), changed);
    options.log(`installing ${PACKAGE} inside a copy of it`);
    const { debBytes } = await installPackages({
      system: changed,
      user: path.join(images, 'user.raw'),
      packageNames: [PACKAGE],
    });
    const news: number[] = [];
    const rsyncNews: number[] = [];
    let last: Round | undefined;
    for (let round = 0; round < (options.quick ? 1 : 3); round += 1) {
      options.log(`round ${String(round + 1)}: a new image, then the changed one`);
      last = await publishRound(folder, images, changed);
      news.push(last.usedBytes / 1e6 / last.newSeconds);
      rsyncNews.push(
        last.usedBytes /
          1e6 /
          (await rsync(path.join(images, 'system.raw'), path.join(folder, 'copy-new.raw'))).seconds,
      );
      await rm(path.join(folder, 'copy-new.raw'));
    }
    if (last === undefined) throw new Error('no round');
    const copy = path.join(folder, 'copy.raw');
    await copySparse(path.join(images, 'system.raw'), copy);
    const rsynced = await rsync(changed, copy);
    const { usedBytes, changedBytes } = last;
    return {
      bench: 'publish',
      machine: describeMachine(),
      cases: [
        informs(
          'new image',
          median(news),
          'MB/s',
          `of used bytes, ${(usedBytes / 1e6).toFixed(0)} MB used: ${interval(news, 0)}; ${(last.newBytes / 1e6).toFixed(0)} MB sent`,
        ),
        informs(
          'new image, rsync of the raw file',
          median(rsyncNews),
          'MB/s',
          `of used bytes, uncompressed, to a local file: ${interval(rsyncNews, 0)}`,
        ),
        atMost('one package installed: sent and fetched / used bytes', changedBytes / usedBytes, 0.05, {
          unit: '',
          note: `${(last.changedSent / 1e6).toFixed(2)} MB sent, ${(last.changedFetched / 1e6).toFixed(2)} MB fetched, ${String(last.changedBlocks)} blocks, ${last.changedSeconds.toFixed(1)} s; package of ${(debBytes / 1e3).toFixed(0)} kB`,
        }),
        informs(
          'one package installed, rsync: sent and received / used bytes',
          rsynced.bytes / usedBytes,
          '',
          `${(rsynced.bytes / 1e6).toFixed(2)} MB, ${rsynced.seconds.toFixed(1)} s`,
        ),
      ],
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

type Round = {
  readonly usedBytes: number;
  readonly newSeconds: number;
  readonly newBytes: number;
  readonly changedBytes: number;
  readonly changedSent: number;
  readonly changedFetched: number;
  readonly changedBlocks: number;
  readonly changedSeconds: number;
};

/** A fresh repository and a fresh home; only the system disk, which is what a publisher changes. */
const publishRound = async (folder: string, images: string, changed: string): Promise<Round> => {
  const repositoryFolder = path.join(folder, 'repository');
  const home = path.join(folder, 'home');
  try {
    await repositoryCommand(['init', repositoryFolder]);
    await using repository = await Repository.serve(repositoryFolder);
    await using proxy = await CountingProxy.before(repository.port);
    await using person = Person.at(home);
    await person.login(await repository.invite('pat', 'publisher', { throughPort: proxy.port }), 'pat');
    await repository.allow('pat', NAME);
    const publish = async (file: string): Promise<Readonly<Record<string, unknown>>> =>
      person.json(['publish', NAME, '--disk', `system=${file}`, '--no-boot-test'], { timeoutMs: 900_000 });
    const start = proxy.bytes;
    const first = await publish(path.join(images, 'system.raw'));
    const middle = proxy.bytes;
    const second = await publish(changed);
    const end = proxy.bytes;
    return {
      usedBytes: numberOf(first, 'usedBytes'),
      newSeconds: numberOf(first, 'seconds'),
      newBytes: middle.toServer - start.toServer,
      changedSent: end.toServer - middle.toServer,
      changedFetched: end.toClient - middle.toClient,
      changedBytes: end.toServer - middle.toServer + end.toClient - middle.toClient,
      changedBlocks: numberOf(second, 'changedBlocks'),
      changedSeconds: numberOf(second, 'seconds'),
    };
  } finally {
    await rm(repositoryFolder, { recursive: true, force: true });
    await rm(home, { recursive: true, force: true });
  }
};

const rsync = async (from: string, to: string): Promise<{ readonly bytes: number; readonly seconds: number }> => {
  await stat(from);
  const beganAt = performance.now();
  const { stdout } = await runOrThrow('rsync', ['--inplace', '--no-whole-file', '--stats', from, to], {
    timeoutMs: 900_000,
  });
  const seconds = (performance.now() - beganAt) / 1000;
  const figure = (label: string): number =>
    Number(new RegExp(`${label}: ([\\d,.]+)`).exec(stdout)?.[1]?.replace(/[,.]/g, '') ?? Number.NaN);
  return { bytes: figure('Total bytes sent') + figure('Total bytes received'), seconds };
};

const copySparse = async (from: string, to: string): Promise<void> => {
  await runOrThrow('cp', ['--sparse=always', '--reflink=auto', from, to]);
};
