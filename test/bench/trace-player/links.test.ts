/** T* is computed for the lines that the emulated link really has. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { LINK } from '../../support/paths.js';
import { LINES } from './links.js';

it("the lines are those of the emulated link's profiles", () => {
  const source = readFileSync(LINK, 'utf8');
  for (const [name, { bitsPerSecond, roundTripMs }] of Object.entries(LINES)) {
    const profile = new RegExp(`^  ${name}: \\{ down: ([\\d.e]+), up: [\\d.e]+, rtt: ([\\d.]+) \\}`, 'm').exec(source);
    expect([Number(profile?.[1]), Number(profile?.[2])], name).toEqual([bitsPerSecond, roundTripMs]);
  }
});
