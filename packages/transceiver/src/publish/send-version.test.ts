import { expect, it } from 'vitest';
import { checkNextVersion } from './send-version.js';

it('takes the number that the repository gives, when candidates can have used up those before', () => {
  expect(checkNextVersion('demo', 1, undefined)).toBe(1);
  expect(checkNextVersion('demo', 8, 4)).toBe(8);
});

it('takes none that has been used, and none that would leave no number for later', () => {
  for (const version of [3, 4, 20_000, 2 ** 31 - 1])
    expect(() => checkNextVersion('demo', version, 4)).toThrow(expect.objectContaining({ code: 'untrusted' }));
});
