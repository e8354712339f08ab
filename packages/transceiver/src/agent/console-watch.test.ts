import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { readableTail, watchConsole } from './console-watch.js';

const wanted = { name: 'demo', text: 'login', timeoutMs: 60_000, signal: new AbortController().signal };

describe('watchConsole', () => {
  it('sees a prompt that comes in pieces', async () => {
    const console = new PassThrough();
    const watching = watchConsole(console, wanted);
    console.write('Debian GNU/Linux 12 debian ttyS0\r\n\r\ndebian lo');
    console.write('gin: ');
    await watching;
  });

  it('takes other text as it stands', async () => {
    const console = new PassThrough();
    const watching = watchConsole(console, { ...wanted, text: 'a.b (c)' });
    console.write('x axb (c) y\r\nx a.b');
    let isSeen = false;
    void watching.then(() => (isSeen = true));
    await setImmediate();
    expect(isSeen).toBe(false);
    console.write(' (c) y');
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

describe('readableTail', () => {
  it('keeps the last lines without control sequences', () => {
    expect(readableTail('one\r\n\u001b[1mtwo\u001b[0m\r\nthree\r\n', 2)).toBe('two\nthree');
  });
});
