import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ERROR_TABLE } from '@collective/shared';
import { EXIT_CODES, codesWithExitCode, exitCodeOf } from './exit-codes.js';
import { buildProgram, main } from './main.js';
import { table } from './table.js';

const document = readFileSync(new URL('../../../../docs/cli.md', import.meta.url), 'utf8');

describe('docs/cli.md', () => {
  it('has the exit codes of the table, and no others', () => {
    const rows = [...document.matchAll(/^\| (\d+) \| (.*) \|$/gm)].map((row) => [Number(row[1]), row[2]]);
    expect(Object.fromEntries(rows)).toEqual(EXIT_CODES);
  });

  it('has every command, and no others', () => {
    const documented = [...document.matchAll(/^\| `collective ([a-z-]+)/gm)].map((row) => row[1]);
    expect(documented).toEqual(buildProgram().commands.map((command) => command.name()));
  });
});

describe('exit codes', () => {
  it('every error of the error table has one, and the table has no other', () => {
    expect(codesWithExitCode().sort()).toEqual(Object.keys(ERROR_TABLE).sort());
  });

  it('what is not to be trusted never looks like a network failure', () => {
    for (const code of [
      'wrong-server',
      'untrusted',
      'rollback',
      'bad-signature',
      'weak-password-parameters',
    ] as const) {
      expect(exitCodeOf(code)).toBe(8);
    }
  });
});

describe('the options', () => {
  it('global ones are taken before and behind the command', async () => {
    for (const words of [
      ['--json', '--home', '/h', 'status'],
      ['status', '--json', '--home', '/h'],
    ]) {
      const program = buildProgram();
      let seen: unknown;
      program.commands
        .find((command) => command.name() === 'status')
        ?.action((_options, command: { optsWithGlobals: () => unknown }) => {
          seen = command.optsWithGlobals();
        });
      await program.parseAsync(words, { from: 'user' });
      expect(seen).toMatchObject({ json: true, home: '/h' });
    }
  });

  it('several disks are collected', async () => {
    const program = buildProgram();
    let seen: unknown;
    program.commands
      .find((command) => command.name() === 'publish')
      ?.action((_name, options: unknown) => {
        seen = options;
      });
    await program.parseAsync(['publish', 'x', '--disk', 'system=a', '--disk', 'user=b', '--no-boot-test'], {
      from: 'user',
    });
    expect(seen).toMatchObject({ disk: ['system=a', 'user=b'], bootTest: false });
  });
});

describe('table', () => {
  it('makes columns as wide as their widest cell and leaves no trailing space', () => {
    expect(
      table(
        ['A', 'LONG'],
        [
          ['xyz', '1'],
          ['q', ''],
        ],
      ),
    ).toBe('A    LONG\nxyz  1\nq');
  });
});

describe('wrong use with --json', () => {
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = undefined;
  });

  it.each([
    [['--json', 'zzzzzzzz'], "unknown command 'zzzzzzzz'"],
    [['start', '--json'], "missing required argument 'names'"],
    [['status', '--bogus', '--json'], "unknown option '--bogus'"],
    [['--json'], 'Say which command.'],
  ])('%j prints one JSON value on stdout, as every error does', async (words, message) => {
    let printed = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => (printed += String(text)) !== '');
    vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    await main(words);
    expect(JSON.parse(printed)).toEqual({ error: { code: 'usage', message, hint: 'See --help.', data: {} } });
    expect(process.exitCode).toBe(2);
  });
});
