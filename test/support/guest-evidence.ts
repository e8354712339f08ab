/**
 * What a guest does that has not come to its login prompt, told while it still runs: a test that fails minutes later finds
 * only a machine that was stopped. QEMU's spare control connection is for those who look (machine-session.ts).
 */
import { createHash } from 'node:crypto';
import { readdir, readFile, realpath } from 'node:fs/promises';
import path from 'node:path';
import { QmpClient } from '@collective/transceiver';

/** A boot takes 15 s, and a minute beside other work. */
const FIRST_LOOK_MS = 120_000;
const NEXT_LOOK_MS = 60_000;
const LOOKS_MAX = 4;
const RUN_FOLDER = '/run/collective';

export class GuestWatch implements Disposable {
  readonly #home: string;
  readonly #status: () => Promise<unknown>;
  readonly #seen: string[] = [];
  #timer: NodeJS.Timeout;

  /** Looks at the guests of this home from the second minute on, until it is disposed of. */
  constructor(home: string, status: () => Promise<unknown>) {
    this.#home = home;
    this.#status = status;
    this.#timer = setTimeout(() => void this.#look(), FIRST_LOOK_MS).unref();
  }

  /** What was seen; empty when the command was quick. */
  get text(): string {
    return this.#seen.join('\n');
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    const at = `-- after ${FIRST_LOOK_MS + this.#seen.length * NEXT_LOOK_MS} ms`;
    const status = await this.#status().then(JSON.stringify, String);
    this.#seen.push(
      [at, status, ...(await guestsOf(this.#home).catch((error: unknown) => [String(error)]))].join('\n'),
    );
    if (this.#seen.length < LOOKS_MAX) this.#timer = setTimeout(() => void this.#look(), NEXT_LOOK_MS).unref();
  }
}

const guestsOf = async (home: string): Promise<string[]> => {
  const name = createHash('sha256')
    .update(await realpath(home))
    .digest('hex')
    .slice(0, 12);
  const folder = path.join(RUN_FOLDER, name);
  const machines = (await readdir(folder)).filter((entry) => entry.startsWith('m-'));
  return await Promise.all(
    machines.map(
      async (machine) =>
        await guestOf(path.join(folder, machine, 'q')).catch((error: unknown) => `${machine}: ${String(error)}`),
    ),
  );
};

/** Its state, where its processors are (twice: do they move?), what it has read, and how much each thread has worked. */
const guestOf = async (own: string): Promise<string> => {
  const qmp = await QmpClient.open(path.join(own, 'qmp2.sock'));
  try {
    const human = async (words: string): Promise<string> =>
      String(await qmp.execute('human-monitor-command', { 'command-line': words }));
    const processors = async (): Promise<string> =>
      (await human('info registers -a'))
        .split('\n')
        .filter((line) => /^(CPU#|[ER]IP)/.test(line))
        .join(' | ');
    const first = await processors();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return [
      await human('info status'),
      first,
      await processors(),
      await human('info blockstats'),
      await human('info chardev'),
      await threadsOf(own),
    ].join('\n');
  } finally {
    qmp.close();
  }
};

/** Name, state and processor time in ticks of each thread of the QEMU whose folder this is. */
const threadsOf = async (own: string): Promise<string> => {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (!line.includes('qemu-system') || !line.includes(path.basename(path.dirname(own)))) continue;
    const threads = await readdir(`/proc/${pid}/task`);
    const told = threads.map(async (thread) => {
      const stat = await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return `${stat.slice(stat.indexOf('('), stat.lastIndexOf(')') + 1)} ${fields[0]} ${Number(fields[11]) + Number(fields[12])}`;
    });
    return (await Promise.all(told)).join(', ');
  }
  return 'no QEMU';
};
