/** Commands in a guest that has no guest agent, by its serial console and the command line: for the tiny appliance, which has a root shell there. */
import type { Child } from './child.js';
import type { Person } from './collective.js';
import { eventually } from './eventually.js';

export class ConsoleShell {
  readonly #person: Person;
  readonly #machine: string;
  #questions = 0;

  constructor(person: Person, machine: string) {
    this.#person = person;
    this.#machine = machine;
  }

  /** Runs a command and gives what it printed, at most a few lines without `<` and `>`; whatever it ended with. */
  async ask(command: string, { timeoutMs = 120_000 } = {}): Promise<string> {
    this.#questions += 1;
    // The one that was typed does not match: the shell joins it.
    const mark = `answer-${process.pid}-${this.#questions}`;
    // A supervisor that is just being started again has no console yet.
    await using console = await eventually('the console shows a prompt', timeoutMs, async () =>
      this.#prompt(timeoutMs),
    );
    const typed = `{ ${command}; } >/tmp/said 2>&1; echo "<$(cat /tmp/said)>${mark.replace('-', '""-')}"`;
    console.process.stdin?.write(`${typed}\n`);
    const [, text = ''] = await console.waitFor(new RegExp(`<([^<>]*)>${mark}\\b`), timeoutMs);
    return text.trim();
  }
  async #prompt(timeoutMs: number): Promise<Child | undefined> {
    const console = this.#person.spawn(['console', this.#machine]);
    console.process.stdin?.on('error', () => undefined);
    console.process.stdin?.write('\n');
    try {
      await console.waitFor(/tiny# /, timeoutMs);
      return console;
    } catch {
      await console.stop();
      return undefined;
    }
  }
}
