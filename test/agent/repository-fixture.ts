/** A fresh repository in a temporary folder with its server, for the tests of the agent. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { RunResult } from '../support/child.js';
import { Repository, repositoryCommand } from '../support/collective.js';

export class RepositoryFixture implements AsyncDisposable {
  readonly folder: string;
  readonly server: Repository;
  readonly adminLink: string;

  private constructor(folder: string, server: Repository, adminLink: string) {
    this.folder = folder;
    this.server = server;
    this.adminLink = adminLink;
  }

  static async open(): Promise<RepositoryFixture> {
    const folder = path.join(await mkdtemp(path.join(os.tmpdir(), 'repository-')), 'r');
    const made = await repositoryCommand(['init', folder]);
    const server = await Repository.serve(folder);
    return new RepositoryFixture(
      folder,
      server,
      String(made['joinLink']).replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${server.port}`),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    await rm(path.dirname(this.folder), { recursive: true, force: true });
  }
}

/** The error that a command printed with --json, and its exit code. */
export const errorOf = (
  result: RunResult,
): { readonly code: string; readonly message: string; readonly hint: string; readonly exitCode: number | null } => {
  const value = JSON.parse(result.stdout) as {
    readonly error?: { readonly code: string; readonly message: string; readonly hint: string };
  };
  if (value.error === undefined) throw new Error(`no error: ${result.stdout}\n${result.stderr}`);
  return { ...value.error, exitCode: result.code };
};
