import { describe, expect, it } from 'vitest';
import { mandatoryNote, mandatoryNotes, resumedNotes } from './mandatory-version.js';

const DAY = 86_400;
const from = 1_900_000_000;
const mark = { appliance: 'demo', version: 5, from, graceDays: 3 };
const start = (version: number, isOnline: boolean, nowSeconds: number): string | undefined =>
  mandatoryNote(mark, { name: 'demo', version, isOnline, nowSeconds });
const outdated = expect.objectContaining({ code: 'outdated' }) as Error;

describe('a mandatory version', () => {
  it('says nothing of itself and of newer ones, nor where nothing is mandatory', () => {
    for (const version of [5, 6]) expect(start(version, true, from + DAY)).toBeUndefined();
    expect(mandatoryNote(undefined, { name: 'demo', version: 1, isOnline: true, nowSeconds: from })).toBeUndefined();
  });

  it('is announced until its date, with and without the repository', () => {
    for (const isOnline of [true, false]) expect(start(4, isOnline, from - 1)).toContain('From ');
  });

  it('is a must from its date on where the repository was reached', () => {
    expect(() => start(4, true, from)).toThrow(outdated);
  });

  it('lets an older one start without the repository for the grace days, to the second', () => {
    expect(start(4, false, from)).toContain('can be started until');
    expect(start(4, false, from + 3 * DAY - 1)).toContain('can be started until');
    expect(() => start(4, false, from + 3 * DAY)).toThrow(outdated);
  });

  it('with no grace days is a must everywhere', () => {
    const none = { ...mark, graceDays: 0 };
    const offline = { name: 'demo', version: 4, isOnline: false, nowSeconds: from };
    expect(() => mandatoryNote(none, offline)).toThrow(outdated);
    expect(mandatoryNote(none, { ...offline, nowSeconds: from - 1 })).toContain('From ');
  });
});

describe('a start', () => {
  const trust = (notBeforeSeconds: number) => ({ mandatory: () => ({ mark, notBeforeSeconds }) });

  it('is not earlier than the newest heads, whatever the clock says', () => {
    const offline = { name: 'demo', version: 4, isOnline: false };
    // The clock of this machine is years before the date.
    expect(mandatoryNotes(trust(0), offline)).toHaveLength(1);
    expect(() => mandatoryNotes(trust(from + 4 * DAY), offline)).toThrow(outdated);
    expect(mandatoryNotes(trust(from + 4 * DAY), { ...offline, version: 5 })).toEqual([]);
  });

  it('of one that was suspended goes on, with a note', () => {
    expect(resumedNotes(trust(from + 4 * DAY), { name: 'demo', version: 4 })).toHaveLength(1);
    expect(resumedNotes(trust(from), { name: 'demo', version: 5 })).toEqual([]);
  });
});
