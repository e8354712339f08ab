/** The processes that are killed: found by their command lines, ended with kill -9, and waited for until they are back. */
import { readdir, readFile } from 'node:fs/promises';
import { identifyProcess } from '@collective/transceiver';
import type { Person, Repository } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import type { Victim } from './kill-plan.js';

const BACK_MS = 120_000;

const PROGRAMS = {
  blockd: 'dist/blockd/main.js',
  supervisor: 'dist/supervisor/main.js',
  agent: 'bin/collective.js\0agent',
} as const;

export class Victims {
  readonly #person: Person;
  readonly #repository: Repository;

  constructor(person: Person, repository: Repository) {
    this.#person = person;
    this.#repository = repository;
  }

  /** Undefined while there is none. */
  async pid(victim: Victim): Promise<number | undefined> {
    if (victim === 'server') return this.#repository.process.running ? this.#repository.process.process.pid : undefined;
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
      if (line.includes(PROGRAMS[victim]) && line.split('\0').includes(this.#person.home)) {
        // A zombie has no command line; one that is just going is not identified any more.
        if ((await identifyProcess(Number(name))) !== undefined) return Number(name);
      }
    }
    return undefined;
  }

  /**
   * kill -9 for all of them at once; resolves when each runs again under another id. What nobody else starts again is
   * started here: the server, and the agent by the next command that a person types.
   */
  async kill(victims: readonly Victim[]): Promise<void> {
    const killed = await Promise.all(
      victims.map(async (victim) => ({
        victim,
        pid: await eventually(`a ${victim} to kill`, BACK_MS, async () => this.pid(victim)),
      })),
    );
    for (const { pid } of killed) process.kill(pid, 'SIGKILL');
    if (victims.includes('server')) await this.#repository.restart();
    if (victims.includes('agent'))
      // On a machine that is very busy it may not be ready in the time that a command waits for it, and says to try again.
      await eventually('a command is answered', BACK_MS, async () =>
        (await this.#person.run(['appliances', '--json'])).code === 0 ? true : undefined,
      );
    for (const { victim, pid } of killed)
      await eventually(`${victim} is back`, BACK_MS, async () => {
        const now = await this.pid(victim);
        return now !== undefined && now !== pid ? true : undefined;
      });
  }
}
