import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { consolePattern, readableTail, watchConsole } from './console-watch.js';

const wanted = { name: 'demo', text: 'login', timeoutMs: 60_000, signal: new AbortController().signal };

describe('watchConsole', () => {
  it('sees a prompt that comes in pieces', async () => {
    const console = new PassThrough();
    const watching = watchConsole(console, wanted);
    console.write('Debian GNU/Linux 12 debian ttyS0\r\n\r\ndebian lo');
    console.write('gin: ');
    await watching;
  });

  it('says how the console ended when the machine ends first', async () => {
    const console = new PassThrough();
    const watching = watchConsole(console, wanted);
    console.write('\u001b[31mKernel panic\u001b[0m - not syncing\r\n');
    console.destroy();
    await expect(watching).rejects.toMatchObject({
      code: 'no-boot',
      message: expect.stringContaining('Kernel panic - not syncing'),
    });
  });

  it('ends with the reason of the signal', async () => {
    const controller = new AbortController();
    const watching = watchConsole(new PassThrough(), { ...wanted, signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(watching).rejects.toThrow('enough');
  });
});

describe('consolePattern', () => {
  it('takes a login prompt, not the greeting after it', () => {
    expect(consolePattern('login').test('tiny login: ')).toBe(true);
    expect(consolePattern('login').test('Last login: Fri Nov 20')).toBe(false);
  });

  it('takes other text as it stands', () => {
    expect(consolePattern('a.b (c)').test('x a.b (c) y')).toBe(true);
    expect(consolePattern('a.b').test('axb')).toBe(false);
  });
});

describe('readableTail', () => {
  it('keeps the last lines without control sequences', () => {
    expect(readableTail('one\r\n\u001b[1mtwo\u001b[0m\r\nthree\r\n', 2)).toBe('two\nthree');
  });
});
