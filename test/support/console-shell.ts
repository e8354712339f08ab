/** Commands in a guest that has no guest agent, by its serial console and the command line: for the tiny appliance, which has a root shell there. */
import type { Child } from './child.js';
import type { Person } from './collective.js';
import { eventually } from './eventually.js';

/** A prompt of the guest's shell, asked for: a supervisor that has just taken the machine over knows nothing of before, or has no console yet. */
const prompt = async (person: Person, machine: string, timeoutMs: number): Promise<Child> =>
  eventually(`the console of ${machine} shows a prompt`, timeoutMs, async () => {
    const console = person.spawn(['console', machine]);
    console.process.stdin?.on('error', () => undefined);
    console.process.stdin?.write('\n');
    try {
      await console.waitFor(/tiny# /, timeoutMs);
      return console;
    } catch {
      await console.stop();
      return undefined;
    }
  });

/** Types a command in the guest's shell and waits for what it prints; the pattern must not be in the command. */
export const onConsole = async (
  person: Person,
  machine: string,
  { command, expected, timeoutMs = 180_000 }: { command: string; expected: RegExp; timeoutMs?: number },
): Promise<void> => {
  await using console = await prompt(person, machine, 180_000);
  console.process.stdin?.write(`${command}\n`);
  await console.waitFor(expected, timeoutMs);
};

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
    await using console = await prompt(this.#person, this.#machine, timeoutMs);
    const typed = `{ ${command}; } >/tmp/said 2>&1; echo "<$(cat /tmp/said)>${mark.replace('-', '""-')}"`;
    console.process.stdin?.write(`${typed}\n`);
    const [, text = ''] = await console.waitFor(new RegExp(`<([^<>]*)>${mark}\\b`), timeoutMs);
    return text.trim();
  }
}
