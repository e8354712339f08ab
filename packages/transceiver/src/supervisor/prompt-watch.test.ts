import { EventEmitter } from 'node:events';
import { expect, it } from 'vitest';
import { onFirstPrompt } from './prompt-watch.js';

const watched = () => {
  const console = new EventEmitter<{ output: [data: Buffer] }>();
  const seen = { calls: 0 };
  const print = (text: string): void => void console.emit('output', Buffer.from(text));
  const watch = (): (() => void) => onFirstPrompt(console, () => (seen.calls += 1));
  return { console, seen, print, watch };
};

it('is called once, at the first prompt, also where it comes in pieces', () => {
  const { console, seen, print, watch } = watched();
  watch();
  print('[  OK  ] Reached target login.target\r\nLast login: Fri\r\n');
  expect(seen.calls).toBe(0);
  print('debian log');
  print('in: ');
  expect(seen.calls).toBe(1);
  print('\r\ndebian login: ');
  expect(seen.calls).toBe(1);
  expect(console.listenerCount('output')).toBe(0);
});

it('takes the prompt of an earlier boot for none', () => {
  const { seen, print, watch } = watched();
  print('debian login: ');
  watch();
  print('SeaBIOS');
  expect(seen.calls).toBe(0);
  print('\r\ndebian login: ');
  expect(seen.calls).toBe(1);
});

it('is not called any more when it is left', () => {
  const { console, seen, print, watch } = watched();
  watch()();
  print('debian login: ');
  expect([seen.calls, console.listenerCount('output')]).toEqual([0, 0]);
});
