import { expect, test } from 'vitest';
import { dataText } from './data-text.js';

const NOW = 1_800_000_000;

test('says when it was saved, by whom, how much is still here and what it waits for', () => {
  const idle = { savedAt: NOW - 20, savedBy: 'office laptop', unsavedBytes: 0, activity: 'idle' } as const;
  expect(dataText(idle, NOW)).toBe('saved 20 s ago by office laptop');
  expect(dataText({ ...idle, unsavedBytes: 12_000_000, activity: 'saving' }, NOW)).toBe(
    'saved 20 s ago by office laptop, 12 MB still here (being saved)',
  );
  expect(dataText({ savedAt: null, savedBy: null, unsavedBytes: 5, activity: 'waiting', why: 'no line' }, NOW)).toBe(
    'never saved, 0.0 MB still here (waits: no line)',
  );
  expect(dataText({ ...idle, savedAt: NOW + 60 }, NOW)).toBe('saved just now by office laptop');
  expect(dataText({ ...idle, savedAt: NOW - 600 }, NOW)).toBe('saved 10 min ago by office laptop');
});
