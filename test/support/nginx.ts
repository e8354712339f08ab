/**
 * Debian's nginx (scripts/unpack-nginx.sh) with the site that docs/operating-repository.md shows for it, read from there: what is tried and measured is
 * what people are told to write. Only what depends on a machine is replaced: folder, addresses and certificate.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Child } from './child.js';
import { freePort } from './link.js';
import { BUILD, ROOT } from './paths.js';

const PROGRAMS = [path.join(BUILD, 'nginx/usr/sbin/nginx'), '/usr/sbin/nginx'];
const DOCUMENT = path.join(ROOT, 'docs/operating-repository.md');

export type SiteOptions = {
  /** Of the repository. */
  readonly folder: string;
  /** Where its server listens. */
  readonly serverPort: number;
  /** PEM files. Without them both nginx and the server speak plain HTTP. */
  readonly tls?: { readonly certificate: string; readonly key: string };
};

export type NginxOptions = SiteOptions & {
  /** A free one by default. */
  readonly port?: number;
  /** Whom its workers run as, where it is started by root. */
  readonly user?: string;
};

/** The text with every `from` replaced; the document must have it. */
const replaced = (text: string, from: string | RegExp, to: string): string => {
  const changed = text.replaceAll(typeof from === 'string' ? from : new RegExp(from, 'gm'), to);
  if (changed === text) throw new Error(`${DOCUMENT}: its nginx configuration has no ${String(from)}`);
  return changed;
};

const siteOf = async ({ folder, serverPort, tls }: SiteOptions, port: number): Promise<string> => {
  const [, documented] = /^```nginx\n(.*?)^```$/ms.exec(await readFile(DOCUMENT, 'utf8')) ?? [];
  if (documented === undefined) throw new Error(`${DOCUMENT} shows no nginx configuration`);
  let site = replaced(documented, '/srv/collective/', `${folder}/`);
  site = replaced(site, '127.0.0.1:8471', `127.0.0.1:${serverPort}`);
  site = replaced(site, 'listen 8470 ssl;', `listen 127.0.0.1:${port}${tls === undefined ? '' : ' ssl'};`);
  if (tls === undefined) {
    site = replaced(site, /^ *ssl_.*\n/, '');
    return replaced(site, 'https://collective', 'http://collective');
  }
  site = replaced(site, '/etc/collective/cert.pem', tls.certificate);
  return replaced(site, '/etc/collective/key.pem', tls.key);
};

/** What Debian's nginx.conf says around a site, with every file in one folder. */
const mainOf = (folder: string, user: string | undefined, site: string): string =>
  [
    ...(process.getuid?.() === 0 ? [`user ${user ?? 'root'};`] : []),
    'daemon off;',
    'worker_processes auto;',
    `pid ${folder}/pid;`,
    'error_log stderr notice;',
    'events { worker_connections 4096; }',
    'http {',
    ...['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${folder}/${kind};`),
    `access_log ${folder}/access.log;`,
    site,
    '}',
  ].join('\n');

export class Nginx implements AsyncDisposable {
  readonly port: number;
  readonly #child: Child;
  readonly #folder: string;

  private constructor(port: number, child: Child, folder: string) {
    this.port = port;
    this.#child = child;
    this.#folder = folder;
  }

  static async open(options: NginxOptions): Promise<Nginx> {
    const program = PROGRAMS.find((file) => existsSync(file));
    if (program === undefined) throw new Error('there is no nginx: run scripts/unpack-nginx.sh');
    const folder = await mkdtemp(path.join(os.tmpdir(), 'nginx-'));
    const port = options.port ?? (await freePort());
    const file = path.join(folder, 'nginx.conf');
    await writeFile(file, mainOf(folder, options.user, await siteOf(options, port)));
    const child = new Child('nginx', program, ['-e', 'stderr', '-c', file]);
    await child.waitFor(/start worker process/, 20_000);
    return new Nginx(port, child, folder);
  }

  /** Of its master, whose children the workers are. */
  get pid(): number {
    return this.#child.process.pid ?? 0;
  }

  /** What it has said of its own failures so far. */
  get complaints(): string {
    return this.#child.stderr.replaceAll(/^.*\[(notice|info)\].*\n/gm, '');
  }

  /** Paths of the requests that it logs, oldest first: those that it has passed on. */
  async logged(): Promise<string[]> {
    const text = await readFile(path.join(this.#folder, 'access.log'), 'utf8');
    return [...text.matchAll(/"[A-Z]+ ([^ "]*) HTTP/g)].map(([, target = '']) => target);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stop('SIGTERM', 5_000);
    await rm(this.#folder, { recursive: true, force: true });
  }
}
