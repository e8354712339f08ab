import { EventEmitter } from 'node:events';
import { expect, it } from 'vitest';
import { onFirstPrompt } from './prompt-watch.js';

class Printed extends EventEmitter<{ output: [] }> {
  #text = '';
  tail = (bytesMax = 1_000): Buffer => Buffer.from(this.#text.slice(-bytesMax));
  print(text: string): void {
    this.#text += text;
    this.emit('output');
  }
}

it('is called once, at the first prompt, also where it comes in pieces', () => {
  const printed = new Printed();
  let calls = 0;
  onFirstPrompt(printed, new AbortController().signal, () => (calls += 1));
  printed.print('[  OK  ] Reached target login.target\r\nLast login: Fri\r\n');
  expect(calls).toBe(0);
  printed.print('debian log');
  printed.print('in: ');
  expect(calls).toBe(1);
  printed.print('\r\ndebian login: ');
  expect(calls).toBe(1);
  expect(printed.listenerCount('output')).toBe(0);
});

it('is not called when the machine has ended before', () => {
  const printed = new Printed();
  const ended = new AbortController();
  onFirstPrompt(printed, ended.signal, () => expect.fail('it was called'));
  ended.abort();
  printed.print('debian login: ');
  onFirstPrompt(printed, ended.signal, () => expect.fail('it was called'));
  printed.print('debian login: ');
  expect(printed.listenerCount('output')).toBe(0);
});
