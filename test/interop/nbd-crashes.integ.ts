/** Clients that die or do not read, and a server that is killed: what was acknowledged is there, nobody else notices. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdFixture, PYTHON, scriptPath, type Serving } from './nbd-fixture.js';

const SERVINGS: readonly Serving[] = [
  { kind: 'overlay', koffi: true },
  { kind: 'overlay', koffi: false },
];

/** Starts a libnbd client that says a line when it is in the middle of its work. */
const startClient = async (words: readonly string[]) => {
  const child = spawn(PYTHON, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  const reader = createInterface({ input: child.stdout });
  const ended = once(child, 'exit');
  const going = new Promise<void>((resolve) => {
    reader.on('line', (line) => {
      lines.push(line);
      resolve();
    });
  });
  await Promise.race([going, ended]);
  return { child, lines, ended, closed: once(reader, 'close') };
};

describe.each(SERVINGS)('served as $kind, koffi $koffi', (serving) => {
  let disk: NbdFixture;
  beforeEach(async () => {
    disk = await NbdFixture.open(serving);
  });
  afterEach(() => disk.close());

  /** Lets a writer work, kills the server in its middle, and returns what the writer had been told. */
  const crash = async (mode: 'write' | 'flushed', seed: number, depth: number): Promise<string> => {
    const words = [scriptPath('crash_writer.py'), mode, disk.uri, `${seed}`, `${depth}`, `${300 + 211 * seed}`];
    const writer = await startClient(words);
    expect(writer.lines[0]).toBe('going');
    await disk.kill();
    await writer.closed;
    return writer.lines.at(-1) ?? '[]';
  };

  const check = (seed: number, acknowledged: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const child = execFile(PYTHON, [scriptPath('crash_writer.py'), 'check', disk.uri, `${seed}`], (error, stdout) =>
        error === null ? resolve(stdout) : reject(new Error(`${stdout} ${error.message}`)),
      );
      child.stdin?.end(acknowledged);
    });

  it('kill -9 of the server in the middle of writes: everything acknowledged is there, round after round', async () => {
    const rounds: string[] = [];
    for (const [seed, depth] of [1, 16, 64, 16, 4].entries()) {
      rounds.push(await crash('write', seed, depth));
      await disk.start();
      expect(await check(seed, rounds[seed] ?? '')).toMatch(/wrong 0/);
    }
  });

  it('kill -9 in the middle of writes and flushes, then a clean stop: the disk opens each time', async () => {
    for (const seed of [11, 12]) {
      const acknowledged = await crash('flushed', seed, 16);
      await disk.start();
      expect(await check(seed, acknowledged)).toMatch(/wrong 0/);
      await disk.stop();
      await disk.start();
      expect(await check(seed, acknowledged)).toMatch(/wrong 0/);
    }
  });

  it('a client that dies in the middle of its requests leaves the server serving, and its acknowledged writes there', async () => {
    const writer = await startClient([scriptPath('crash_writer.py'), 'write', disk.uri, '3', '64', '500']);
    writer.child.kill('SIGKILL');
    await writer.ended;
    await disk.run('qemu-io', '-f', 'raw', '-c', 'write -P 0x77 0 1M', '-c', 'read -P 0x77 0 1M', disk.uri);
    await disk.run('nbdinfo', disk.uri);
  });

  it('a client that never reads its replies does not disturb another one', async () => {
    const lazy = await startClient([scriptPath('lazy_reader.py'), disk.uri]);
    expect(lazy.lines[0]).toBe('going');
    await disk.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', disk.image, disk.uri);
    lazy.child.kill('SIGKILL');
    await lazy.ended;
    await disk.run('nbdinfo', disk.uri);
  });

  it('a second server on the same overlay is refused with in-use, and the first goes on', async () => {
    const words = ['--file', disk.image, '--socket', `${disk.socket}2`, '--overlay', disk.overlay];
    const { SERVE_FILE } = await import('../bench/nbd/serve-file-path.js');
    for (const koffi of ['0', '1']) {
      const second = spawn(process.execPath, [SERVE_FILE, ...words], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, COLLECTIVE_NO_KOFFI: koffi },
      });
      let said = '';
      second.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
      const [code] = await once(second, 'close');
      expect(code).toBe(1);
      expect(said).toContain('in-use');
    }
    await disk.run('nbdinfo', disk.uri);
  });
});
